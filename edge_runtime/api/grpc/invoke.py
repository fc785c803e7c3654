"""Service invocation over gRPC: `InvokeService`, which older SDKs call. New ones use the proxy beside this module."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.api.grpc.errors import http_error
from edge_runtime.api.grpc.unary import Pair, RpcCall, unary
from edge_runtime.channel.on_invoke import crossing, renamed
from edge_runtime.model.errors import BodyTooLarge, DriverError, EdgeError, Kind
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.net.grpc.client import RpcError
from edge_runtime.observability.trace import binary_of
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import HTTPExtension, InvokeRequest, InvokeResponse
from edge_runtime.wire.headers import metadata_headers, response_headers
from edge_runtime.wire.paths import clean

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.blocks.invoke import Callee, GrpcApp, Invoker
    from edge_runtime.proto.dapr.proto.runtime.v1.invoke_pb2 import InvokeServiceRequest

_HTTP_STATUS: Final = "dapr-http-status"
_TRACE: Final = frozenset(("traceparent", "tracestate", "grpc-trace-bin"))
# Ours to say on the way to the app, whoever said it before.
_OWN: Final = frozenset(("dapr-app-id", "dapr-caller-app-id", "dapr-caller-namespace", "dapr-callee-app-id"))
_REFUSED_VERBS: Final = (HTTPExtension.NONE, HTTPExtension.CONNECT)
_NAME: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_PROTOBUF: Final = "application/x-protobuf"
_BLANKED: Final = dict.fromkeys((*range(32), 127), " ")


class InvokeRpcs:
    """The rpc of service invocation."""

    blocks: Blocks

    @unary
    async def InvokeService(self, call: RpcCall, request: InvokeServiceRequest) -> InvokeResponse:
        """Call a method of another app, whichever protocol it speaks, or of an HTTP endpoint."""
        invoker = self.blocks.invoker
        target = request.id
        try:
            callee = await invoker.find(target) if invoker.names_app(target) else None
            if callee is None or callee.peer.grpc is None or call.get("edge-queue") is not None:
                return await _over_http(invoker, call, target, request.message)
            return await _over_grpc(invoker, call, callee, callee.peer.grpc, request.message)
        except DriverError as error:
            raise EdgeError(Kind.INVOKE_FAILED, f"failed to invoke, id: {target}, err: {error}") from error


# --- an app that speaks gRPC ------------------------------------------------------------------------------------------


async def _over_grpc(
    invoker: Invoker, call: RpcCall, callee: Callee, app: GrpcApp, message: InvokeRequest
) -> InvokeResponse:
    """`OnInvoke` at the app. Its headers, trailers and error are the caller's; its deadline is not the app's."""
    started = time.monotonic()
    if not callee.own:
        _ask_access_control(invoker, callee, message, started)
    code = Status.UNKNOWN.value
    try:
        reply = await invoker.run(
            callee, partial(app.on_invoke, message, _metadata(call, invoker.introduction(callee)))
        )
        code = Status.OK.value
    except RpcError as error:
        code = error.code
        _answer(call, error.initial, error.trailing)
        raise GRPCError(_status(code), error.message, error.details or None) from error
    finally:
        if not callee.own:
            invoker.answered(callee.peer, str(code), "unary", started)
    _answer(call, reply.initial, reply.trailing)
    return reply.message


def _ask_access_control(invoker: Invoker, callee: Callee, message: InvokeRequest, started: float) -> None:
    operation = "/" + clean(message.method.encode()).decode()
    detail = invoker.refusal(callee.peer, operation, _verb(message) or "NONE", "unary")
    if detail:
        invoker.answered(callee.peer, str(Status.PERMISSION_DENIED.value), "unary", started)
        raise EdgeError(Kind.INVOKE_DENIED, f"failed to invoke, id: {callee.target}, err: {detail}")


def _metadata(call: RpcCall, introduction: Iterable[Header]) -> list[Pair]:
    """What the app is told: the caller's metadata, and beside it what is ours to say."""
    trace = call.trace
    traced = bool(trace.traceparent)
    pairs = [pair for pair in call.metadata if pair[0] not in _OWN and not (traced and pair[0] in _TRACE)]
    pairs.append((":authority", call.stream.authority))
    pairs = crossing(pairs)
    pairs += [(name.decode(), value.decode("latin-1")) for name, value in introduction]
    if traced:
        pairs += [("traceparent", trace.traceparent), ("grpc-trace-bin", binary_of(trace.traceparent))]
        if trace.tracestate:
            pairs.append(("tracestate", trace.tracestate))
    return pairs


def _answer(call: RpcCall, initial: Iterable[Pair], trailing: Iterable[Pair]) -> None:
    for name, value in initial:
        if not name.encode().translate(None, _NAME):
            call.set_header(renamed(name), _plain(value))
    for name, value in trailing:
        if not name.encode().translate(None, _NAME):
            call.set_trailer(name, _plain(value))


def _plain(value: str | bytes) -> str | bytes:
    """A metadata value as it can be sent on: HTTP/2 lets control characters pass that gRPC does not."""
    return value.translate(_BLANKED) if isinstance(value, str) and not value.isprintable() else value


def _status(code: int) -> Status:
    try:
        return Status(code)
    except ValueError:
        return Status.UNKNOWN


# --- an app or endpoint that speaks HTTP ------------------------------------------------------------------------------


async def _over_http(invoker: Invoker, call: RpcCall, target: str, message: InvokeRequest) -> InvokeResponse:
    """A request to `/<method>?<querystring>`; its status is a header of the reply, and an error outside of 2xx."""
    verb = _verb(message)
    if not message.HasField("http_extension"):
        raise DriverError("rpc error: code = InvalidArgument desc = missing HTTP extension field")
    if verb is None:
        raise DriverError("rpc error: code = InvalidArgument desc = invalid HTTP verb")
    query = message.http_extension.querystring.encode()
    request = Request(verb, b"", _headers(call, message), Body(message.data.value))
    response = await invoker.invoke(
        target, clean(message.method.encode()), b"?" + query if query else b"", request, call.trace
    )
    content = await _content(call, response)
    call.set_header(_HTTP_STATUS, str(response.status))
    for name, value in response_headers(response.headers):
        if not name.translate(None, _NAME):
            call.set_header(renamed(name.decode()), _plain(value.decode("utf-8", "surrogateescape")))
    if not 200 <= response.status < 300:
        raise http_error(response.status, content)
    reply = InvokeResponse(content_type=(response.header(b"content-type") or b"").decode("latin-1"))
    reply.data.value = content
    return reply


def _verb(message: InvokeRequest) -> str | None:
    """The name of the verb; None for one that no request can have."""
    verb = message.http_extension.verb
    if verb in _REFUSED_VERBS:
        return None
    try:
        return HTTPExtension.Verb.Name(verb)
    except ValueError:
        return None


def _headers(call: RpcCall, message: InvokeRequest) -> list[Header]:
    pairs = [(name, value) for name, value in call.metadata if isinstance(value, str)]
    headers = metadata_headers([*pairs, ("dapr-authority", call.stream.authority)])
    content_type = message.content_type or (_PROTOBUF if message.data.type_url else "")
    if content_type:
        headers.append((b"content-type", content_type.encode("latin-1", "replace")))
    return headers


async def _content(call: RpcCall, response: Response) -> bytes:
    limit = call.stream.message_bytes_max
    try:
        return await response.body.read(limit)
    except BodyTooLarge:
        await response.body.aclose()
        text = f"grpc: trying to send message larger than max (more than {limit} vs. {limit})"
        raise GRPCError(Status.RESOURCE_EXHAUSTED, text) from None
