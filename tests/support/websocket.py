"""A WebSocket server in front of a TCP port, for brokers that speak MQTT without WebSocket.

What it sends is cut where no packet ends, with pings between the pieces, as servers may do.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PIECE_BYTES: Final = 1000
_PING: Final = b"\x89\x02hi"
_BINARY, _CLOSE, _PONG = 2, 8, 10


class Bridge:
    """`requests` has the first line and the headers of every handshake, `pongs` counts the answers to its pings."""

    def __init__(self, target: int, tls: ssl.SSLContext | None) -> None:
        self.port = 0
        self.requests: list[list[str]] = []
        self.pongs = 0
        self._target = target
        self._tls = tls

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            opened = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listeners = await nursery.start(trio.serve_listeners, self._connect, opened)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    async def _connect(self, plain: trio.SocketStream) -> None:
        client = plain if self._tls is None else trio.SSLStream(plain, self._tls, server_side=True)
        try:
            async with client, await trio.open_tcp_stream("127.0.0.1", self._target) as server:
                reader = _Reader(client)
                await client.send_all(self._answer((await reader.until(b"\r\n\r\n")).decode().split("\r\n")))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._down, server, client)
                    await self._up(reader, server)
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, EOFError, OSError):
            pass

    def _answer(self, lines: list[str]) -> bytes:
        self.requests.append(lines)
        key = next(line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-key: "))
        accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        return head + b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"

    async def _down(self, server: trio.abc.Stream, client: trio.abc.Stream) -> None:
        while data := await server.receive_some(_PIECE_BYTES):
            length = bytes((len(data),)) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
            await client.send_all(b"\x82" + length + data + _PING)
        await client.aclose()

    async def _up(self, reader: _Reader, server: trio.abc.Stream) -> None:
        while True:
            first, length = await reader.exactly(2)
            assert length & 0x80, "a client masks what it sends"
            size = length & 0x7F
            if size >= 126:
                size = int.from_bytes(await reader.exactly(2 if size == 126 else 8), "big")
            mask = await reader.exactly(4)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(await reader.exactly(size)))
            if first & 0x0F == _CLOSE:
                return
            if first & 0x0F == _PONG:
                assert data == b"hi"
                self.pongs += 1
            elif first & 0x0F == _BINARY:
                await server.send_all(data)


class _Reader:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._data = bytearray()

    async def until(self, end: bytes) -> bytes:
        while end not in self._data:
            await self._more()
        return await self.exactly(self._data.index(end) + len(end))

    async def exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            await self._more()
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    async def _more(self) -> None:
        data = await self._stream.receive_some(65536)
        if not data:
            raise EOFError
        self._data += data


@asynccontextmanager
async def open_bridge(target: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Bridge]:
    bridge = Bridge(target, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(bridge.serve)
        yield bridge
        nursery.cancel_scope.cancel()
