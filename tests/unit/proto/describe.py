"""What files of messages and services say, as plain values. Imports none of them: each process has its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

OURS = ("dapr/",)


def described(files: Iterable[FileDescriptor]) -> dict[str, dict[str, Any]]:
    """Messages, enums and rpcs by their full names, of the files and all that they import."""
    found: dict[str, dict[str, Any]] = {"messages": {}, "enums": {}, "rpcs": {}}
    for file in _with_imports(files):
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        for message in file.message_types_by_name.values():
            _add_message(found, message)
        for enum in file.enum_types_by_name.values():
            _add_enum(found, enum)
        for service in file.services_by_name.values():
            for method in service.methods:
                found["rpcs"][method.full_name] = [
                    method.input_type.full_name,
                    method.output_type.full_name,
                    method.client_streaming,
                    method.server_streaming,
                    method.GetOptions().deprecated,
                ]
    return found


def _with_imports(files: Iterable[FileDescriptor]) -> Iterator[FileDescriptor]:
    seen: set[str] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file.name not in seen and file.name.startswith(OURS):
            seen.add(file.name)
            waiting.extend(file.dependencies)
            yield file


def _add_message(found: dict[str, dict[str, Any]], message: Descriptor) -> None:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    found["messages"][message.full_name] = {
        "file": message.file.name,
        "fields": [_field(field) for field in message.fields],
        "map entry": proto.options.map_entry,
    }
    for nested in message.nested_types:
        _add_message(found, nested)
    for enum in message.enum_types:
        _add_enum(found, enum)


def _field(field: FieldDescriptor) -> list[Any]:
    of = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return [
        field.number,
        field.name,
        field.json_name,
        field.type,
        field.is_repeated,
        None if of is None else of.full_name,
        field.has_presence,
        None if oneof is None else oneof.name,
        field.GetOptions().deprecated,
    ]


def _add_enum(found: dict[str, dict[str, Any]], enum: EnumDescriptor) -> None:
    found["enums"][enum.full_name] = [[value.number, value.name] for value in enum.values]
