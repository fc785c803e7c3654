"""The servers of one app (API, public port, Prometheus page): bound first, served once there is something to say."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from edge_runtime.config.flags import DaprdFlags
from edge_runtime.model.http import Request, Response
from edge_runtime.net.http_server import HttpServer, ServerLimits, serve_http
from edge_runtime.net.listeners import Listener, ListenError, open_listeners, open_unix_listener, unix_socket_path

if TYPE_CHECKING:
    from edge_runtime.runtime.app import App

log = logging.getLogger("dapr.runtime")
http_log = logging.getLogger("dapr.runtime.http")

LOOPBACK: Final = ("127.0.0.1", "::1")
# What Go's server allows over the setting, and Dapr with it.
HEADER_SLACK_BYTES: Final = 4096

Handle = Callable[[Request], Awaitable[Response]]


class _Bound(NamedTuple):
    name: str
    listeners: Sequence[Listener]
    handle: Handle


class Servers:
    """Listening from the start; `serve` begins to answer."""

    def __init__(self, limits: ServerLimits, bound: Sequence[_Bound]) -> None:
        self._limits = limits
        self._bound = bound
        self._servers: list[HttpServer] = []

    async def serve(self, nursery: trio.Nursery) -> None:
        """Answer from now on, in tasks of the nursery."""
        for name, listeners, handle in self._bound:
            self._servers.append(await nursery.start(serve_http, listeners, handle, self._limits))
            for listener in listeners:
                http_log.debug("%s server listens on %s", name, listener.name)
        api = self._bound[0].listeners[0]
        if api.path:
            http_log.info("HTTP server is listening on socket %s", api.path)
        else:
            http_log.info("HTTP server is running on port %d", api.port)

    async def drain(self, grace_s: float) -> None:
        """Take no further connection, and let open requests end for `grace_s`."""
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.drain, grace_s)


@asynccontextmanager
async def open_servers(app: App) -> AsyncIterator[Servers]:
    """Bind every port of the app. Raises ListenError, naming the flag."""
    flags = app.settings.flags
    async with AsyncExitStack() as stack:
        api = await _open_api(app, flags, stack)
        bound = [_Bound("HTTP", api, app.handle)]
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


async def _open_api(app: App, flags: DaprdFlags, stack: AsyncExitStack) -> list[Listener]:
    if flags.unix_domain_socket:
        path = unix_socket_path(flags.unix_domain_socket, app.app_id, "http")
        return await stack.enter_async_context(open_unix_listener(path))
    addresses = flags.dapr_listen_addresses or LOOPBACK
    listeners = await _open(stack, addresses, flags.dapr_http_port or 0, "--dapr-http-port")
    app.http_port = listeners[0].port
    return listeners


async def _open_metrics(app: App, flags: DaprdFlags, stack: AsyncExitStack) -> list[_Bound]:
    addresses = _addresses(flags.metrics_listen_address)
    try:
        listeners = await _open(stack, addresses, flags.metrics_port or 0, "--metrics-port")
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
