"""An HTTP/1.1 client with a pool of kept-alive connections for each origin.

Both directions may flow at once. A body that the kernel does not take whole is sent by a task of its own, so that an
answer that begins (or ends) before the request does is read at once and nothing can lock up. A small answer is
returned with its body in memory and its connection already back in the pool; a larger one holds the connection until it
is read or closed.

A pooled connection may have been closed by the peer a moment ago. It is looked at before use; when it fails all the
same, the request is sent once more on a fresh connection, but only if its body is in memory, no byte of an answer came,
and it cannot have been processed twice: its method is idempotent, or not one byte of it was sent.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import EMPTY, Body, Request, Response
from edge_runtime.net.connections import CONNECT_TIMEOUT_S, Connection, Dial, Origin, checking_tls, open_connection
from edge_runtime.net.lifetimes import open_with_tasks
from edge_runtime.net.stream import IteratorBody
from edge_runtime.wire.headers import response_headers
from edge_runtime.wire.http1 import (
    END,
    LAST_CHUNK,
    NEED_DATA,
    IncompleteMessage,
    Limits,
    ProtocolError,
    ResponseHead,
    ResponseReader,
    encode_chunk,
    encode_request,
    new_response_reader,
)

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class ClientLimits(NamedTuple):
    """`small_body_bytes`: a declared answer up to this size is waited for and returned in memory."""

    connections_max: int = 1024
    idle_max: int = 64
    idle_s: float = 90.0
    head_bytes_max: int = 8192
    small_body_bytes: int = 65536
    connect_timeout_s: float = CONNECT_TIMEOUT_S


_DEFAULT_LIMITS: Final = ClientLimits()


class ExchangeFailed(DriverError):
    """The connection broke, or the answer was no HTTP. `unprocessed`: the request cannot have had an effect."""

    def __init__(self, message: str, *, unprocessed: bool = False) -> None:
        super().__init__(message)
        self.unprocessed = unprocessed


class _Line:
    """A connection with its reader, and the upload that may be running on it."""

    __slots__ = ("connection", "host", "idle_at", "origin", "reader", "upload", "upload_error")

    def __init__(self, origin: Origin, connection: Connection, reader: ResponseReader) -> None:
        self.origin = origin
        self.host = (b"host", origin.authority.encode())
        self.connection = connection
        self.reader = reader
        self.upload: trio.CancelScope | None = None
        self.upload_error: Exception | None = None
        self.idle_at = 0.0

    def drop(self) -> None:
        if self.upload is not None:
            self.upload.cancel()
        self.connection.close()


class HttpClient:
    """Sends requests; made by `open_http_client`. `origin` says where to, the request's target what for."""

    def __init__(
        self, limits: ClientLimits, tls: Callable[[], ssl.SSLContext], dial: Dial, uploads: trio.Nursery
    ) -> None:
        self._limits = limits
        self._dial = dial
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._uploads = uploads
        self._reader_limits = Limits(header_bytes_max=limits.head_bytes_max)
        self._slots = trio.Semaphore(limits.connections_max)
        self._idle: dict[Origin, deque[_Line]] = {}
        self._idle_count = 0
        self._busy: set[_Line] = set()
        self._closed = False

    async def send(self, origin: Origin, request: Request) -> Response:
        """The answer, whatever its status; redirects are answers too. Its body must be read or closed.

        The headers are sent as given, with `host` added; the length comes from the body. Raises `ConnectFailed` or
        `ExchangeFailed`, or what the request's own body raises.
        """
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._slots.acquire()
        try:
            line = self._take_idle(origin)
            if line is not None:
                try:
                    return await self._exchange(line, request, True)
                except ExchangeFailed as error:
                    if not error.unprocessed:
                        raise
            return await self._exchange(await self._open_line(origin), request, False)
        except BaseException:
            self._slots.release()
            raise

    def close(self) -> None:
        """Closes every connection, also those whose answers are still being read. No other is used from then on."""
        self._closed = True
        for lines in self._idle.values():
            for line in lines:
                line.drop()
        self._idle.clear()
        self._idle_count = 0
        for line in self._busy:
            line.drop()

    @property
    def idle_connections(self) -> int:
        return self._idle_count

    # --- the pool ---

    def _take_idle(self, origin: Origin) -> _Line | None:
        lines = self._idle.get(origin)
        while lines:
            line = lines.pop()
            self._idle_count -= 1
            if line.connection.is_quiet():
                return line
            line.drop()
        return None

    async def _open_line(self, origin: Origin) -> _Line:
        tls = None
        if origin.scheme == "https":
            tls = self._tls = self._tls or self._make_tls()
        connection = await self._dial(origin, tls, self._limits.connect_timeout_s)
        return _Line(origin, connection, new_response_reader(self._reader_limits))

    def _finish(self, line: _Line, keep_alive: bool) -> None:
        """The exchange is over: the connection goes back to the pool, or away, and the slot is free."""
        self._busy.discard(line)
        self._slots.release()
        if keep_alive and line.upload is None and line.upload_error is None and line.reader.idle:
            self._keep(line)
        else:
            line.drop()

    def _keep(self, line: _Line) -> None:
        line.idle_at = now = trio.current_time()
        lines = self._idle.get(line.origin)
        if lines is None:
            if len(self._idle) > self._limits.idle_max:
                self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
            lines = self._idle[line.origin] = deque()
        elif lines and now - lines[0].idle_at > self._limits.idle_s:
            lines.popleft().drop()
            self._idle_count -= 1
        lines.append(line)
        self._idle_count += 1
        if self._idle_count > self._limits.idle_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        lines = min((lines for lines in self._idle.values() if lines), key=lambda lines: lines[0].idle_at)
        lines.popleft().drop()
        self._idle_count -= 1

    # --- one exchange ---

    async def _exchange(self, line: _Line, request: Request, reused: bool) -> Response:
        if self._closed:  # nobody would be left to close the connection, or to end an upload on it
            line.drop()
            raise ExchangeFailed(f"{request.method} {line.origin}: the sidecar no longer calls there")
        sent = answered = False
        self._busy.add(line)
        try:
            sent = self._begin(line, request)
            connection = line.connection
            reader = line.reader
            reader.expect(request.method)
            while True:
                data = await connection.receive()
                if data:
                    answered = True
                reader.feed(data)
                head = reader.next_event()
                if type(head) is ResponseHead:
                    return await self._answer(line, head)
                if head is not NEED_DATA:
                    raise IncompleteMessage(502, "EOF")
        except (OSError, ProtocolError, trio.ClosedResourceError) as error:
            self._busy.discard(line)
            line.drop()
            if line.upload_error is not None:
                raise line.upload_error from None
            once = request.body.buffered and (not sent or request.method in _IDEMPOTENT)
            raise ExchangeFailed(
                f"{request.method} {line.origin}: {_reason(error)}", unprocessed=reused and once and not answered
            ) from error
        except BaseException:
            self._busy.discard(line)
            line.drop()
            raise

    def _begin(self, line: _Line, request: Request) -> bool:
        """Sends what can be sent without waiting and leaves the rest to a task. True when anything was sent."""
        body = request.body
        headers = [line.host, *request.headers]
        line.upload_error = None
        if not body.buffered:
            head = encode_request(request.method, request.target, headers, None, length=body.length)
            self._begin_upload(line, memoryview(head), body)
            return True
        data = encode_request(request.method, request.target, headers, body.data)
        sent = line.connection.try_send(data)
        if sent < len(data):
            self._begin_upload(line, memoryview(data)[sent:], EMPTY)
        return True

    def _begin_upload(self, line: _Line, first: memoryview, body: Body) -> None:
        line.upload = trio.CancelScope()
        self._uploads.start_soon(_upload, line, line.upload, first, body)

    async def _answer(self, line: _Line, head: ResponseHead) -> Response:
        """The response, with its body in memory when it is all here or small enough to wait for."""
        reader = line.reader
        pieces: list[bytes] = []
        small = head.body_length is not None and head.body_length <= self._limits.small_body_bytes
        keep_alive = head.keep_alive
        while True:
            event = reader.next_event()
            if type(event) is bytes:
                pieces.append(event)
            elif event is END:
                break
            elif not small:
                first = b"".join(pieces)
                stream = ResponseStream(self, line, first, keep_alive, head.body_length is not None)
                return Response(head.status, response_headers(head.headers), stream)
            else:
                data = await line.connection.receive()
                if not data:
                    keep_alive = False  # shorter than declared: taken as it is
                    break
                reader.feed(data)
        self._finish(line, keep_alive)
        return Response(head.status, response_headers(head.headers), Body(b"".join(pieces)) if pieces else EMPTY)


