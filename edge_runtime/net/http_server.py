"""Serves HTTP/1.1 on listening sockets: one task a connection, requests in, the handler's responses out.

`http_connection.py` has what happens on a connection; here is what stands around it: accepting, the limit of
connections, two looks at all of them (deadlines that have passed, clients that may leave while their handler waits),
and the end.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

import trio

from edge_runtime.model.http import Request, Response
from edge_runtime.net import connections
from edge_runtime.net.http_connection import Connection, send_and_forget
from edge_runtime.net.http_date import HttpDate
from edge_runtime.net.listeners import Listener
from edge_runtime.wire.http1 import (
    Engine,
    Limits,
    encode_response,
)

Handler = Callable[[Request], Awaitable[Response]]
# Takes over a connection that began with HTTP/2's preface: with the bytes received so far, the peer and our address.
Http2Handler = Callable[[connections.Connection, bytes, str, str], Awaitable[None]]

_logger = logging.getLogger("dapr.runtime.http")

_SLOW_AFTER_S: Final = 0.1
_ACCEPTS_IN_A_ROW: Final = 64
_NO_DESCRIPTORS_PAUSE_S: Final = 0.1
_COMPLAINT_INTERVAL_S: Final = 60.0
_SWEEP_STEPS: Final = 20  # a deadline is kept to within the shortest timeout's twentieth
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
# What accept(2) says of the one connection that was to be accepted: the next one may be well.
_OF_ONE_CONNECTION: Final = frozenset(
    (
        errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP,
    )
)  # fmt: skip
_CLOSED_LISTENER: Final = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK))


class ServerLimits(NamedTuple):
    """What one server takes, and for how long it waits.

    When it is reached: header bytes and count answer 431; a timeout closes the connection (a request whose head has
    begun is answered 408 first); connections: the longest idle ones are closed for the new one, and with none idle the
    new one is answered 503.
    """

    header_bytes_max: int = 8192  # request line and headers
    header_count_max: int = 128
    header_read_timeout_s: float = 10.0  # from the first byte (or the connection's begin) to the end of the head
    idle_timeout_s: float = 600.0  # between two requests
    body_read_stall_s: float = 120.0  # without any byte of a body that somebody waits for
    write_stall_s: float = 60.0  # without any byte taken by the client
    connections_max: int = 4096
    pipelined_max: int = 16  # requests answered in a row before other connections have their turn
    drain_bytes_max: int = 262144  # of an unread body, to keep its connection
    linger_bytes_max: int = 2**24  # of an unread body, so that a client that sends before it reads gets its answer


class HttpServer:
    """A running server, for who started it."""

    def __init__(self, handler: Handler, limits: ServerLimits, on_http2: Http2Handler | None, engine: Engine | None):
        self.handler = handler
        self.limits = limits
        self.on_http2 = on_http2
        self.engine = engine
        self.head_limits = Limits(
            limits.header_bytes_max, limits.header_count_max, trailer_bytes_max=limits.header_bytes_max
        )
        self.handling: set[Connection] = set()  # with a request that is not answered yet
        self.looking = False  # for slow handlers; `look` begins it
        self.draining = False
        self.refused_total = 0  # connections answered 503
        self._connections: set[Connection] = set()
        self._requests_begun = trio.Event()
        self._populated = trio.Event()
        self._drain = trio.Event()
        self._ended = trio.Event()
        self._grace_s = 0.0
        self._complain_again_at = 0.0
        self._nursery: trio.Nursery
        self._date = HttpDate()

    @property
    def connections_open(self) -> int:
        """How many connections there are now, idle ones among them."""
        return len(self._connections)

    async def drain(self, grace_s: float) -> None:
        """Accept no more, close what is idle, let open requests end for `grace_s`; returns when all have ended.

        Responses say `connection: close` meanwhile. What has not ended by then is cancelled.
        """
        self._grace_s = grace_s
        self._drain.set()
        await self._ended.wait()

    async def run(
        self, listeners: Sequence[Listener], task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until drained or cancelled."""
        try:
            async with trio.open_nursery() as background:
                background.start_soon(self._sweep)
                background.start_soon(self._look_for_slow_handlers)
                async with trio.open_nursery() as self._nursery:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener)
                        task_status.started(self)
                        await self._drain.wait()
                        accepting.cancel_scope.cancel()
                    self._begin_to_drain(listeners)
                background.cancel_scope.cancel()
        finally:
            self._ended.set()

    def date_line(self) -> bytes:
        """The `Date` header of this second."""
        return b"Date: " + self._date.now()

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        self._connections.discard(connection)
        self.handling.discard(connection)

    def _begin_to_drain(self, listeners: Sequence[Listener]) -> None:
        self.draining = True
        for listener in listeners:
            listener.close()
        for connection in self._connections:
            if connection.idle:
                connection.scope.cancel()
        self._nursery.cancel_scope.deadline = trio.current_time() + self._grace_s

    # --- accepting -------------------------------------------------------------------------------------------------

    async def _accept(self, listener: Listener) -> None:
        sock = listener.socket
        in_a_row = 0
        while True:
            try:
                client, address = sock.accept()
            except BlockingIOError:
                in_a_row = 0
                try:
                    await trio.lowlevel.wait_readable(sock)
                except trio.ClosedResourceError:
                    return
                continue
            except OSError as error:
                if error.errno in _CLOSED_LISTENER:
                    return
                if error.errno not in _OF_ONE_CONNECTION:
                    await self._pause_accepting(listener, error)
            else:
                self._admit(client, address)
            in_a_row += 1
            if in_a_row >= _ACCEPTS_IN_A_ROW:
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    async def _pause_accepting(self, listener: Listener, error: OSError) -> None:
        now = trio.current_time()
        if now >= self._complain_again_at:
            self._complain_again_at = now + _COMPLAINT_INTERVAL_S
            _logger.error("cannot accept connections on %s for now: %s", listener.name, error.strerror)
        self._close_longest_idle()
        await trio.sleep(_NO_DESCRIPTORS_PAUSE_S)

    def _admit(self, client: socket.socket, address: object) -> None:
        client.setblocking(False)
        if len(self._connections) >= self.limits.connections_max and not self._close_longest_idle():
            self.refused_total += 1
            send_and_forget(client, self.refusal(503, f"all {self.limits.connections_max} connections are in use"))
            client.close()
            return
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            local = client.getsockname()
        except OSError:
            client.close()  # it is gone already
            return
        connection = Connection(self, client, _host(address), _host(local))
        self._connections.add(connection)
        self._nursery.start_soon(connection.run)
        if not self._populated.is_set():
            self._populated.set()

    def _close_longest_idle(self) -> bool:
        """Make room, for several connections at once so that a flood of them is not a search each."""
        looked_at = ((one.idle_since(), one) for one in self._connections)
        idle = sorted(((since, one) for since, one in looked_at if since is not None), key=itemgetter(0))
        for _, connection in idle[: 1 + len(idle) // 16]:
            self._connections.discard(connection)
            connection.scope.cancel()
        return bool(idle)

    # --- beside the connections ------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """End the connections whose deadline has passed.

        A deadline is never set nearer than the shortest timeout, so sleeping that long misses none.
        """
        limits = self.limits
        longest_sleep_s = min(
            limits.header_read_timeout_s, limits.idle_timeout_s, limits.body_read_stall_s, limits.write_stall_s
        )
        while True:
            if not self._connections:
                self._populated = trio.Event()
                await self._populated.wait()
            now = trio.current_time()
            nearest = now + longest_sleep_s
            for connection in tuple(self._connections):
                deadline = connection.next_deadline()
                if deadline <= now:
                    connection.expire()
                elif deadline < nearest:
                    nearest = deadline
            await trio.sleep_until(max(nearest, now + longest_sleep_s / _SWEEP_STEPS))

    async def _look_for_slow_handlers(self) -> None:
        """Watch the client of each request that two looks in a row find unanswered. Sleeps while there is none."""
        while True:
            if not any(connection.is_to_be_looked_at for connection in self.handling):
                self._requests_begun = trio.Event()
                self.looking = False
                await self._requests_begun.wait()
            await trio.sleep(_SLOW_AFTER_S)
            for connection in self.handling:
                if connection.seen != connection.served:
                    connection.seen = connection.served
                elif connection.can_be_watched:
                    connection.watch(self._nursery)

    def look(self) -> None:
        """There is a request to look after."""
        self.looking = True
        self._requests_begun.set()

    def refusal(self, status: int, text: str) -> bytes:
        return encode_response(status, _TEXT, text.encode(), keep_alive=False, date=self.date_line())


async def serve_http(
    listeners: Sequence[Listener],
    handler: Handler,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 a NamedTuple is no mutable default
    *,
    on_http2: Http2Handler | None = None,
    engine: Engine | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the `HttpServer` that `task_status` hands out is drained, or this is cancelled.

    `on_http2` takes the connections that begin with HTTP/2's preface; without it they are answered 505.
    """
    await HttpServer(handler, limits, on_http2, engine).run(listeners, task_status)


def _host(address: object) -> str:
    """The host of a socket's address; IPv4 as such on a socket of both families."""
    if not isinstance(address, tuple):
        return ""
    return str(address[0]).removeprefix("::ffff:")
