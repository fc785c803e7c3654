"""A gRPC service of its own for the proxy: the four call kinds over StringValue, without generated code.

`add_to` puts it into a server, `stubs` gives what a client calls. Nothing of it knows the sidecar.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from lines import say

SERVICE = "sdk.test.Echo"
Context = grpc.ServicerContext


def one(request: StringValue, context: Context) -> StringValue:
    return StringValue(value=request.value)


def several(request: StringValue, context: Context) -> Iterator[StringValue]:
    for n in range(int(request.value)):
        yield StringValue(value=str(n))


def joined(requests: Iterator[StringValue], context: Context) -> StringValue:
    return StringValue(value=",".join(request.value for request in requests))


def each(requests: Iterator[StringValue], context: Context) -> Iterator[StringValue]:
    yield from requests


def headers(request: StringValue, context: Context) -> StringValue:
    """Answers with the metadata that came; sends some before and some after."""
    came = [[key, value if isinstance(value, str) else value.hex()] for key, value in context.invocation_metadata()]
    context.send_initial_metadata((("x-first", "before"), ("x-first-bin", b"\x00\xff")))
    context.set_trailing_metadata((("x-last", "after"), ("x-last-bin", b"\xfe\x01")))
    return StringValue(value=json.dumps({"metadata": came, "deadline": context.time_remaining() is not None}))


def fail(request: StringValue, context: Context) -> StringValue:
    """A refusal with details, text beyond ASCII and a trailer of its own."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="OWN_REASON", domain="sdk.test", metadata={"asked": request.value}))
    message = "nicht möglich: 100 % 🌍"
    status = status_pb2.Status(code=grpc.StatusCode.OUT_OF_RANGE.value[0], message=message, details=[detail])
    refused = rpc_status.to_status(status)
    context.abort_with_status(
        refused._replace(trailing_metadata=(*refused.trailing_metadata, ("x-last", "after the refusal")))
    )


def break_off(request: StringValue, context: Context) -> Iterator[StringValue]:
    """Two answers, then a refusal."""
    yield from (StringValue(value="1"), StringValue(value="2"))
    context.abort(grpc.StatusCode.DATA_LOSS, "no more")


def hang(request: StringValue, context: Context) -> Iterator[StringValue]:
    """Answers once and then waits until the caller gives up, which it says."""
    gone = threading.Event()
    if not context.add_callback(gone.set):
        gone.set()
    yield StringValue(value="hanging")
    if gone.wait(20):
        say("gone", request.value)


_KINDS: dict[str, tuple[Any, Any]] = {
    "One": (grpc.unary_unary_rpc_method_handler, one),
    "Several": (grpc.unary_stream_rpc_method_handler, several),
    "Joined": (grpc.stream_unary_rpc_method_handler, joined),
    "Each": (grpc.stream_stream_rpc_method_handler, each),
    "Headers": (grpc.unary_unary_rpc_method_handler, headers),
    "Fail": (grpc.unary_unary_rpc_method_handler, fail),
    "BreakOff": (grpc.unary_stream_rpc_method_handler, break_off),
    "Hang": (grpc.unary_stream_rpc_method_handler, hang),
}


def add_to(_: object, server: grpc.Server) -> None:
    handlers = {
        name: kind(function, StringValue.FromString, StringValue.SerializeToString)
        for name, (kind, function) in _KINDS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class Stubs(NamedTuple):
    one: Any
    several: Any
    joined: Any
    each: Any
    headers: Any
    fail: Any
    break_off: Any
    hang: Any


def stubs(channel: Any) -> Stubs:
    """For a blocking or an asyncio channel alike."""
    kinds = (
        *((channel.unary_unary, "One"), (channel.unary_stream, "Several"), (channel.stream_unary, "Joined")),
        *((channel.stream_stream, "Each"), (channel.unary_unary, "Headers"), (channel.unary_unary, "Fail")),
        *((channel.unary_stream, "BreakOff"), (channel.unary_stream, "Hang")),
    )
    return Stubs(
        *(
            kind(
                f"/{SERVICE}/{name}",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
            )
            for kind, name in kinds
        )
    )
