"""Serves HTTP/1.1 on listening sockets: one task a connection, requests in, the handler's responses out.

The way of a small request is kept flat, because its cost is the product: one `recv`, one parse, the handler, one
`send`, all on the plain socket, and no cancel scope, timer or task of its own. What that leaves open is done beside it,
per server: `_sweep` ends connections whose deadline has passed, `_look_for_slow_handlers` starts a watcher for a client
that may leave while its handler waits. Both end a connection by cancelling its scope, and with it the handler.
Back-pressure is the socket's: nothing is read while a handler runs unless the handler reads the body.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import trio

from edge_runtime.model.http import EMPTY, Body, Request, Response
from edge_runtime.net.listeners import Listener
from edge_runtime.net.stream import StreamBody
from edge_runtime.wire.http1 import (
    CONTINUE,
    END,
    LAST_CHUNK,
    NEED_DATA,
    Engine,
    Http2Preface,
    Limits,
    ProtocolError,
    RequestHead,
    encode_chunk,
    encode_response,
    encode_response_head,
    new_request_reader,
)

Handler = Callable[[Request], Awaitable[Response]]
# Takes over a connection that began with HTTP/2's preface, with the bytes received so far.
Http2Handler = Callable[[trio.SocketStream, bytes], Awaitable[None]]

_logger = logging.getLogger("dapr.runtime.http")

_READ_BYTES: Final = 65536
_WHOLE_BYTES_MAX: Final = 65536  # a larger body goes out beside its head instead of being copied behind it
_SLOW_AFTER_S: Final = 0.1
_LINGER_S: Final = 0.5
_ACCEPTS_IN_A_ROW: Final = 64
_NO_DESCRIPTORS_PAUSE_S: Final = 0.1
_COMPLAINT_INTERVAL_S: Final = 60.0
_SWEEP_STEPS: Final = 20  # a deadline is kept to within the shortest timeout's twentieth
_NEVER: Final = float("inf")
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
_INTERNAL_ERROR: Final = Response(500, _TEXT, Body(b"internal server error"))
_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_CLOSED_LISTENER: Final = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK))
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


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
        self.handling: set[_Connection] = set()  # with a request that is not answered yet
        self.looking = False  # for slow handlers; `look` begins it
        self.draining = False
        self.refused_total = 0  # connections answered 503, or closed because no descriptor was left
        self._connections: set[_Connection] = set()
        self._requests_begun = trio.Event()
        self._populated = trio.Event()
        self._drain = trio.Event()
        self._ended = trio.Event()
        self._grace_s = 0.0
        self._complain_again_at = 0.0
        self._nursery: trio.Nursery
        self._date_second = 0
        self._date = b""

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
        now = int(time.time())
        if now != self._date_second:
            self._date_second = now
            year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(now)
            self._date = (
                f"Date: {_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"
            ).encode()
        return self._date

    def forget(self, connection: _Connection) -> None:
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
                await trio.lowlevel.wait_readable(sock)
                continue
            except OSError as error:
                if error.errno in _CLOSED_LISTENER:
                    return
                if error.errno in _OUT_OF_RESOURCES:
                    await self._pause_accepting(listener, error)
                continue  # anything else is about the one connection that was to be accepted
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
            _send_and_forget(client, self.refusal(503, f"all {self.limits.connections_max} connections are in use"))
            client.close()
            return
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self, client, _host(address), _host(client.getsockname()))
        self._connections.add(connection)
        self._nursery.start_soon(connection.run)
        if not self._populated.is_set():
            self._populated.set()

    def _close_longest_idle(self) -> bool:
        """Make room, for several connections at once so that a flood of them is not a search each."""
        idle = sorted((one for one in self._connections if one.idle), key=_Connection.idle_since)
        for connection in idle[: 1 + len(idle) // 16]:
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


class _Connection:
    """One connection: reads requests, has them handled one after the other, writes the responses."""

    __slots__ = (
        "_aborted",
        "_expects_continue",
        "_fd",
        "_local",
        "_peer",
        "_read_deadline",
        "_reader",
        "_responding",
        "_server",
        "_sock",
        "_watching",
        "_write_deadline",
        "idle",
        "scope",
        "seen",
        "served",
        "watched",
    )

    def __init__(self, server: HttpServer, sock: socket.socket, peer: str, local: str) -> None:
        self._server = server
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._local = local
        self._reader = new_request_reader(server.head_limits, engine=server.engine)
        self._read_deadline = trio.current_time() + server.limits.header_read_timeout_s
        self._write_deadline = _NEVER
        self._expects_continue = False
        self._aborted = False
        self._responding = False  # something of the response is on its way
        self._watching: trio.CancelScope | None = None
        self.scope = trio.CancelScope()
        self.idle = True  # nothing of a request is here
        self.served = 0  # requests that have reached the handler
        self.seen = 0  # `served` when it was last looked for slow handlers
        self.watched = False  # the request at hand needs no watcher any more

    async def run(self) -> None:
        """Serve until either side closes; whatever goes wrong stays here."""
        try:
            with self.scope:
                await self._run()
        finally:
            self._server.forget(self)
            self._stop_watching()
            if self._sock.fileno() >= 0:
                trio.lowlevel.notify_closing(self._sock)
                self._sock.close()

    async def _run(self) -> None:
        try:
            await self._serve()
        except Http2Preface as preface:
            await self._hand_over(preface)
        except ProtocolError as error:
            await self._refuse(error)
        except OSError:
            pass  # the client is gone
        except Exception:
            _logger.exception("a connection from %s ended by an error of the server", self._peer or "a unix socket")

    def next_deadline(self) -> float:
        """When this connection has waited long enough."""
        return min(self._read_deadline, self._write_deadline)

    def idle_since(self) -> float:
        """When an idle connection became idle."""
        limits = self._server.limits
        return self._read_deadline - (limits.idle_timeout_s if self.served else limits.header_read_timeout_s)

    def expire(self) -> None:
        """A deadline has passed: end the connection, and whatever the handler does for it."""
        in_head = not self.idle and not self._reader.in_body and self not in self._server.handling
        if in_head:
            _send_and_forget(self._sock, self._server.refusal(408, "the request's head did not arrive in time"))
        self.scope.cancel()

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        next_event = self._reader.next_event
        turns = self._server.limits.pipelined_max
        while True:
            event = next_event()
            if type(event) is RequestHead:
                if not await self._answer(event):
                    await self._finish()
                    return
                turns -= 1
                if not turns:
                    turns = self._server.limits.pipelined_max
                    await trio.lowlevel.checkpoint()
            elif event is not NEED_DATA or not await self._receive():
                return

    async def _receive(self) -> bool:
        """Wait for the next bytes of a head. False when the client has left, or shall."""
        sock = self._sock
        if not self._reader.idle:
            if self.idle:
                self.idle = False
                self._read_deadline = trio.current_time() + self._server.limits.header_read_timeout_s
        elif self._server.draining:
            return False
        elif self.served:
            self.idle = True
            self._read_deadline = trio.current_time() + self._server.limits.idle_timeout_s
            await trio.lowlevel.wait_readable(self._fd)  # an answer just left: there is nothing yet
        while True:
            try:
                data = sock.recv(_READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fd)
            else:
                self._reader.feed(data)
                return bool(data)

    async def _answer(self, head: RequestHead) -> bool:
        """Have one request handled and write the response. False: the connection is of no more use."""
        server = self._server
        self.idle = False
        self._read_deadline = _NEVER
        self.served += 1
        body = self._open_body(head)
        request = Request(
            head.method, head.target, head.headers, body,
            http_version=head.http_version, peer=self._peer, local=self._local,
        )  # fmt: skip
        server.handling.add(self)
        if not server.looking:
            server.look()
        try:
            response = await server.handler(request)
        except ProtocolError:
            raise  # the request's body is malformed
        except Exception:
            _logger.exception("the handler of %s %s failed", head.method, head.target.decode("latin-1"))
            response = _INTERNAL_ERROR
        keep_alive = head.keep_alive and not server.draining and (body is EMPTY or self._can_go_on(head))
        content = response.body
        if type(content) is Body and len(content.data) <= _WHOLE_BYTES_MAX:
            data = encode_response(
                response.status, response.headers, content.data, keep_alive=keep_alive,
                head_only=head.method == "HEAD", http_version=head.http_version, date=server.date_line(),
            )  # fmt: skip
            self._responding = True
            sent = self._send_now(data)
            if sent != len(data):
                await self._send_rest(data, sent)
        else:
            keep_alive = await self._send_stream(head, response, keep_alive)
        self._responding = False
        server.handling.discard(self)
        if self.watched:
            self._stop_watching()
        return keep_alive and (body is EMPTY or await self._end_body(body))

    async def _hand_over(self, preface: Http2Preface) -> None:
        on_http2 = self._server.on_http2
        if on_http2 is None or self.served:
            await self._refuse(preface)
            return
        self.idle = False
        self._read_deadline = _NEVER
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))
        await on_http2(stream, self._reader.unread())

    async def _refuse(self, error: ProtocolError) -> None:
        """Answer input that is no request. What a response has begun with cannot be taken back."""
        _logger.debug("refused a request from %s: %s", self._peer, error.text)
        if self._responding:
            self._abort()
            return
        try:
            await self._send(self._server.refusal(error.status, error.text))
            await self._finish()
        except OSError:
            pass  # it did not wait to be told

    # --- the request's body -----------------------------------------------------------------------------------------

    def _open_body(self, head: RequestHead) -> Body:
        """A plain body when it is here already, else one that reads on."""
        reader = self._reader
        self._expects_continue = head.expect_continue
        if head.body_length == 0:
            reader.next_event()
            return EMPTY
        pieces: list[bytes] = []
        may_read = not head.expect_continue  # once: clients often send head and body in two packets
        while True:
            event = reader.next_event()
            if isinstance(event, bytes):
                pieces.append(event)
            elif event is END:
                return Body(b"".join(pieces))
            else:
                data = self._receive_now() if may_read else None
                if not data:
                    return _RequestBody(self, head.body_length, pieces, self._server.limits.body_read_stall_s)
                reader.feed(data)
                may_read = False

    def _receive_now(self) -> bytes | None:
        """What has arrived: None for nothing, b"" for the end."""
        try:
            return self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None

    async def read_body(self, stall_s: float) -> bytes:
        """The next piece of the request's body, b"" at its end. A client that leaves meanwhile ends the connection."""
        turns = self._server.limits.pipelined_max
        while True:
            event = self._reader.next_event()
            if isinstance(event, bytes):
                return event
            if event is END:
                if not self._server.looking:
                    self._server.look()
                return b""
            if self._expects_continue:
                await self._say_continue()
            data = self._receive_now()
            if data is None:
                self._read_deadline = trio.current_time() + stall_s
                await trio.lowlevel.wait_readable(self._fd)
                self._read_deadline = _NEVER
                continue
            if not data:
                self.scope.cancel()
            turns -= 1
            if not data or not turns:
                turns = self._server.limits.pipelined_max
                await trio.lowlevel.checkpoint()
            self._reader.feed(data)

    async def _say_continue(self) -> None:
        self._expects_continue = False
        if not self._responding:
            await self._send(CONTINUE)

    def _can_go_on(self, head: RequestHead) -> bool:
        """Whether what the handler left unread is worth reading to keep the connection."""
        if not self._reader.in_body:
            return True
        return not self._expects_continue and (head.body_length or 0) <= self._server.limits.drain_bytes_max

    async def _end_body(self, body: Body) -> bool:
        """Read what is left of the request. False when it is too much."""
        limits = self._server.limits
        left = limits.drain_bytes_max
        if isinstance(body, _RequestBody):
            left -= body.detach()
        while self._reader.in_body and left >= 0:
            left -= len(await self.read_body(limits.header_read_timeout_s))
        return left >= 0

    # --- the response -----------------------------------------------------------------------------------------------

    def _send_now(self, data: bytes) -> int:
        """How many bytes the kernel took."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def _send_rest(self, data: bytes, sent: int) -> None:
        view = memoryview(data)
        while sent < len(data):
            self._write_deadline = trio.current_time() + self._server.limits.write_stall_s
            await trio.lowlevel.wait_writable(self._fd)
            try:
                sent += self._sock.send(view[sent:])
            except BlockingIOError:
                pass
        self._write_deadline = _NEVER

    async def _send(self, data: bytes) -> None:
        sent = self._send_now(data)
        if sent != len(data):
            await self._send_rest(data, sent)

    async def _send_stream(self, head: RequestHead, response: Response, keep_alive: bool) -> bool:
        """Head, then every piece when it comes. A body that fails midway ends in a reset, never in a false end."""
        body = response.body
        try:
            length = body.length
            chunked = length is None and head.http_version != b"1.0"
            keep_alive = keep_alive and (chunked or length is not None)
            self._responding = True
            await self._send(
                encode_response_head(
                    response.status, response.headers, length, keep_alive,
                    http_version=head.http_version, date=self._server.date_line(),
                )
            )  # fmt: skip
            if head.method == "HEAD" or response.status in (204, 304):
                return keep_alive
            if await self._send_pieces(body, chunked):
                return keep_alive
            self._abort()
            return False
        finally:
            await body.aclose()

    async def _send_pieces(self, body: Body, chunked: bool) -> bool:
        """False when the body failed or was not as long as it said."""
        left = body.length
        turns = self._server.limits.pipelined_max
        pieces = body.chunks()
        try:
            while True:
                try:
                    piece = await anext(pieces, None)
                except Exception as error:
                    _logger.warning("a response to %s broke off: %r", self._peer or "a unix socket", error)
                    return False
                if piece is None:
                    break
                if left is not None:
                    left -= len(piece)
                    if left < 0:
                        _logger.warning("a response to %s is longer than it said", self._peer or "a unix socket")
                        return False
                await self._send(encode_chunk(piece) if chunked else piece)
                turns -= 1
                if not turns:
                    turns = self._server.limits.pipelined_max
                    await trio.lowlevel.checkpoint()
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        if chunked:
            await self._send(LAST_CHUNK)
        return not left

    # --- the end ----------------------------------------------------------------------------------------------------

    def _abort(self) -> None:
        """Make the coming close a reset, so that the client cannot take what it has for the whole."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._aborted = True

    async def _finish(self) -> None:
        """Close our side first, and see off what the client still sends: else the kernel resets what we said last."""
        if self._aborted:
            return
        self._read_deadline = _NEVER
        self._sock.shutdown(socket.SHUT_WR)
        left = self._server.limits.drain_bytes_max
        data = self._receive_now()
        if data is None and not self._reader.in_body:
            return
        with trio.move_on_after(_LINGER_S):
            while data != b"" and left > 0:
                if data is None:
                    await trio.lowlevel.wait_readable(self._fd)
                else:
                    left -= len(data)
                data = self._receive_now()

    # --- a client that may leave ------------------------------------------------------------------------------------

    @property
    def is_to_be_looked_at(self) -> bool:
        """Its request is new, or watching it can begin. The end of its body makes another look."""
        return not self.watched and (self.seen != self.served or self._reader.idle)

    @property
    def can_be_watched(self) -> bool:
        """The request is wholly here and nothing follows it, so readable can only mean: gone, or pipelining."""
        return not self.watched and self._reader.idle

    def watch(self, nursery: trio.Nursery) -> None:
        """End the connection when the client leaves before it has its answer."""
        self.watched = True
        self._watching = scope = trio.CancelScope()
        nursery.start_soon(self._watch, scope)

    async def _watch(self, scope: trio.CancelScope) -> None:
        if scope.cancel_called:
            return  # answered meanwhile: the descriptor is the connection's again
        with scope:
            await trio.lowlevel.wait_readable(self._fd)
        if not scope.cancel_called and self._is_gone():
            self.scope.cancel()

    def _is_gone(self) -> bool:
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _stop_watching(self) -> None:
        self.watched = False
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None


class _RequestBody(StreamBody):
    """A request's body that was not all there with the head. Of no use after the response."""

    __slots__ = ("_connection", "_pieces", "_stall_s")

    def __init__(self, connection: _Connection, length: int | None, pieces: list[bytes], stall_s: float) -> None:
        super().__init__(length)
        self._connection: _Connection | None = connection
        self._stall_s = stall_s
        self._pieces = pieces
        pieces.reverse()

    async def next_piece(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        if self._connection is None:
            raise RuntimeError("the request has been answered: its body cannot be read any more")
        return await self._connection.read_body(self._stall_s)

    def detach(self) -> int:
        """The request is answered. How many bytes are thrown away by that."""
        self._connection = None
        unread = sum(map(len, self._pieces))
        self._pieces.clear()
        return unread


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


def _send_and_forget(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError:
        pass


def _host(address: object) -> str:
    """The host of a socket's address; IPv4 as such on a socket of both families."""
    if not isinstance(address, tuple):
        return ""
    return str(address[0]).removeprefix("::ffff:")
