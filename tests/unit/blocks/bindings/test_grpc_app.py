"""Events as calls of `OnBindingEvent`, and what a reply sends on."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message

from edge_runtime.blocks.bindings import Bindings, BoundBinding
from edge_runtime.blocks.bindings.app import Event
from edge_runtime.blocks.bindings.grpc_app import EVENT, LIST, GrpcBindingApp
from edge_runtime.model.errors import DriverError
from edge_runtime.observability.trace import Tracer, binary_of
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    BindingEventRequest,
    BindingEventResponse,
    ListInputBindingsResponse,
)
from tests.unit.blocks.bindings.fakes import FakeOutput

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Caller:
    def __init__(self, reply: Message | DriverError) -> None:
        self.reply = reply
        self.calls: list[tuple[str, Message, dict[str, str | bytes]]] = []

    async def unary(
        self,
        path: str,
        request: Message,
        reply_type: type[Message],
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> Any:
        self.calls.append((path, request, dict(metadata)))
        if isinstance(self.reply, DriverError):
            raise self.reply
        assert isinstance(self.reply, reply_type)
        return SimpleNamespace(message=self.reply)


def app(reply: Message | DriverError, *outputs: tuple[str, FakeOutput]) -> tuple[GrpcBindingApp, Caller]:
    caller = Caller(reply)
    bound = {name: BoundBinding(name, name, None, output) for name, output in outputs}
    return GrpcBindingApp(caller, Tracer(None), Bindings(bound)), caller


async def test_the_list_is_asked_for_once() -> None:
    asked, caller = app(ListInputBindingsResponse(bindings=["b"]))
    assert await asked.takes("b", "r")
    assert not await asked.takes("other", "r")
    assert [path for path, *_ in caller.calls] == [LIST]


async def test_an_error_lists_nothing() -> None:
    asked, _ = app(DriverError("unimplemented", code=12))
    assert not await asked.takes("b", "r")


async def test_an_event_has_name_data_metadata_and_trace() -> None:
    told, caller = app(BindingEventResponse(data=b"answer"))
    metadata = {"Topic": "t", "traceparent": TRACE, "tracestate": "a=1", "note": "é"}
    assert await told.deliver(Event("b", "r", b"\0", metadata), strict=True) == b"answer"
    ((path, request, sent),) = caller.calls
    assert path == EVENT
    assert request == BindingEventRequest(name="b", data=b"\0", metadata=metadata)
    assert sent == {
        "topic": "t",
        "note": "?",
        "traceparent": TRACE,
        "grpc-trace-bin": binary_of(TRACE),
        "tracestate": "a=1",
    }


async def test_the_apps_error_is_the_drivers() -> None:
    told, _ = app(DriverError("no", code=13))
    with pytest.raises(DriverError, match="no"):
        await told.deliver(Event("b", "r", b"", {}), strict=False)


@pytest.mark.parametrize("concurrency", [BindingEventResponse.SEQUENTIAL, BindingEventResponse.PARALLEL])
async def test_a_reply_reaches_the_outputs_it_names(concurrency: Any) -> None:
    first, second = FakeOutput(), FakeOutput()
    reply = BindingEventResponse(to=["x", "y"], data=b'{"a":1}', concurrency=concurrency)
    told, _ = app(reply, ("x", first), ("y", second))
    assert await told.deliver(Event("b", "r", b"", {}), strict=False) == b'{"a":1}'
    assert first.came == second.came == [("create", b'{"a":1}', {})]


async def test_a_failed_output_ends_the_sequence_not_the_event() -> None:
    first, second = FakeOutput(DriverError("full")), FakeOutput()
    told, _ = app(BindingEventResponse(to=["x", "y"]), ("x", first), ("y", second))
    assert await told.deliver(Event("b", "r", b"", {}), strict=False) == b""
    assert first.came == [("create", b"null", {})]
    assert not second.came


async def test_a_failed_output_holds_up_no_parallel_one() -> None:
    second = FakeOutput()
    reply = BindingEventResponse(to=["missing", "y"], concurrency=BindingEventResponse.PARALLEL)
    told, _ = app(reply, ("y", second))
    await told.deliver(Event("b", "r", b"", {}), strict=False)
    assert len(second.came) == 1
