"""A byte stream over a WebSocket, on top of a TCP or TLS stream."""

from __future__ import annotations

import os
from base64 import b64encode
from hashlib import sha1
from typing import Final

import trio

from edge_runtime.wire.websocket import (
    BINARY,
    CLOSE,
    GUID,
    HEAD_BYTES_MAX,
    PING,
    PONG,
    FrameReader,
    WebSocketError,
    encode_frame,
    handshake,
    read_answer,
)

RECEIVE_BYTES: Final = 65536


class WebSocketStream(trio.abc.Stream):
    """Binary messages as one stream of bytes; pings are answered by whoever reads."""

    def __init__(self, stream: trio.abc.Stream, received: bytes) -> None:
        self._stream = stream
        self._frames = FrameReader()
        self._frames.feed(received)
        self._sending = trio.Lock()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            await self._stream.send_all(encode_frame(BINARY, bytes(data), os.urandom(4)))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            try:
                frame = self._frames.next_frame()
            except WebSocketError as error:
                raise trio.BrokenResourceError(str(error)) from error
            if frame is None:
                data = await self._stream.receive_some(max_bytes or RECEIVE_BYTES)
                if not data:
                    return b""
                self._frames.feed(bytes(data))
            elif frame.opcode == CLOSE:
                return b""
            elif frame.opcode == PING:
                await self._pong(frame.data)
            elif frame.opcode != PONG and frame.data:
                return frame.data

    async def _pong(self, data: bytes) -> None:
        async with self._sending:
            await self._stream.send_all(encode_frame(PONG, data, os.urandom(4)))

    async def aclose(self) -> None:
        await self._stream.aclose()


async def open_websocket(stream: trio.abc.Stream, host: str, path: str) -> WebSocketStream:
    """The handshake over an open connection. Raises OSError, `WebSocketError` or what the stream raises."""
    key = os.urandom(16)
    await stream.send_all(handshake(host, path, key))
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data or len(received) > HEAD_BYTES_MAX:
            raise WebSocketError("the server's answer to the WebSocket handshake does not end")
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    read_answer(head, sha1(b64encode(key) + GUID, usedforsecurity=False).digest())
    return WebSocketStream(stream, rest)