class _PeerIsDeaf(Exception):
    """The peer takes no more of a request. What it has said, if anything, the receiving side reads."""


async def _upload(line: _Line, scope: trio.CancelScope, first: memoryview, body: Body) -> None:
    """Sends the rest of a request while its answer may be coming."""
    with scope:
        try:
            await _send(line.connection, first)
            if body is not EMPTY:
                await _send_stream(line.connection, body)
        except _PeerIsDeaf:
            pass
        except Exception as error:
            # Once a connection: whatever ended the caller's body is raised where the answer is awaited.
            line.upload_error = error
            line.connection.shut_down()
        finally:
            line.upload = None


async def _send_stream(connection: Connection, body: Body) -> None:
    length = body.length
    sent = 0
    pieces = body.chunks()
    try:
        async for piece in pieces:
            sent += len(piece)
            await _send(connection, encode_chunk(piece) if length is None else piece)
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    if length is None:
        await _send(connection, LAST_CHUNK)
    elif sent != length:
        raise ExchangeFailed(f"the request's body has {sent} bytes instead of the {length} that were declared")


async def _send(connection: Connection, data: bytes | memoryview) -> None:
    try:
        await connection.send_all(data)
    except (OSError, trio.ClosedResourceError) as error:
        raise _PeerIsDeaf from error


