"""A server and a client of HTTP/2 on loopback, and a client that does as it is told, frame by frame."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from edge_runtime.model.http import EMPTY, Request, Response
from edge_runtime.net.connections import Origin
from edge_runtime.net.http2 import Http2Client, Http2Limits, Http2Server, Stream, open_http2_client
from edge_runtime.net.http_server import serve_http
from edge_runtime.net.listeners import open_listeners
from edge_runtime.wire.http2 import Engine, Header, engine
from edge_runtime.wire.http2 import codes as c
from tests.unit.wire.http2.wires import Frame, frame, frames, settings

ENGINES = pytest.mark.parametrize("codec", ["jh2", "h2"])
OnStream = Callable[[Stream], Awaitable[None]]
REQUEST: list[Header] = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"node")]
OK: list[Header] = [(b":status", b"200")]
TRAILERS: list[Header] = [(b"grpc-status", b"0")]
LIMITS = Http2Limits()
CLIENT_LIMITS = Http2Limits(keepalive_idle_s=0.0, idle_max_s=0.0)


class RawClient:
    """Sends frames as they are given, and reads frames."""

    def __init__(self, stream: trio.abc.Stream, codec: Engine) -> None:
        self.stream = stream
        self.encoder = codec.new_encoder()
        self.ended = False
        self._data = b""

    async def send(self, *data: bytes) -> None:
        await self.stream.send_all(b"".join(data))

    async def greet(self, *pairs: tuple[int, int]) -> None:
        await self.send(c.PREFACE, settings(*pairs))

    def head(self, stream_id: int = 1, flags: int = c.FLAG_END_HEADERS) -> bytes:
        return frame(c.HEADERS, flags, stream_id, self.encoder.encode(REQUEST))

    async def next(self, *kinds: int) -> Frame:
        """The next frame of these kinds, all others left out; of none when the connection has ended."""
        while True:
            size = 9 + int.from_bytes(self._data[:3], "big")
            if len(self._data) >= max(9, size):
                (found,) = frames(self._data[:size])
                self._data = self._data[size:]
                if found.kind in kinds:
                    return found
                continue
            try:
                piece = bytes(await self.stream.receive_some(65536))
            except trio.BrokenResourceError:
                piece = b""
            if not piece:
                self.ended = True
                return Frame(-1, 0, 0, b"")
            self._data += piece


class Served:
    """A running server."""

    def __init__(self, server: Http2Server, origin: Origin, codec: Engine) -> None:
        self.server = server
        self.origin = origin
        self.codec = codec

    @asynccontextmanager
    async def client(self, limits: Http2Limits = CLIENT_LIMITS) -> AsyncIterator[Http2Client]:
        async with open_http2_client(self.origin, None, limits, engine=self.codec) as client:
            yield client

    @asynccontextmanager
    async def raw(self, *pairs: tuple[int, int]) -> AsyncIterator[RawClient]:
        async with await trio.open_tcp_stream(self.origin.host, self.origin.port) as stream:
            client = RawClient(stream, self.codec)
            await client.greet(*pairs)
            yield client


@asynccontextmanager
async def serving(on_stream: OnStream, limits: Http2Limits = LIMITS, *, codec: str = "jh2") -> AsyncIterator[Served]:
    """Serves by `on_stream` behind a listener that also speaks HTTP/1."""
    server = Http2Server(on_stream, limits, engine=engine(codec))
    async with open_listeners(["127.0.0.1"], 0) as listeners, trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
            await serve_http(listeners, _no_http1, on_http2=server.serve_connection, task_status=task_status)

        await nursery.start(serve)
        yield Served(server, Origin("http", "127.0.0.1", listeners[0].port), engine(codec))
        nursery.cancel_scope.cancel()


async def _no_http1(request: Request) -> Response:
    return Response(400, (), EMPTY)


async def read_all(stream: Stream) -> bytes:
    pieces = []
    while (piece := await stream.receive()) is not None:
        pieces.append(piece)
    return b"".join(pieces)


async def echo(stream: Stream) -> None:
    """Answers with what it gets, piece by piece, and trailers."""
    stream.send_headers(OK)
    while (piece := await stream.receive()) is not None:
        await stream.send_data(piece)
    stream.send_headers(TRAILERS, end=True)


async def ask(client: Http2Client, body: bytes = b"hello") -> tuple[list[Header], bytes, list[Header] | None]:
    """One call."""
    stream = await client.open_stream(REQUEST)
    await stream.send_data(body, end=True)
    headers = await stream.response()
    return headers, await read_all(stream), stream.trailers
