"""Messages on a gRPC stream: a flag (1: compressed), four bytes of length, the message.

One reader for both directions. It has three answers: a message, None for "more bytes", or an error. Pieces are joined
once for each message, so that a large one in many small pieces costs its length and not its square.
"""

from __future__ import annotations

from typing import Final

HEAD_BYTES: Final = 5
_SMALL_PIECE_BYTES: Final = 1024  # is joined with the next, because each as an object costs many times its bytes

Frame = tuple[bool, bytes]  # whether the message is compressed, and its bytes


class MessageTooLarge(Exception):
    """A message announces more bytes than are taken, or inflates to more."""

    def __init__(self, size: int, limit: int, *, inflated: bool = False) -> None:
        when = " after decompression" if inflated else ""
        super().__init__(f"grpc: received message{when} larger than max ({size} vs. {limit})")


class BadFrame(Exception):
    """The bytes are no gRPC messages."""


def encode_frame(data: bytes, compressed: bool = False) -> bytes:
    return (b"\x01" if compressed else b"\x00") + len(data).to_bytes(4, "big") + data


class FrameReader:
    """Cuts what arrives into messages. After an error it is of no more use."""

    __slots__ = ("_at", "_limit", "_needed", "_pieces", "_size")

    def __init__(self, message_bytes_max: int) -> None:
        self._limit = message_bytes_max
        self._pieces: list[bytes] = []
        self._at = 0  # where in the first piece the next message begins
        self._size = 0
        self._needed = HEAD_BYTES  # with fewer bytes than that there is no further message

    @property
    def empty(self) -> bool:
        """True between two messages, where a stream may end."""
        return not self._size

    def feed(self, data: bytes) -> None:
        if data:
            pieces = self._pieces
            if pieces and len(pieces[-1]) < _SMALL_PIECE_BYTES:
                pieces[-1] += data
            else:
                pieces.append(data)
            self._size += len(data)

    def next_frame(self) -> Frame | None:
        """The next message, or None when it is not all here. Raises `MessageTooLarge` or `BadFrame`."""
        if self._at and (self._size < self._needed or len(self._pieces) > 1):
            self._pieces[0] = self._pieces[0][self._at :]  # once for all the messages that were cut from it
            self._at = 0
        if self._size < self._needed:
            return None
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        at = self._at
        flag = data[at]
        if flag > 1:
            raise BadFrame(f"grpc: received unexpected payload format {flag}")
        begin = at + HEAD_BYTES
        length = int.from_bytes(data[at + 1 : begin], "big")
        if length > self._limit:
            raise MessageTooLarge(length, self._limit)
        end = begin + length
        if len(data) < end:
            self._pieces = [data]
            self._needed = end - at
            return None
        self._size -= end - at
        self._pieces = [data] if self._size else []
        self._at = end if self._size else 0
        self._needed = HEAD_BYTES
        return flag == 1, data[begin:end]
