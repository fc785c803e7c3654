"""HTTP/2 on an app's ports: gRPC on its own, plain HTTP/2 on the port of the HTTP API.

Neither costs anything before somebody speaks it: what they need is imported with the first connection, in a thread,
because on a small device that takes longer than other requests may wait.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.model.http import Body, Request, Response

if TYPE_CHECKING:
    from edge_runtime.net.connections import Connection
    from edge_runtime.net.http2 import Http2Server
    from edge_runtime.net.http_server import ServerLimits
    from edge_runtime.runtime.app import App

# What the header list of a gRPC call may have, over the setting for HTTP (Dapr takes the number as KiB of KiB).
GRPC_HEADER_FACTOR: Final = 1024
# A window of HTTP/2 cannot be larger.
WINDOW_BYTES_MAX: Final = 2**31 - 1
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)

Build = Callable[[], "Http2Server"]


class LateHttp2:
    """An HTTP/2 server that comes into being with its first connection. `modules` are what it needs then."""

    def __init__(self, modules: tuple[str, ...], build: Build) -> None:
        self._modules = modules
        self._build = build
        self._server: Http2Server | None = None
        self._loading = trio.Lock()
        self._draining = False

    async def take(self, connection: Connection, received: bytes, peer: str, local: str) -> None:
        """Serve a connection that began with HTTP/2's preface, until it ends."""
        server = self._server or await self._load()
        if not self._draining:
            await server.serve_connection(connection, received, peer, local)

    async def _load(self) -> Http2Server:
        async with self._loading:
            if self._server is None:
                await trio.to_thread.run_sync(_import_all, self._modules)
                self._server = self._build()
        return self._server

    async def drain(self, grace_s: float) -> None:
        """Say goodbye on every connection, and let open streams end for `grace_s`."""
        self._draining = True
        if self._server is not None:
            await self._server.drain(grace_s)


def _import_all(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def grpc_api(app: App) -> LateHttp2:
    """What serves the gRPC port."""
    flags = app.settings.flags

    def build() -> Http2Server:
        from edge_runtime.net.grpc.server import GrpcLimits, GrpcServer
        from edge_runtime.net.http2 import Http2Limits, Http2Server

        server = GrpcServer(app.handle_grpc, GrpcLimits(message_bytes_max=flags.body_bytes_max))
        limits = Http2Limits(flags.grpc_calls_per_connection, flags.header_bytes_max * GRPC_HEADER_FACTOR)
        window_bytes = max(limits.connection_window_bytes, limits.streams_max * limits.stream_window_bytes)
        limits = limits._replace(connection_window_bytes=min(window_bytes, WINDOW_BYTES_MAX))
        # Some of the largest messages must fit beside one another.
        waiting_bytes_max = max(limits.waiting_bytes_max, 4 * (flags.body_bytes_max or 0))
        return Http2Server(server.on_stream, limits._replace(waiting_bytes_max=waiting_bytes_max))

    return LateHttp2(("edge_runtime.net.http2", "edge_runtime.net.grpc.server", "edge_runtime.api.grpc.face"), build)


def http_over_http2(handle: Callable[[Request], Awaitable[Response]], limits: ServerLimits) -> LateHttp2:
    """What serves HTTP/2 with prior knowledge on the port of the HTTP API, within the limits of HTTP/1.1 there."""

    def build() -> Http2Server:
        from edge_runtime.net.http2_http import http_server

        return http_server(
            handle,
            limits.header_bytes_max,
            idle_timeout_s=limits.idle_timeout_s,
            stall_s=limits.body_read_stall_s,
        )

    return LateHttp2(("edge_runtime.net.http2_http",), build)


async def refuse_http1(request: Request) -> Response:
    """What a client hears that speaks HTTP/1.1 to the gRPC port."""
    return Response(415, _TEXT, Body(b"this port speaks gRPC over HTTP/2; the HTTP API is on --dapr-http-port\n"))
