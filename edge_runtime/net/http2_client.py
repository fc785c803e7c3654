"""An HTTP client over HTTP/2 without TLS, by prior knowledge, for apps that speak h2c.

`send` is that of `http_client.HttpClient`, whose calls `channel` makes. One connection carries all calls to an origin;
it is made with the first, and anew when it is gone. Calls beyond the number of streams that the app allows get further
connections, so that calls that wait for one another cannot lock up.

A request is sent once more only if it was surely not processed: the app refused the stream or went away without
having looked at it, and the body is in memory.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from edge_runtime.model.http import EMPTY, Body, Request, Response
from edge_runtime.net.connections import Origin
from edge_runtime.net.http2 import Http2Client, Http2Error, Http2Limits, Stream, open_http2_client
from edge_runtime.net.http2.client import http2_tls
from edge_runtime.net.http_client import ClientLimits, ExchangeFailed
from edge_runtime.net.lifetimes import open_with_tasks
from edge_runtime.net.stream import IteratorBody
from edge_runtime.wire.headers import response_headers
from edge_runtime.wire.http2.codes import CANCEL
from edge_runtime.wire.http2_fields import ResponseFields, read_response, request_fields

# What Go's client takes; an app's headers are not bound by --read-buffer-size here.
HEADER_LIST_BYTES_MAX: Final = 10 << 20
CONNECTIONS_MAX: Final = 16  # to one origin; beyond them calls wait for a stream
_DEFAULT_LIMITS: Final = ClientLimits()


class H2cClient:
    """Sends requests; made by `open_h2c_client`. An origin with https is spoken to over TLS."""

    def __init__(self, limits: ClientLimits, tls: Callable[[], ssl.SSLContext], tasks: trio.Nursery) -> None:
        self._limits = limits
        self._wire_limits = Http2Limits(
            header_list_bytes_max=HEADER_LIST_BYTES_MAX, keepalive_idle_s=0.0, idle_max_s=0.0, streams_max=1024
        )
        self._make_tls = tls
        self._tasks = tasks
        self._lines: dict[Origin, _Lines] = {}
        self._closed = False

    async def send(self, origin: Origin, request: Request) -> Response:
        """The answer, whatever its status; redirects are answers too. Its body must be read or closed.

        Raises `ConnectFailed` or `ExchangeFailed`, or what the request's own body raises.
        """
        try:
            return await self._exchange(origin, request)
        except ExchangeFailed as error:
            if not error.unprocessed or not request.body.buffered:
                raise
        return await self._exchange(origin, request)

    def close(self) -> None:
        """Calls nowhere any more; open answers break off."""
        self._closed = True

    async def _exchange(self, origin: Origin, request: Request) -> Response:
        body = request.body
        fields = request_fields(request.method, request.target, origin.authority.encode(), request.headers, body.length)
        upload: _Upload | None = None
        stream: Stream | None = None
        try:
            connection = await self._connection(origin)
            stream = await connection.open_stream(fields, end=body.buffered and not body.data)
            if not stream.sent_end:
                upload = self._begin_upload(stream, body)
            head = read_response(await stream.response())
            return await self._answer(origin, stream, upload, head)
        except Http2Error as error:
            if upload is not None:
                upload.scope.cancel()
                if upload.error is not None:
                    raise upload.error from None
            raise ExchangeFailed(f"{request.method} {origin}: {error}", unprocessed=error.unprocessed) from error
        except BaseException:
            if stream is not None:
                stream.reset(CANCEL)
            if upload is not None:
                upload.scope.cancel()
            raise

    def _begin_upload(self, stream: Stream, body: Body) -> _Upload | None:
        """Sends what can be sent without waiting and leaves the rest to a task."""
        if body.buffered and stream.try_send_data(body.data, end=True):
            return None
        upload = _Upload()
        self._tasks.start_soon(upload.run, stream, body)
        return upload

    async def _answer(self, origin: Origin, stream: Stream, upload: _Upload | None, head: ResponseFields) -> Response:
        """The response, with its body in memory when it is all here or small enough to wait for."""
        headers = response_headers(head.headers)
        small = head.length is not None and head.length <= self._limits.small_body_bytes
        pieces: list[bytes] = []
        while (piece := stream.take()) is not None:
            if piece:
                pieces.append(piece)
            elif not small:
                return Response(head.status, headers, _Answer(origin, stream, upload, pieces))
            elif piece := await stream.receive():
                pieces.append(piece)
        _end_upload(stream, upload)
        return Response(head.status, headers, Body(b"".join(pieces)) if pieces else EMPTY)

    # --- connections ---

    async def _connection(self, origin: Origin) -> Http2Client:
        if self._closed:
            raise ExchangeFailed(f"{origin}: the sidecar no longer calls there")
        lines = self._lines.get(origin)
        if lines is None:
            lines = self._lines[origin] = _Lines()
        free = lines.free()
        if free is not None:
            return free
        async with lines.dialling:
            free = lines.free()  # another call may have made one meanwhile
            if free is None:
                free = await self._tasks.start(self._keep, origin, lines)
        return free

    async def _keep(
        self, origin: Origin, lines: _Lines, *, task_status: trio.TaskStatus[Http2Client] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """A connection, for as long as it lasts."""
        tls = self._make_tls() if origin.scheme == "https" else None
        timeout_s = self._limits.connect_timeout_s
        async with open_http2_client(origin, tls, self._wire_limits, timeout_s=timeout_s) as connection:
            await connection.settled.wait()  # how many streams the app takes
            lines.connections.append(connection)
            try:
                task_status.started(connection)
                await _until_useless(connection, self._limits.idle_s)
            finally:
                lines.connections.remove(connection)
                if not lines.connections and not lines.dialling.locked():
                    self._lines.pop(origin, None)


async def _until_useless(connection: Http2Client, idle_s: float) -> None:
    """Until it is gone, or had nothing to do from one look to the next."""
    while True:
        before = connection.wire.next_stream_id()
        with trio.move_on_after(idle_s):
            await connection.gone.wait()
            return
        if not connection.wire.streams and connection.wire.next_stream_id() == before:
            return


class _Lines:
    """The connections to one origin."""

    __slots__ = ("connections", "dialling")

    def __init__(self) -> None:
        self.connections: list[Http2Client] = []
        self.dialling = trio.Lock()

    def free(self) -> Http2Client | None:
        """One that takes another stream; when there are enough of them, one that will."""
        usable = None
        for connection in self.connections:
            if connection.has_room:
                return connection
            if connection.usable:
                usable = connection
        return usable if len(self.connections) >= CONNECTIONS_MAX else None


class _Upload:
    """What is left to send of a request while its answer may be coming."""

    __slots__ = ("error", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.error: Exception | None = None

    async def run(self, stream: Stream, body: Body) -> None:
        with self.scope:
            try:
                await _send(stream, body)
            except Exception as error:
                if _is_deaf(stream, error):
                    return  # what the app has said, if anything, the receiving side reads
                # Once a request: whatever ended the caller's body is raised where the answer is awaited.
                self.error = error
                stream.reset(CANCEL)


def _is_deaf(stream: Stream, error: Exception) -> bool:
    """Whether it is the app's own stream that takes no more. A body that comes from a stream may fail like that too."""
    return isinstance(error, Http2Error) and stream.closed


