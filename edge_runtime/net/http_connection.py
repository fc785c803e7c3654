"""One HTTP/1.1 connection of the server: requests in, one after the other, responses out.

The way of a small request is kept flat, because its cost is the product: one `recv`, one parse, the handler, one
`send`, all on the plain socket, and no cancel scope, timer or task of its own. What that leaves open the server does
beside it: it looks at `next_deadline`, and has a client `watch`ed that may leave while its handler waits. Both end a
connection by cancelling its scope, and with it the handler.
Back-pressure is the socket's: nothing is read while a handler runs unless the handler reads the body.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.model.http import EMPTY, Body, Request, Response
from edge_runtime.net import connections
from edge_runtime.net.stream import StreamBody
from edge_runtime.wire.http1 import (
    CONTINUE,
    END,
    LAST_CHUNK,
    NEED_DATA,
    Http2Preface,
    ProtocolError,
    RequestHead,
    encode_chunk,
    encode_response,
    encode_response_head,
    new_request_reader,
)

if TYPE_CHECKING:
    from edge_runtime.net.http_server import HttpServer

_logger = logging.getLogger("dapr.runtime.http")

_READ_BYTES: Final = 65536
_WHOLE_BYTES_MAX: Final = 65536  # a larger body goes out beside its head instead of being copied behind it
_LINGER_S: Final = 0.5
_NEVER: Final = float("inf")
_INTERNAL_ERROR: Final = Response(
    500, ((b"content-type", b"text/plain; charset=utf-8"),), Body(b"internal server error")
)


class Connection:
    """One connection: reads requests, has them handled one after the other, writes the responses."""

    __slots__ = (
        "_aborted",
        "_expects_continue",
        "_fd",
        "_http2",
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
        self._http2: connections.Connection | None = None  # once it was handed over
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
            try:
                await self._serve()
            except Http2Preface as preface:
                await self._hand_over(preface)
            except ProtocolError as error:
                await self._refuse(error)
        except (OSError, trio.BrokenResourceError):
            pass  # the client is gone
        except Exception:
            _logger.exception("a connection from %s ended by an error of the server", self._peer or "a unix socket")

    def next_deadline(self) -> float:
        """When this connection has waited long enough."""
        return min(self._read_deadline, self._write_deadline)

    def idle_since(self) -> float | None:
        """When it became idle; None when it is not."""
        if self._http2 is not None:
            return None if self._http2.idle_since is None else self._http2.idle_since()
        if not self.idle:
            return None
        limits = self._server.limits
        return self._read_deadline - (limits.idle_timeout_s if self.served else limits.header_read_timeout_s)

    def expire(self) -> None:
        """A deadline has passed: end the connection, and whatever the handler does for it."""
        in_head = not self.idle and not self._reader.in_body and self not in self._server.handling
        if in_head:
            send_and_forget(self._sock, self._server.refusal(408, "the request's head did not arrive in time"))
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
            if self.idle or self._read_deadline == _NEVER:  # it begins; more of it does not give it more time
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
        self._http2 = connections.Connection(self._sock)
        await on_http2(self._http2, self._reader.unread(), self._peer, self._local)

    async def _refuse(self, error: ProtocolError) -> None:
        """Answer input that is no request."""
        _logger.debug("refused a request from %s: %s", self._peer, error.text)
        await self._send(self._server.refusal(error.status, error.text))
        await self._finish()

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
        left = self._server.limits.linger_bytes_max
        data = self._receive_now()
        if data is None and not self._reader.in_body:
            return
        with trio.move_on_after(_LINGER_S):
            while data != b"" and left > 0:
                left -= len(data or b"")
                await trio.lowlevel.wait_readable(self._fd)
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

    def __init__(self, connection: Connection, length: int | None, pieces: list[bytes], stall_s: float) -> None:
        super().__init__(length)
        self._connection: Connection | None = connection
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


def send_and_forget(sock: socket.socket, data: bytes) -> None:
    """Send what goes into the kernel's buffer now; the socket is given up anyway."""
    try:
        sock.send(data)
    except OSError:
        pass