class ResponseStream(IteratorBody):
    """An answer's body as it comes. `length` is unknown on purpose: what an app declares is not relied upon."""

    __slots__ = ("_client", "_declared", "_first", "_keep_alive", "_line")

    def __init__(self, client: HttpClient, line: _Line, first: bytes, keep_alive: bool, declared: bool) -> None:
        super().__init__()
        self._client = client
        self._line: _Line | None = line
        self._first = first
        self._keep_alive = keep_alive
        self._declared = declared

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        line = self._line
        if line is None:
            raise StopAsyncIteration
        try:
            piece = await self._next_piece(line)
        except BaseException:
            self._end(False)
            raise
        if not piece:
            self._end(self._keep_alive)
            raise StopAsyncIteration
        return piece

    async def _next_piece(self, line: _Line) -> bytes:
        """The next bytes, none at the end."""
        reader = line.reader
        try:
            while True:
                event = reader.next_event()
                if type(event) is bytes:
                    return event
                if event is END:
                    return b""
                reader.feed(await line.connection.receive_more())
        except IncompleteMessage as error:
            if line.upload_error is None and self._declared:
                self._keep_alive = False  # shorter than declared: taken as it is
                return b""
            raise line.upload_error or ExchangeFailed(f"{line.origin}: {_reason(error)}") from error
        except (OSError, ProtocolError, trio.ClosedResourceError) as error:
            raise line.upload_error or ExchangeFailed(f"{line.origin}: {_reason(error)}") from error

    async def aclose(self) -> None:
        self._first = b""
        self._end(False)

    def _end(self, keep_alive: bool) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._client._finish(line, keep_alive)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or "the connection was closed"


@asynccontextmanager
async def open_http_client(
    limits: ClientLimits = _DEFAULT_LIMITS,
    tls: Callable[[], ssl.SSLContext] = checking_tls,
    dial: Dial = open_connection,
) -> AsyncIterator[HttpClient]:
    """A client for as long as the block lasts. `tls` makes the settings for https, when the first such call comes."""
    async with open_with_tasks(lambda uploads: HttpClient(limits, tls, dial, uploads)) as client:
        yield client
