"""A small HTTP app on loopback for tests, and the raw kind that answers with prepared bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from edge_runtime.net.connections import Origin
from edge_runtime.wire.http1 import (
    END,
    LAST_CHUNK,
    NEED_DATA,
    IncompleteMessage,
    Limits,
    RequestHead,
    encode_chunk,
    encode_response,
    encode_response_head,
    new_request_reader,
)

Converse = Callable[["Talk"], Awaitable[None]]


class Seen(NamedTuple):
    """A request as the app received it."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Talk:
    """One connection at the app's side."""

    def __init__(self, app: LoopbackApp, stream: trio.SocketStream) -> None:
        self.app = app
        self.stream = stream
        self.reader = new_request_reader(Limits(header_bytes_max=65536))

    async def head(self) -> RequestHead | None:
        """The next request's head, None at the end."""
        while True:
            event = self.reader.next_event()
            if isinstance(event, RequestHead):
                return event
            if event is not NEED_DATA:
                return None
            self.reader.feed(bytes(await self.stream.receive_some(65536)))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The request's body."""
        while True:
            event = self.reader.next_event()
            if isinstance(event, bytes):
                yield event
            elif event is END:
                return
            else:
                self.reader.feed(bytes(await self.stream.receive_some(65536)))

    async def request(self) -> Seen | None:
        """The next request, kept in the app's list."""
        head = await self.head()
        if head is None:
            return None
        body = b"".join([piece async for piece in self.pieces()])
        seen = Seen(head.method, head.target, list(head.headers), body)
        self.app.seen.append(seen)
        return seen

    async def answer(
        self, body: bytes = b"", status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        await self.stream.send_all(encode_response(status, headers or [], body, keep_alive=True))

    async def begin_answer(self, length: int | None = None, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        await self.stream.send_all(encode_response_head(200, headers or [], length, True))

    async def chunk(self, data: bytes) -> None:
        await self.stream.send_all(encode_chunk(data) if data else LAST_CHUNK)


class LoopbackApp:
    """What the app saw, how many connections it took, and where it listens."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.open_connections = 0
        self.origin = Origin("http", "127.0.0.1", 0)

    @property
    def last(self) -> Seen:
        return self.seen[-1]


async def echo(talk: Talk) -> None:
    """Answers each request with its own body."""
    while (seen := await talk.request()) is not None:
        await talk.answer(seen.body)


def always(body: bytes = b"", status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Converse:
    """Answers every request alike."""

    async def converse(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.answer(body, status, headers)

    return converse


def raw(answer: bytes) -> Converse:
    """Reads one request, writes the bytes, closes."""

    async def converse(talk: Talk) -> None:
        await talk.request()
        await talk.stream.send_all(answer)

    return converse


@asynccontextmanager
async def loopback_app(converse: Converse = echo) -> AsyncIterator[LoopbackApp]:
    app = LoopbackApp()

    async def handle(stream: trio.SocketStream) -> None:
        app.connections += 1
        app.open_connections += 1
        try:
            async with stream:
                await converse(Talk(app, stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError, IncompleteMessage):
            pass  # the caller went away
        finally:
            app.open_connections -= 1

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        app.origin = Origin("http", "127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield app
        nursery.cancel_scope.cancel()
