"""WebSocket (RFC 6455) as a client needs it for MQTT: the handshake, masked frames out, frames in."""

from __future__ import annotations

from base64 import b64encode
from typing import Final, NamedTuple

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD_BYTES_MAX: Final = 16384
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class WebSocketError(ValueError):
    """The other end does not speak WebSocket as it should."""


class Frame(NamedTuple):
    """Data of a message as it arrives (`opcode` CONTINUATION for all but its first piece), or a control frame."""

    opcode: int
    data: bytes


def handshake(host: str, path: str, key: bytes) -> bytes:
    """The request; `key` is 16 bytes of chance."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {b64encode(key).decode()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
    )
    return "\r\n".join((*lines, "", "")).encode()


def read_answer(head: bytes, expected: bytes) -> None:
    """Checks the head of the server's answer; `expected` is the SHA-1 of the key's base64 and GUID. Raises."""
    lines = head.decode("latin-1").split("\r\n")
    if " 101 " not in f"{lines[0]} ":
        raise WebSocketError(f"the server does not take WebSocket: {lines[0][:100]}")
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "sec-websocket-accept":
            if value.strip() == b64encode(expected).decode():
                return
            break
    raise WebSocketError("the server's answer to the WebSocket handshake is not to our request")


def masked(data: bytes, mask: bytes) -> bytes:
    """`data` with `mask` over it, which undoes itself."""
    size = len(data)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")


def encode_frame(opcode: int, data: bytes, mask: bytes) -> bytes:
    """One whole frame of a client."""
    size = len(data)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return b"".join((bytes((0x80 | opcode,)), length, mask, masked(data, mask)))


class FrameReader:
    """Frames out of bytes. Data of a long frame is handed on as it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._opcode = 0
        self._left = 0  # bytes of a data frame that are still to come

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """None: more bytes are needed. Raises `WebSocketError`."""
        buffer = self._buffer
        if self._left:
            return self._piece(CONTINUATION) if buffer else None
        if len(buffer) < 2:
            return None
        opcode, size, start = buffer[0] & 0x0F, buffer[1] & 0x7F, 2
        if buffer[1] & 0x80 or buffer[0] & 0x70:
            raise WebSocketError("the server's frame is masked or uses an extension")
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        if opcode >= CLOSE:
            return self._control(opcode, start, size)
        if opcode not in (CONTINUATION, BINARY):
            raise WebSocketError(f"the server sent a frame of kind {opcode}; expected binary data")
        del buffer[:start]
        self._left = size
        return self._piece(opcode) if buffer or not size else None

    def _control(self, opcode: int, start: int, size: int) -> Frame | None:
        if size > 125:
            raise WebSocketError("the server's control frame is too long")
        if len(self._buffer) < start + size:
            return None
        data = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return Frame(opcode, data)

    def _piece(self, opcode: int) -> Frame:
        data = bytes(self._buffer[: self._left])
        del self._buffer[: len(data)]
        self._left -= len(data)
        return Frame(opcode, data)
