"""Output bindings over gRPC through the face."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from grpclib.const import Status

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.bindings import Bindings, BoundBinding
from edge_runtime.model.errors import BindingFailed
from edge_runtime.model.ports import BindingResponse
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.runtime.v1.binding_pb2 import InvokeBindingRequest, InvokeBindingResponse
from tests.support.grpc_call import FakeCall, answer, reason
from tests.unit.blocks.bindings.fakes import FakeOutput

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def ask(output: FakeOutput, request: InvokeBindingRequest, metadata: Any = ()) -> FakeCall:
    blocks: Any = SimpleNamespace(bindings=Bindings({"b": BoundBinding("b", "b", None, output)}))
    face = GrpcFace(blocks, FaceSettings(), Tracer(None), None, None)
    return await answer(face, FakeCall("InvokeBinding", request, metadata))


async def test_bytes_go_there_and_back() -> None:
    output = FakeOutput(BindingResponse(b"\xff", {"statusCode": "200", "Ünique": "x", "note": "é"}))
    call = await ask(output, InvokeBindingRequest(name="b", operation="create", data=b"\0", metadata={"k": "v"}))
    assert output.came[0][:2] == ("create", b"\0")
    shown = {"statusCode": "200", "Ünique": "x", "note": "é"}
    assert call.replies == [InvokeBindingResponse(data=b"\xff", metadata=shown)]
    assert call.initial == {"metadata.statuscode": "200", "metadata.note": "?"}


async def test_nothing_returned_is_empty() -> None:
    call = await ask(FakeOutput(), InvokeBindingRequest(name="b", operation="create"))
    assert call.replies == [InvokeBindingResponse()]


async def test_metadata_of_the_call_go_along() -> None:
    output = FakeOutput()
    sent = [
        *(("traceparent", TRACE), ("k", "call"), ("user-agent", "me"), ("grpc-x", "1"), ("x-bin", b"\0"), ("k", "2")),
        ("baggage", "a=b"),
    ]
    await ask(output, InvokeBindingRequest(name="b", operation="create", metadata={"k": "request"}), sent)
    assert output.came[0][2] == {
        "traceparent": TRACE,
        "k": "request",
        "user-agent": "me",
        "dapr-grpc-x": "1",
        "dapr-authority": "localhost",
        "baggage": "a=b",
    }


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("", "error invoking output binding b: operation field is missing from request"),
        (
            "x",
            "error invoking output binding b: binding b does not support operation x. supported operations:create get",
        ),
    ],
)
async def test_mistakes_are_told(operation: str, text: str) -> None:
    call = await ask(FakeOutput(), InvokeBindingRequest(name="b", operation=operation))
    assert (call.status, call.message, reason(call.details)) == (Status.INTERNAL, text, "ERR_INVOKE_OUTPUT_BINDING")


async def test_a_failure_has_metadata_too() -> None:
    output = FakeOutput(BindingFailed("no", metadata={"statusCode": "404"}))
    call = await ask(output, InvokeBindingRequest(name="b", operation="get"))
    assert call.status is Status.INTERNAL
    assert call.initial == {"metadata.statuscode": "404"}
