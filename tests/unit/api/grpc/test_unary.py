"""Unary rpcs in the form of a generated base."""

from __future__ import annotations

from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from grpclib.const import Cardinality, Handler, Status

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.model.trace import NO_TRACE
from tests.support.grpc_call import FakeCall


class Echo:
    @unary
    async def Get(self, call: RpcCall, request: StringValue) -> StringValue:
        """The same."""
        assert call.trace is NO_TRACE
        call.set_header("a", str(call.get("x")))
        call.set_trailer("b", "2")
        return request


async def test_a_unary_rpc_serves_a_stream() -> None:
    stream: Any = FakeCall("Get", StringValue(value="x"), [("x", "1")])
    echo = Echo()
    stream.bind(Handler(echo.Get, Cardinality.UNARY_UNARY, StringValue, StringValue))
    await echo.Get(stream)
    assert (stream.status, stream.replies) == (Status.OK, [StringValue(value="x")])
    assert (stream.initial, stream.trailing) == ({"a": "1"}, {"b": "2"})


def test_a_unary_rpc_keeps_its_name() -> None:
    assert (Echo.Get.__name__, Echo.Get.__doc__) == ("Get", "The same.")
    assert hasattr(Echo.Get, "unary")
