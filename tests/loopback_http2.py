"""An app on loopback that speaks HTTP/2 without TLS, by the h2 library: a foreign end for our client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

from edge_runtime.net.connections import Origin
from tests.loopback import Seen

Fields = list[tuple[bytes, bytes]]
Converse = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One stream at the app's side."""

    def __init__(self, wire: Wire, stream_id: int, fields: Fields) -> None:
        self.wire = wire
        self.id = stream_id
        self.fields = fields
        self.reset_by_peer = trio.Event()
        self.trailers: Fields | None = None
        self._put, self._pieces = trio.open_memory_channel[bytes](1000)

    def field(self, name: bytes) -> bytes:
        return dict(self.fields)[name]

    async def pieces(self) -> AsyncIterator[bytes]:
        """The request's body; what is taken is acknowledged, so that more may come."""
        async for piece in self._pieces:
            self.wire.engine.acknowledge_received_data(len(piece), self.id)
            await self.wire.flush()
            yield piece

    async def request(self) -> Seen:
        """The whole request, kept in the app's list."""
        body = b"".join([piece async for piece in self.pieces()])
        headers = [field for field in self.fields if not field[0].startswith(b":")]
        seen = Seen(self.field(b":method").decode(), self.field(b":path"), headers, body)
        self.wire.app.seen.append(seen)
        return seen

    async def begin(self, status: int = 200, fields: Fields | None = None, end: bool = False) -> None:
        self.wire.engine.send_headers(self.id, [(b":status", b"%d" % status), *(fields or [])], end_stream=end)
        await self.wire.flush()

    async def send(self, data: bytes) -> None:
        engine = self.wire.engine
        while data:
            size = min(engine.local_flow_control_window(self.id), engine.max_outbound_frame_size, len(data))
            if size <= 0:
                await self.wire.widened()
                continue
            engine.send_data(self.id, data[:size])
            data = data[size:]
            await self.wire.flush()

    async def end(self, trailers: Fields | None = None) -> None:
        if trailers is None:
            self.wire.engine.end_stream(self.id)
        else:
            self.wire.engine.send_headers(self.id, trailers, end_stream=True)
        await self.wire.flush()

    async def answer(self, body: bytes = b"", status: int = 200, fields: Fields | None = None) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self.begin(status, [*(fields or []), length], end=not body)
        if body:
            await self.send(body)
            await self.end()

    async def reset(self, code: int) -> None:
        self.wire.engine.reset_stream(self.id, code)
        await self.wire.flush()

    def put(self, data: bytes) -> None:
        self._put.send_nowait(data)

    def put_end(self) -> None:
        self._put.close()


class Wire:
    """One connection at the app's side."""

    def __init__(self, app: Http2App, stream: trio.SocketStream) -> None:
        self.app = app
        self.stream = stream
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.engine = h2.connection.H2Connection(config)
        self.exchanges: dict[int, Exchange] = {}
        self._widened = trio.Event()
        self._sending = trio.Lock()

    async def flush(self) -> None:
        async with self._sending:
            data = self.engine.data_to_send()
            if data:
                await self.stream.send_all(data)

    async def widened(self) -> None:
        await self._widened.wait()

    async def goaway(self, last_id: int, code: int = 0) -> None:
        self.engine.close_connection(code, last_stream_id=last_id)
        await self.flush()

    async def run(self, converse: Converse, nursery: trio.Nursery) -> None:
        if self.app.settings:
            self.engine.local_settings = h2.settings.Settings(client=False, initial_values=dict(self.app.settings))
        self.engine.initiate_connection()
        await self.flush()
        async for data in self.stream:
            for event in self.engine.receive_data(data):
                self._take(event, converse, nursery)
            await self.flush()

    def _take(self, event: h2.events.Event, converse: Converse, nursery: trio.Nursery) -> None:
        if isinstance(event, h2.events.RequestReceived):
            exchange = Exchange(self, event.stream_id, list(event.headers or []))
            self.exchanges[event.stream_id] = exchange
            self.app.streams += 1
            nursery.start_soon(self._converse, converse, exchange)
        elif isinstance(event, h2.events.DataReceived):
            self.exchanges[event.stream_id].put(event.data or b"")
        elif isinstance(event, h2.events.TrailersReceived):
            self.exchanges[event.stream_id].trailers = list(event.headers or [])
        elif isinstance(event, h2.events.StreamEnded):
            self.exchanges[event.stream_id].put_end()
        elif isinstance(event, h2.events.StreamReset):
            self.app.resets.append(int(event.error_code or 0))
            self.exchanges[event.stream_id].reset_by_peer.set()
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._widened.set()
            self._widened = trio.Event()

    async def _converse(self, converse: Converse, exchange: Exchange) -> None:
        try:
            await converse(exchange)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError):
            pass  # the caller went away


class Http2App:
    """What the app saw, and where it listens."""

    def __init__(self, settings: Mapping[int, int]) -> None:
        self.settings = settings
        self.seen: list[Seen] = []
        self.resets: list[int] = []
        self.connections = 0
        self.open_connections = 0
        self.streams = 0
        self.origin = Origin("h2c", "127.0.0.1", 0)
        self.wires: list[Wire] = []

    @property
    def last(self) -> Seen:
        return self.seen[-1]


async def echo(exchange: Exchange) -> None:
    """Answers each request with its own body."""
    await exchange.answer((await exchange.request()).body)


def always(body: bytes = b"", status: int = 200, fields: Fields | None = None) -> Converse:
    """Answers every request alike."""

    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(body, status, fields)

    return converse


@asynccontextmanager
async def loopback_http2(
    converse: Converse = echo, settings: Mapping[int, int] | None = None
) -> AsyncIterator[Http2App]:
    app = Http2App(settings or {})

    async def handle(stream: trio.SocketStream) -> None:
        app.connections += 1
        app.open_connections += 1
        wire = Wire(app, stream)
        app.wires.append(wire)
        try:
            async with stream, trio.open_nursery() as nursery:
                await wire.run(converse, nursery)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the caller went away
        finally:
            app.open_connections -= 1

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        app.origin = Origin("h2c", "127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield app
        nursery.cancel_scope.cancel()
