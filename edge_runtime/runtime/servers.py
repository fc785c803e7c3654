"""The servers of one app (both APIs, public port, metrics): bound first, served once there is something to say."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from edge_runtime.config.environment import read_environment
from edge_runtime.config.flags import DaprdFlags
from edge_runtime.model.http import Request, Response
from edge_runtime.net.http_server import HttpServer, ServerLimits, serve_http
from edge_runtime.net.listeners import (
    Listener,
    ListenError,
    open_listeners,
    open_passed_listeners,
    open_unix_listener,
    unix_socket_path,
)
from edge_runtime.runtime.http2 import LateHttp2, grpc_api, http_over_http2, refuse_http1

if TYPE_CHECKING:
    from edge_runtime.runtime.app import App

log = logging.getLogger("dapr.runtime")
http_log = logging.getLogger("dapr.runtime.http")
grpc_log = logging.getLogger("dapr.runtime.grpc.api")

LOOPBACK: Final = ("127.0.0.1", "::1")
# What Go's server allows over the setting, and Dapr with it.
HEADER_SLACK_BYTES: Final = 4096

Handle = Callable[[Request], Awaitable[Response]]


class _Bound(NamedTuple):
    name: str
    listeners: Sequence[Listener]
    handle: Handle
    http2: LateHttp2 | None = None


class Servers:
    """Listening from the start; `serve` begins to answer."""

    def __init__(self, limits: ServerLimits, bound: Sequence[_Bound]) -> None:
        self._limits = limits
        self._bound = bound
        self._servers: list[HttpServer] = []

    async def serve(self, nursery: trio.Nursery) -> None:
        """Answer from now on, in tasks of the nursery."""
        for name, listeners, handle, http2 in self._bound:
            on_http2 = None if http2 is None else http2.take
            serve = partial(serve_http, listeners, handle, self._limits, on_http2=on_http2)
            self._servers.append(await nursery.start(serve))
            for listener in listeners:
                http_log.debug("%s server listens on %s", name, listener.name)
        _say_where(http_log, "HTTP server", self._bound[0])
        _say_where(grpc_log, "API gRPC server", self._bound[1])

    async def drain(self, grace_s: float) -> None:
        """Take no further connection, and let open requests end for `grace_s`."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.drain, grace_s)
            for bound in self._bound:
                if bound.http2 is not None:
                    nursery.start_soon(bound.http2.drain, grace_s)


def _say_where(logger: logging.Logger, name: str, bound: _Bound) -> None:
    listener = bound.listeners[0]
    if listener.path:
        logger.info("%s is listening on socket %s", name, listener.path)
    else:
        logger.info("%s is running on port %d", name, listener.port)


@asynccontextmanager
async def open_servers(app: App) -> AsyncIterator[Servers]:
    """Bind every port of the app. Raises ListenError, naming the flag."""
    flags = app.settings.flags
    async with AsyncExitStack() as stack:
        bound = [
            _Bound("HTTP", await _open_http(app, stack), app.handle, _http2_of_http(app)),
            _Bound("gRPC", await _open_grpc(app, stack), refuse_http1, grpc_api(app)),
        ]
        if flags.dapr_public_port:
            addresses = _addresses(flags.dapr_public_listen_address)
            public = await _open(stack, addresses, flags.dapr_public_port, "--dapr-public-port")
            bound.append(_Bound("public", public, app.handle_public))
        if flags.enable_metrics:
            bound += await _open_metrics(app, flags, stack)
        yield Servers(_limits(flags), bound)


def _limits(flags: DaprdFlags) -> ServerLimits:
    return ServerLimits(
        header_bytes_max=flags.header_bytes_max + HEADER_SLACK_BYTES,
        connections_max=flags.max_connections,
        idle_timeout_s=flags.http_idle_timeout,
        body_read_stall_s=flags.http_stall_timeout,
        write_stall_s=flags.http_stall_timeout,
    )


def _http2_of_http(app: App) -> LateHttp2 | None:
    if read_environment(app.settings.environment).disable_h2c:
        return None
    return http_over_http2(app.handle, _limits(app.settings.flags))


async def _open_http(app: App, stack: AsyncExitStack) -> list[Listener]:
    listeners = await _open_api(app, "http", app.settings.flags.dapr_http_port, stack)
    app.http_port = listeners[0].port
    return listeners


async def _open_grpc(app: App, stack: AsyncExitStack) -> list[Listener]:
    listeners = await _open_api(app, "grpc", app.settings.flags.dapr_grpc_port, stack)
    app.grpc_port = listeners[0].port
    return listeners


async def _open_api(app: App, protocol: str, port: int | None, stack: AsyncExitStack) -> list[Listener]:
    flags = app.settings.flags
    if flags.unix_domain_socket:
        path = unix_socket_path(flags.unix_domain_socket, app.app_id, protocol)
        return await stack.enter_async_context(open_unix_listener(path))
    passed = await _passed(app, protocol, stack)
    if passed and any(listener.port == (port or listener.port) for listener in passed):
        return passed
    addresses = flags.dapr_listen_addresses or LOOPBACK
    return [*await _open(stack, addresses, port or 0, f"--dapr-{protocol}-port"), *passed]


async def _passed(app: App, role: str, stack: AsyncExitStack) -> list[Listener]:
    """The listeners that a service manager has opened for the app: who connects while it starts is served later."""
    sockets = app.node.sockets
    if sockets is None:
        return []
    return await stack.enter_async_context(open_passed_listeners(sockets.of_app(role, app.app_id)))


async def _open_metrics(app: App, flags: DaprdFlags, stack: AsyncExitStack) -> list[_Bound]:
    addresses = _addresses(flags.metrics_listen_address)
    try:
        listeners = await _passed(app, "metrics", stack) or await _open(
            stack, addresses, flags.metrics_port or 0, "--metrics-port"
        )
    except ListenError as error:
        if "metrics-port" in flags.given:
            raise
        # Several sidecars side by side all have the same default; only the first can have it.
        log.warning("%s; there is no metrics page for this app", error)
        return []
    app.metrics_port = listeners[0].port
    log.info("metrics server started on port %d", app.metrics_port)
    return [_Bound("metrics", listeners, app.handle_metrics)]


def _addresses(given: str) -> Sequence[str]:
    return (given,) if given else LOOPBACK


async def _open(stack: AsyncExitStack, addresses: Sequence[str], port: int, flag: str) -> list[Listener]:
    try:
        return await stack.enter_async_context(open_listeners(addresses, port))
    except ListenError as error:
        raise ListenError(f"{flag} {port}: {error}") from None
