"""The channel to an app that speaks gRPC: one connection, its token, its limit, its health gate.

What the runtime calls (`OnInvoke`, `OnTopicEvent` …) takes a place when `--app-max-concurrency` says so; what is passed
on from another app does not, because nobody knows how long such a call lasts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from edge_runtime.channel.calls import TOKEN_HEADER
from edge_runtime.channel.grpc_metrics import GrpcClientMetrics
from edge_runtime.channel.http import AppUnhealthy, ChannelSettings, trusting_tls
from edge_runtime.channel.on_invoke import error_response, invoke_request, metadata_of, response_of
from edge_runtime.model.errors import ConfigError
from edge_runtime.model.http import Body
from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import GrpcClient, RpcError, open_grpc_client
from edge_runtime.net.grpc.limits import GrpcLimits
from edge_runtime.net.http2 import Http2Limits
from edge_runtime.observability.trace import binary_of, valid_traceparent
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import HealthCheckResponse
from edge_runtime.wire.grpc.status import CANCELLED, OK, UNAVAILABLE, Ending

if TYPE_CHECKING:
    from edge_runtime.model.http import Header, Request, Response
    from edge_runtime.net.grpc.client import Reply
    from edge_runtime.net.http2 import Stream
    from edge_runtime.observability.metrics import Metrics

M = TypeVar("M", bound=Message)
Pair = tuple[str, str | bytes]

_CALLBACK: Final = "/dapr.proto.runtime.v1.AppCallback/"
_ALPHA: Final = "/dapr.proto.runtime.v1.AppCallbackAlpha/"
ON_INVOKE: Final = f"{_CALLBACK}OnInvoke"
HEALTH_CHECK: Final = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck"
_LIMITED: Final = frozenset(
    (
        ON_INVOKE,
        *(f"{_CALLBACK}{name}" for name in ("OnTopicEvent", "OnBulkTopicEvent", "OnBindingEvent", "OnJobEvent")),
        *(f"{_ALPHA}{name}" for name in ("OnBulkTopicEventAlpha1", "OnJobEventAlpha1")),
    )
)
# One connection carries all calls, so their number is the app's to limit. Its window is that of 256 streams, so that
# answers which nobody reads hold up themselves, and not what else the app is asked. No keep-alive: gRPC's servers take
# offence at pings that no call needs, and an app on this node cannot vanish without its connection.
_HTTP2_LIMITS: Final = Http2Limits(
    streams_max=2**16,
    stream_window_bytes=2**18,
    connection_window_bytes=2**26,
    keepalive_idle_s=0.0,
    idle_max_s=0.0,
)


class GrpcAppChannel:
    """Calls one app. `healthy` is the gate: whoever probes the app opens and shuts it."""

    def __init__(
        self, client: GrpcClient, origin: Origin, settings: ChannelSettings, metrics: GrpcClientMetrics | None = None
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._places = trio.Semaphore(settings.max_concurrency) if settings.max_concurrency > 0 else None
        token = settings.api_token
        self._token: tuple[Pair, ...] = ((TOKEN_HEADER.decode(), token),) if token else ()
        self._token_field: tuple[Header, ...] = ((TOKEN_HEADER, token.encode()),) if token else ()
        self.message_bytes_max = settings.message_bytes_max
        self.origin = origin
        self.healthy = True
        self.waiting = 0  # calls that are not over yet
        self._quiet = trio.Event()

    # --- calls of the runtime ---------------------------------------------------------------------------------------

    async def unary(
        self,
        path: str,
        request: Message | bytes,
        reply_type: type[M],
        *,
        metadata: Sequence[Pair] = (),
        timeout_s: float | None = None,
    ) -> Reply[M]:
        """One message for one message. Raises `RpcError`, or another `DriverError` when the app cannot be called."""
        if not self.healthy:
            raise AppUnhealthy
        places = self._places if path in _LIMITED else None
        self.waiting += 1
        try:
            if places is None:
                return await self._call(path, request, reply_type, metadata, timeout_s)
            async with places:
                return await self._call(path, request, reply_type, metadata, timeout_s)
        finally:
            self._over()

    async def _call(
        self,
        path: str,
        request: Message | bytes,
        reply_type: type[M],
        metadata: Sequence[Pair],
        timeout_s: float | None,
    ) -> Reply[M]:
        if self._token:
            metadata = [*(pair for pair in metadata if pair[0] != self._token[0][0]), *self._token]
        started = time.monotonic()
        code, received = UNAVAILABLE, 0
        try:
            reply = await self._client.unary(path, request, reply_type, metadata=metadata, timeout_s=timeout_s)
            code, received = OK, reply.message.ByteSize()
            return reply
        except RpcError as error:
            code = error.code
            raise
        except trio.Cancelled:
            code = CANCELLED
            raise
        finally:
            if self._metrics is not None:
                sent = len(request) if isinstance(request, bytes) else request.ByteSize()
                self._metrics.record(path, code, started, sent, received)

    def _over(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._quiet.set()

    async def drained(self) -> None:
        """Wait until every call is over; other apps of the node may be waiting for theirs."""
        while self.waiting:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def probe(self, path: str = "") -> int:
        """The gRPC code that the app's health check ends with: a call without token and limit. `path` is for HTTP."""
        try:
            await self._client.unary(HEALTH_CHECK, Empty(), HealthCheckResponse)
        except RpcError as error:
            return error.code
        return OK

    # --- service invocation -----------------------------------------------------------------------------------------

    async def send(self, request: Request) -> Response:
        """An HTTP request as `OnInvoke`, and what became of it as an answer. Raises `DriverError`."""
        content = await request.body.read(self.message_bytes_max)
        request.body = Body(content)  # for another attempt, should no connection come about
        metadata = metadata_of(request.headers)
        traceparent = (request.header(b"traceparent") or b"").decode("latin-1")
        if valid_traceparent(traceparent):
            metadata.append(("grpc-trace-bin", binary_of(traceparent)))
        try:
            reply = await self.on_invoke(invoke_request(request, content), metadata)
        except RpcError as error:
            return error_response(Ending(error.code, error.message, error.details), error.initial)
        return response_of(reply.message, reply.initial)

    async def on_invoke(self, message: InvokeRequest, metadata: Sequence[Pair]) -> Reply[InvokeResponse]:
        """`OnInvoke`, with metadata as it is."""
        return await self.unary(ON_INVOKE, message, InvokeResponse, metadata=metadata)

    # --- calls that are passed on -----------------------------------------------------------------------------------

    async def open_stream(self, path: str, headers: Sequence[Header]) -> tuple[Stream, Callable[[], None]]:
        """A call of any method, whose headers and bytes are the caller's matter. The function must follow, once: the
        call is over. Raises `DriverError`."""
        if not self.healthy:
            raise AppUnhealthy
        self.waiting += 1
        try:
            stream, leave = await self._client.open_stream(path, [*headers, *self._token_field])
        except BaseException:
            self._over()
            raise

        def over() -> None:
            leave()
            self._over()

        return stream, over

    def count(self, path: str, code: int, started: float, sent: int, received: int) -> None:
        """For the metrics: a call that was passed on. `started` by the monotonic clock."""
        if self._metrics is not None:
            self._metrics.record(path, code, started, sent, received)


def grpc_origin(settings: ChannelSettings) -> Origin:
    """Where the app listens. Raises `ConfigError` for a protocol that is none of gRPC's."""
    if settings.protocol not in ("grpc", "grpcs"):
        raise ConfigError(f"--app-protocol {settings.protocol} is not gRPC; expected grpc or grpcs")
    return Origin(settings.protocol, settings.address.strip("[]"), settings.port)


@asynccontextmanager
async def open_grpc_channel(settings: ChannelSettings, metrics: Metrics | None = None) -> AsyncIterator[GrpcAppChannel]:
    """A channel for as long as the block lasts; nothing is connected before the first call."""
    origin = grpc_origin(settings)
    tls = trusting_tls("h2") if settings.protocol == "grpcs" else None
    limits = GrpcLimits(message_bytes_max=settings.message_bytes_max)
    async with open_grpc_client(origin, tls, limits, _HTTP2_LIMITS) as client:
        counted = None if metrics is None else GrpcClientMetrics(metrics)
        yield GrpcAppChannel(client, origin, settings, counted)
