"""Bytes of an app's output cut into lines, and a way to print them that never holds up the node.

A line longer than the limit comes out in pieces; bytes that are no UTF-8 stay as they are.
"""

from __future__ import annotations

import errno
import os
import re
import select
from typing import Final

import trio

LINE_BYTES_MAX: Final = 64 * 1024
_PIECE_BYTES: Final = select.PIPE_BUF  # what a pipe that is ready takes without waiting, in one piece
_COLOURS: Final = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class LineSplitter:
    """Feed it bytes as they come; it gives back whole lines without their newline."""

    def __init__(self, limit_bytes: int = LINE_BYTES_MAX) -> None:
        self._limit = limit_bytes
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = data.split(b"\n")
        lines: list[bytes] = []
        for part in whole:
            lines += self._cut(self._taken(part), last=True)
        if rest:
            self._pieces.append(rest)
            self._held += len(rest)
            if self._held > self._limit:
                lines += self._cut(self._taken(b""), last=False)
        return lines

    def flush(self) -> list[bytes]:
        """What came after the last newline; nothing more follows."""
        return self._cut(self._taken(b""), last=True) if self._held else []

    def _taken(self, end: bytes) -> bytes:
        line = b"".join((*self._pieces, end))
        self._pieces.clear()
        self._held = 0
        return line

    def _cut(self, line: bytes, *, last: bool) -> list[bytes]:
        if len(line) <= self._limit and last:
            return [line]
        pieces = [line[start : start + self._limit] for start in range(0, len(line), self._limit)]
        if not last:
            rest = pieces.pop()
            self._pieces.append(rest)
            self._held = len(rest)
        return pieces


def without_colours(line: bytes) -> bytes:
    return _COLOURS.sub(b"", line)


class Printer:
    """Writes to a file descriptor that may be a pipe with a slow reader, or one that has gone."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._gone = False
        self._turn = trio.Lock()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    async def write(self, data: bytes) -> None:
        """Everything, waiting for the reader where needed; nothing once the reader has gone."""
        async with self._turn:
            start = 0
            while start < len(data) and not self._gone:
                start += await self._some(data[start : start + _PIECE_BYTES])

    async def _some(self, piece: bytes) -> int:
        if not self._poll.poll(0):
            await trio.lowlevel.wait_writable(self._fd)
        try:
            return os.write(self._fd, piece)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(self._fd)
            return 0
        except OSError as error:
            self._gone = error.errno != errno.EINTR
            return 0
