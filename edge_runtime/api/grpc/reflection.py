"""gRPC's reflection, v1 and v1alpha: which services there are, and the files that describe them.

A client asks over a stream; each file goes out with those it imports that this stream has not had. Answers and texts
are grpc-go's, because that is what Dapr's clients meet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from google.protobuf import descriptor_pool
from grpclib import GRPCError, Status

from edge_runtime.proto.grpc.reflection.v1 import reflection_grpc as v1_grpc
from edge_runtime.proto.grpc.reflection.v1 import reflection_pb2 as v1
from edge_runtime.proto.grpc.reflection.v1alpha import reflection_grpc as v1alpha_grpc
from edge_runtime.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from grpclib.const import Handler

    from edge_runtime.net.grpc.server import ServerCall

_NOT_FOUND: Final = "proto: not found"


class Service(Protocol):
    """What generated bases have."""

    def __mapping__(self) -> dict[str, Handler]: ...


class Reflection(v1_grpc.ServerReflectionBase):
    """`grpc.reflection.v1.ServerReflection`."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    async def ServerReflectionInfo(self, stream: ServerCall) -> None:
        await _answer(stream, v1, self.names)


class ReflectionAlpha(v1alpha_grpc.ServerReflectionBase):
    """`grpc.reflection.v1alpha.ServerReflection`, which differs in its name only."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    async def ServerReflectionInfo(self, stream: ServerCall) -> None:
        await _answer(stream, v1alpha, self.names)


def reflection_services(services: Iterable[Service]) -> tuple[Service, Service]:
    """Both versions, which list `services` and themselves."""
    names: list[str] = []
    both = Reflection(names), ReflectionAlpha(names)
    names += sorted({path.split("/")[1] for service in (*services, *both) for path in service.__mapping__()})
    return both


async def _answer(stream: ServerCall, messages: Any, names: list[str]) -> None:
    """`messages` is the module of the version that is spoken."""
    sent: set[str] = set()
    async for request in stream:
        response = messages.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            _fill(response, request, names, sent)
        except KeyError:
            response.error_response.error_code = Status.NOT_FOUND.value
            response.error_response.error_message = _NOT_FOUND
        await stream.send_message(response)


def _fill(response: Any, request: Any, names: list[str], sent: set[str]) -> None:
    """Raises KeyError for what there is not."""
    pool = descriptor_pool.Default()
    asked = request.WhichOneof("message_request")
    if asked == "list_services":
        response.list_services_response.SetInParent()
        for name in names:
            response.list_services_response.service.add(name=name)
    elif asked == "file_by_filename":
        _add_files(response, pool.FindFileByName(request.file_by_filename), sent)
    elif asked == "file_containing_symbol":
        _add_files(response, _file_of(request.file_containing_symbol), sent)
    elif asked == "file_containing_extension":
        extension = request.file_containing_extension
        extended = pool.FindMessageTypeByName(extension.containing_type)
        found: Any = pool.FindExtensionByNumber(extended, extension.extension_number)
        _add_files(response, found.file, sent)
    elif asked == "all_extension_numbers_of_type":
        name = request.all_extension_numbers_of_type
        extensions = pool.FindAllExtensions(pool.FindMessageTypeByName(name))
        response.all_extension_numbers_response.base_type_name = name
        response.all_extension_numbers_response.extension_number.extend(sorted(each.number for each in extensions))
    else:
        raise GRPCError(Status.INVALID_ARGUMENT, "invalid MessageRequest: <nil>")


def _file_of(symbol: str) -> FileDescriptor:
    """The file of a message, a field, a service, …; the pool itself knows all but the methods of a service."""
    pool = descriptor_pool.Default()
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        service, _, method = symbol.rpartition(".")
        found = pool.FindServiceByName(service)
        if method not in found.methods_by_name:
            raise
        return found.file


def _add_files(response: Any, file: FileDescriptor, sent: set[str]) -> None:
    """The file even if it was sent before, then what it imports, near before far, if it was not."""
    files = response.file_descriptor_response.file_descriptor_proto
    waiting = deque([file])
    while waiting:
        current = waiting.popleft()
        if current.name in sent and files:
            continue
        sent.add(current.name)
        files.append(current.serialized_pb)
        waiting.extend(current.dependencies)
