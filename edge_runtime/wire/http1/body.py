"""The chunked coding of a body: one reader for both engines and both directions.

It looks at a buffer from a position and has three answers: a piece, END, or NEED_DATA.
"""

from __future__ import annotations

import enum
from typing import Final

from edge_runtime.wire.http1.events import END, NEED_DATA, Limits, ProtocolError, Signal
from edge_runtime.wire.http1.grammar import match_chunk_line, match_trailers, may_be_trailers

_CHUNK_LINE_DIGITS_MAX: Final = 15


class _At(enum.Enum):
    LINE = enum.auto()
    DATA = enum.auto()
    LINE_END = enum.auto()
    TRAILERS = enum.auto()


class Chunks:
    """Reads the chunked coding of one body. Chunk extensions and trailers are checked and dropped."""

    __slots__ = ("_at", "_extension_bytes", "_left", "_limits", "_status")

    def __init__(self, limits: Limits, status: int) -> None:
        self._limits = limits
        self._status = status  # of the ProtocolError: 400 for a request, 502 for a response
        self._at = _At.LINE
        self._left = 0
        self._extension_bytes = 0

    def read(self, buffer: bytes, position: int) -> tuple[bytes | Signal, int]:
        """The next piece (or END, or NEED_DATA), and where to go on in the buffer."""
        while True:
            if self._at is _At.DATA:
                piece = buffer[position : position + self._left]
                self._left -= len(piece)
                if not self._left:
                    self._at = _At.LINE_END
                return piece or NEED_DATA, position + len(piece)
            if self._at is _At.LINE_END:
                end = buffer[position : position + 2]
                if not b"\r\n".startswith(end):
                    raise ProtocolError(self._status, "a chunk is longer than it said")
                if len(end) < 2:
                    return NEED_DATA, position
                position += 2
                self._at = _At.LINE
            elif self._at is _At.LINE:
                after = self._read_line(buffer, position)
                if after == position:
                    return NEED_DATA, position
                position = after
            else:
                after = self._read_trailers(buffer, position)
                return END if after != position else NEED_DATA, after

    def _read_line(self, buffer: bytes, position: int) -> int:
        line = match_chunk_line(buffer, position)
        if line is None:
            self._check_unfinished_line(buffer, position)
            return position
        self._extension_bytes += line.end(2) - line.start(2)
        if self._extension_bytes > self._limits.chunk_extension_bytes_max:
            raise ProtocolError(self._status, "too many bytes of chunk extensions")
        self._left = int(line[1], 16)
        self._at = _At.DATA if self._left else _At.TRAILERS
        return line.end()

    def _check_unfinished_line(self, buffer: bytes, position: int) -> None:
        room = _CHUNK_LINE_DIGITS_MAX + self._limits.chunk_extension_bytes_max - self._extension_bytes + 2
        if buffer.find(b"\n", position) >= 0 or len(buffer) - position > room:
            raise ProtocolError(self._status, "malformed chunk size")

    def _read_trailers(self, buffer: bytes, position: int) -> int:
        trailers = match_trailers(buffer, position)
        end = trailers.end() if trailers is not None else len(buffer)
        if end - position > self._limits.trailer_bytes_max:
            raise ProtocolError(self._status, "the trailers are too large")
        if trailers is None:
            if buffer.find(b"\r\n\r\n", position) >= 0:
                raise ProtocolError(self._status, "malformed trailers")
            return position
        if trailers[1] and not may_be_trailers(trailers[1]):
            raise ProtocolError(self._status, "trailers that speak of the message's length")
        return end
