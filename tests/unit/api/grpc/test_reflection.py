from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.message import Message
from grpclib import GRPCError, Status

from edge_runtime.api.grpc.reflection import Service, reflection_services
from edge_runtime.proto.dapr.proto.runtime.v1.dapr_grpc import DaprBase
from edge_runtime.proto.grpc.reflection.v1 import reflection_pb2 as v1
from edge_runtime.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha

STATE = "dapr/proto/runtime/v1/state.proto"
COMMON = "dapr/proto/common/v1/common.proto"


class FakeDapr:
    """The Dapr service, of which only the names of its rpcs are asked."""

    def __mapping__(self) -> Any:
        handlers: Any = type("Rpcs", (DaprBase,), dict.fromkeys(DaprBase.__abstractmethods__))()
        return handlers.__mapping__()


class FakeStream:
    """What a client asks, then its end; what it is answered."""

    def __init__(self, requests: list[Message]) -> None:
        self.requests = requests
        self.responses: list[Any] = []

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Message:
        if not self.requests:
            raise StopAsyncIteration
        return self.requests.pop(0)

    async def send_message(self, message: Message) -> None:
        self.responses.append(message)


def both() -> tuple[Any, Any]:
    served: Service = FakeDapr()
    return reflection_services((served,))


async def ask(*requests: v1.ServerReflectionRequest) -> list[v1.ServerReflectionResponse]:
    stream = FakeStream(list(requests))
    await both()[0].ServerReflectionInfo(stream)
    return stream.responses


def files_of(response: v1.ServerReflectionResponse) -> list[str]:
    return [
        FileDescriptorProto.FromString(file).name for file in response.file_descriptor_response.file_descriptor_proto
    ]


@pytest.mark.parametrize(("version", "messages"), [(0, v1), (1, v1alpha)])
async def test_services_are_listed_in_both_versions(version: int, messages: Any) -> None:
    stream = FakeStream([messages.ServerReflectionRequest(host="h", list_services="*")])
    await both()[version].ServerReflectionInfo(stream)
    (response,) = stream.responses
    assert response.valid_host == "h"
    assert response.original_request.list_services == "*"
    assert [service.name for service in response.list_services_response.service] == [
        "dapr.proto.runtime.v1.Dapr",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


async def test_a_file_comes_with_its_imports() -> None:
    (response,) = await ask(v1.ServerReflectionRequest(file_by_filename=STATE))
    assert files_of(response) == [
        STATE,
        COMMON,
        "google/protobuf/any.proto",
        "google/protobuf/duration.proto",
    ]


async def test_no_import_is_sent_twice() -> None:
    asked = [STATE, COMMON, "dapr/proto/runtime/v1/jobs.proto"]
    responses = await ask(*(v1.ServerReflectionRequest(file_by_filename=name) for name in asked))
    assert [files_of(response) for response in responses[1:]] == [[COMMON], [asked[2]]]


@pytest.mark.parametrize(
    "symbol",
    [
        "dapr.proto.runtime.v1.GetStateRequest",
        "dapr.proto.runtime.v1.GetStateRequest.key",
        "dapr.proto.runtime.v1.GetStateRequest.MetadataEntry",
    ],
)
async def test_a_symbol_is_found_in_its_file(symbol: str) -> None:
    (response,) = await ask(v1.ServerReflectionRequest(file_containing_symbol=symbol))
    assert files_of(response)[0] == STATE


@pytest.mark.parametrize("symbol", ["dapr.proto.runtime.v1.Dapr", "dapr.proto.runtime.v1.Dapr.GetState"])
async def test_services_and_methods_are_symbols(symbol: str) -> None:
    (response,) = await ask(v1.ServerReflectionRequest(file_containing_symbol=symbol))
    assert files_of(response)[0] == "dapr/proto/runtime/v1/dapr.proto"


async def test_reflection_describes_itself() -> None:
    symbol = "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo"
    (response,) = await ask(v1.ServerReflectionRequest(file_containing_symbol=symbol))
    assert files_of(response) == ["grpc/reflection/v1alpha/reflection.proto"]


@pytest.mark.parametrize(
    "request_",
    [
        v1.ServerReflectionRequest(file_by_filename="none.proto"),
        v1.ServerReflectionRequest(file_containing_symbol="none"),
        v1.ServerReflectionRequest(file_containing_symbol="dapr.proto.runtime.v1.Dapr.None"),
        v1.ServerReflectionRequest(all_extension_numbers_of_type="none"),
        v1.ServerReflectionRequest(
            file_containing_extension=v1.ExtensionRequest(containing_type="none", extension_number=1)
        ),
        v1.ServerReflectionRequest(
            file_containing_extension=v1.ExtensionRequest(
                containing_type="dapr.proto.runtime.v1.GetStateRequest", extension_number=1
            )
        ),
    ],
)
async def test_what_there_is_not_is_not_found(request_: v1.ServerReflectionRequest) -> None:
    first, second = await ask(request_, v1.ServerReflectionRequest(file_by_filename=COMMON))
    assert first.original_request == request_
    assert (first.error_response.error_code, first.error_response.error_message) == (5, "proto: not found")
    assert files_of(second)[0] == COMMON


async def test_a_message_may_have_no_extensions() -> None:
    name = "dapr.proto.runtime.v1.GetStateRequest"
    (response,) = await ask(v1.ServerReflectionRequest(all_extension_numbers_of_type=name))
    assert response.WhichOneof("message_response") == "all_extension_numbers_response"
    assert response.all_extension_numbers_response.base_type_name == name
    assert not response.all_extension_numbers_response.extension_number


async def test_extensions_are_known_by_number() -> None:
    # `google.api.http`, an option of methods, is what most know as an extension; it is there when someone loaded it.
    annotations = pytest.importorskip("google.api.annotations_pb2")
    number = annotations.http.number
    extended = MethodOptions.DESCRIPTOR.full_name
    numbers, file = await ask(
        v1.ServerReflectionRequest(all_extension_numbers_of_type=extended),
        v1.ServerReflectionRequest(
            file_containing_extension=v1.ExtensionRequest(containing_type=extended, extension_number=number)
        ),
    )
    assert number in numbers.all_extension_numbers_response.extension_number
    assert files_of(file)[0] == "google/api/annotations.proto"


async def test_an_empty_question_ends_the_call() -> None:
    with pytest.raises(GRPCError) as caught:
        await ask(v1.ServerReflectionRequest())
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.message == "invalid MessageRequest: <nil>"
