"""The gRPC face of one app's sidecar: token, lists, tracing, counting, then the rpc.

The usual call is a unary one whose request has arrived before its headers were looked at: it is parsed, answered by the
plain function behind its rpc, and the reply leaves as one piece. A path that is not in the table is not UNIMPLEMENTED:
it goes to the proxy, which finds its target in the call's metadata.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

import trio
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from edge_runtime.api.grpc.dapr import services_of
from edge_runtime.api.grpc.errors import grpc_error, http_error
from edge_runtime.api.grpc.groups import GROUPS
from edge_runtime.api.grpc.unary import RpcCall
from edge_runtime.model.errors import EdgeError
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.observability.trace import Tracer, binary_of, traceparent_of, valid_baggage
from edge_runtime.security.token import token_matches

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.api.grpc.reflection import Service
    from edge_runtime.api.settings import FaceSettings
    from edge_runtime.net.grpc.server import ServerCall
    from edge_runtime.observability.grpc_metrics import GrpcServerMetrics
    from edge_runtime.security.access import ApiLists

api_log: Final = logging.getLogger("dapr.runtime.grpc.api-info")

TOKEN: Final = "dapr-api-token"
_DAPR: Final = "/dapr.proto.runtime.v1.Dapr/"
# The lists bind what starts so; workflows' protocol, reflection and proxied services are free of them, as in Dapr.
_LISTED: Final = "/dapr.proto.runtime."
_NO_TARGET: Final = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
_OK, _CANCELLED, _UNKNOWN, _DEADLINE_EXCEEDED = 0, 1, 2, 4

# Passes a call on and its answer back; the code that it ended with.
Proxy = Callable[["ServerCall", Trace], Awaitable[int]]


class _Rpc:
    """One row of the table. `plain` is the function of a unary rpc, bound; None for a stream."""

    __slots__ = ("denied", "handler", "path", "plain", "traced")

    def __init__(self, path: str, handler: Handler, denied: bool) -> None:
        self.path = path
        self.handler = handler
        self.denied = denied
        function = getattr(handler.func, "unary", None)
        self.plain: Callable[[RpcCall, Any], Awaitable[Any]] | None = (
            None if function is None else MethodType(function, handler.func.__self__)
        )
        self.traced = path != _DAPR + "InvokeService"  # its reply's headers are the callee's


class GrpcFace:
    """`handle` is what the server calls for every call. `lists` say which rpcs are served, `services` have them."""

    def __init__(
        self,
        blocks: Blocks,
        settings: FaceSettings,
        tracer: Tracer,
        metrics: GrpcServerMetrics | None,
        proxy: Proxy | None,
        lists: ApiLists | None = None,
        services: Iterable[Service] | None = None,
    ) -> None:
        self._token = settings.token
        self._logged = settings.api_log is not None
        self._traced = settings.traced
        self._tracer = tracer
        self._metrics = metrics
        self._proxy = proxy
        self._table = {
            path: _Rpc(path, handler, _denied(path, lists))
            for service in services or services_of(blocks)
            for path, handler in service.__mapping__().items()
        }

    async def handle(self, stream: ServerCall) -> None:
        """Answer one call. What goes wrong as documented is raised as GRPCError, or said in trailers."""
        started = time.monotonic()
        if self._token:
            self._check_token(stream)
        rpc = self._table.get(stream.path)
        if rpc is not None and rpc.denied:
            raise http_error(501, b"requested endpoint is not available")
        trace = self._trace(stream) if self._traced else NO_TRACE
        if rpc is None or rpc.plain is None:
            await self._serve_stream(stream, rpc, trace, started)
        else:
            await self._serve_unary(stream, rpc, rpc.plain, trace, started)

    async def _serve_unary(
        self,
        stream: ServerCall,
        rpc: _Rpc,
        plain: Callable[[RpcCall, Any], Awaitable[Any]],
        trace: Trace,
        started: float,
    ) -> None:
        stream.bind(rpc.handler)
        request = stream.request_now()
        if request is None:
            request = await stream.recv_message()
        call = RpcCall(stream, trace)
        code = _UNKNOWN
        sent_bytes = 0
        try:
            reply = await plain(call, request)
            if trace is not NO_TRACE:
                _add_trace(call, rpc, trace)
            stream.reply(reply, call.initial, call.trailing)
            code = _OK
            sent_bytes = reply.ByteSize()
        except EdgeError as error:
            code = await _refuse(call, rpc, grpc_error(error))
        except GRPCError as error:
            code = await _refuse(call, rpc, error)
        except trio.Cancelled:
            code = _ended(stream)
            raise
        finally:
            if self._metrics is not None or self._logged:
                self._record(stream, code, started, request.ByteSize(), sent_bytes)

    async def _serve_stream(self, stream: ServerCall, rpc: _Rpc | None, trace: Trace, started: float) -> None:
        """An rpc with streams, or a call that is not ours."""
        code = _UNKNOWN
        try:
            if rpc is not None:
                stream.bind(rpc.handler)
                await rpc.handler.func(stream)
                code = _OK
            elif self._proxy is not None:
                code = await self._proxy(stream, trace)
            else:
                raise GRPCError(Status.UNKNOWN, _NO_TARGET)
        except EdgeError as error:
            refusal = grpc_error(error)
            code = refusal.status.value
            raise refusal from error
        except GRPCError as error:
            code = error.status.value
            raise
        except trio.Cancelled:
            code = _ended(stream)
            raise
        finally:
            if self._metrics is not None or self._logged:
                self._record(stream, code, started, 0, 0)

    def _check_token(self, stream: ServerCall) -> None:
        given = stream.get(TOKEN)
        if given is None:
            raise http_error(401, b"missing api token in request metadata")
        if not token_matches(self._token, given.encode("utf-8", "replace") if isinstance(given, str) else given):
            raise http_error(401, b"authentication error: api token mismatch")
        # The token was for this sidecar; an app behind it must not see it.
        stream.metadata[:] = [pair for pair in stream.metadata if pair[0] != TOKEN]

    def _trace(self, stream: ServerCall) -> Trace:
        """The call's trace context. Raises GRPCError when its baggage is malformed."""
        binary = stream.get("grpc-trace-bin")
        traceparent = traceparent_of(binary) if isinstance(binary, bytes) else ""
        tracestate = ""
        if not traceparent and (text := stream.get("traceparent")):
            traceparent, tracestate = str(text), str(stream.get("tracestate") or "")
            if not tracestate.isascii():
                tracestate = ""  # nothing that can be passed on
        has_baggage = stream.get("baggage") is not None
        if not has_baggage and not traceparent and not self._tracer.minting:
            return NO_TRACE
        baggage = _baggage(stream) if has_baggage else ""
        return self._tracer.continued(traceparent, tracestate, baggage)

    def _record(self, stream: ServerCall, code: int, started: float, received_bytes: int, sent_bytes: int) -> None:
        elapsed_ms = int((time.monotonic() - started) * 1000)
        if self._metrics is not None:
            self._metrics.record(stream.path, code, elapsed_ms, received_bytes, sent_bytes)
        if self._logged:
            fields = {"method": stream.path, "duration": elapsed_ms, "code": code}
            agent = stream.get("user-agent")
            if agent:
                fields["useragent"] = str(agent)
            api_log.info("gRPC API Called", extra={"fields": fields})