async def _send(stream: Stream, body: Body) -> None:
    if body.buffered:
        await stream.send_data(body.data, end=True)
        return
    length, sent = body.length, 0
    pieces = body.chunks()
    try:
        async for piece in pieces:
            sent += len(piece)
            if length is not None and sent > length:
                break  # not sent, because an app may end the whole connection for it
            await stream.send_data(piece)
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    if length is not None and sent != length:
        raise ExchangeFailed(f"the request's body does not have the {length} bytes that were declared")
    await stream.send_data(b"", end=True)


def _end_upload(stream: Stream, upload: _Upload | None) -> None:
    """The answer is here to its end: what is left of the request is of no use."""
    if upload is not None:
        upload.scope.cancel()
    stream.reset(CANCEL)


class _Answer(IteratorBody):
    """An answer's body as it comes. `length` is unknown on purpose: what an app declares is not relied upon."""

    __slots__ = ("_first", "_origin", "_stream", "_upload")

    def __init__(self, origin: Origin, stream: Stream, upload: _Upload | None, first: list[bytes]) -> None:
        super().__init__()
        self._origin = origin
        self._stream: Stream | None = stream
        self._upload = upload
        self._first = b"".join(first)

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        stream = self._stream
        if stream is None:
            raise StopAsyncIteration
        try:
            piece = await stream.receive()
        except Http2Error as error:
            upload = self._upload
            self._end()
            raise (upload and upload.error) or ExchangeFailed(f"{self._origin}: {error}") from error
        except BaseException:
            self._end()
            raise
        if piece is None:
            self._end()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._first = b""
        self._end()

    def _end(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            _end_upload(stream, self._upload)


@asynccontextmanager
async def open_h2c_client(
    limits: ClientLimits = _DEFAULT_LIMITS, tls: Callable[[], ssl.SSLContext] = http2_tls
) -> AsyncIterator[H2cClient]:
    """A client for as long as the block lasts. `tls` makes the settings for https, when the first such call comes."""
    async with open_with_tasks(lambda tasks: H2cClient(limits, tls, tasks)) as client:
        yield client