def _baggage(stream: ServerCall) -> str:
    text = ",".join(str(value) for name, value in stream.metadata if name == "baggage")
    if text and not (text.isascii() and valid_baggage(text)):
        raise GRPCError(Status.INVALID_ARGUMENT, "invalid baggage header")
    return text


def _denied(path: str, lists: ApiLists | None) -> bool:
    if lists is None or not path.startswith(_LISTED):
        return False
    return not lists.permits(*GROUPS[path.rpartition("/")[2]])


def _add_trace(call: RpcCall, rpc: _Rpc, trace: Trace) -> None:
    """The context on the way back."""
    if trace.traceparent and rpc.traced:
        call.set_header("grpc-trace-bin", binary_of(trace.traceparent))
    if trace.baggage:
        call.set_header("baggage", trace.baggage)


async def _refuse(call: RpcCall, rpc: _Rpc, error: GRPCError) -> int:
    """End the call with an error, with what its rpc added to the reply; the code."""
    if call.trace is not NO_TRACE:
        _add_trace(call, rpc, call.trace)
    if call.initial:
        await call.stream.send_initial_metadata(call.initial)
    await call.stream.send_trailing_metadata(
        status=error.status, message=error.message or "", details=error.details, metadata=call.trailing
    )
    return int(error.status.value)


def _ended(stream: ServerCall) -> int:
    """Why the call was cancelled, as a code."""
    deadline = stream.deadline
    return _DEADLINE_EXCEEDED if deadline is not None and trio.current_time() >= deadline else _CANCELLED
