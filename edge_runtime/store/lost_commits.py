"""Finds commits that a damaged -wal file has lost: SQLite takes it up to the first damaged frame, and says nothing.

That is right after a power cut, when the end of the file may be torn. But a commit is flushed before the next one
begins. So when a frame of the same run of the file lies behind a commit that SQLite did not take, that commit was on
disk, and has been acknowledged. The newest commit alone looks the same damaged or torn.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from typing import Final, NamedTuple

from edge_runtime.store.connection import Location
from edge_runtime.store.faults import fault_of

_HEADER: Final = struct.Struct(">8I")  # magic, version, page size, checkpoints, two salts, two checksums
_FRAME: Final = struct.Struct(">6I")  # page, size of the file when it is a commit's last, two salts, two checksums
_SUMMED: Final = {0x377F0682: struct.Struct("<6I"), 0x377F0683: struct.Struct(">6I")}  # by magic: how words are summed
_PAGE_BYTES: Final = 4096  # of files of ours, when the header cannot say
# So many frames behind the last good one are looked at: as much as a -wal file keeps when nothing holds it up.
_FRAMES_MAX: Final = 4096


class LostCommits(NamedTuple):
    """The damage is at this byte of the -wal file; at least so many commits that lay behind are lost."""

    place: int
    commits: int


def read_header(where: Location) -> bytes:
    """What the -wal file begins with, before SQLite looks at it. Empty when there is none."""
    try:
        with open(f"{where.path}-wal", "rb") as file:
            return file.read(_HEADER.size)
    except OSError:
        return b""


def find_lost_commits(connection: sqlite3.Connection, where: Location, header: bytes) -> LostCommits | None:
    """What SQLite has left of the file that began with `header`. Raises sqlite3.Error when the disk fails."""
    if len(header) < _HEADER.size:
        return None
    try:
        _, taken, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
    except sqlite3.Error as error:
        if (fault := fault_of(error)) is not None and fault.restart:
            raise
        return None  # full, read-only or locked: the frames cannot be counted now
    if taken < 0 or read_header(where) != header:  # another process has begun it anew
        return None
    try:
        with open(f"{where.path}-wal", "rb") as file:
            return _look_behind(file.fileno(), header, taken)
    except OSError:
        return None


def _is_whole(header: bytes) -> bool:
    """Does its checksum hold? A header lies in one sector, which no power cut tears."""
    magic, *_, first, second = _HEADER.unpack(header)
    if magic not in _SUMMED:
        return False
    one = two = 0
    words = _SUMMED[magic].unpack_from(header)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return (one, two) == (first, second)


def _look_behind(file: int, header: bytes, taken: int) -> LostCommits | None:
    """The frames that SQLite did not take, for commits that have more behind them."""
    _, _, page_bytes, _, *salts, _, _ = _HEADER.unpack(header)
    whole = _is_whole(header)
    step = _FRAME.size + (page_bytes if whole else _PAGE_BYTES)
    commits, seen = 0, False
    for number in range(taken, taken + _FRAMES_MAX):
        frame = os.pread(file, _FRAME.size, _HEADER.size + number * step)
        if len(frame) < _FRAME.size:
            break
        _, size, first, second, _, _ = _FRAME.unpack(frame)
        if [first, second] != salts:
            if not whole and number == 0:
                salts = [first, second]  # the header's may be what is damaged
            elif number > taken:
                break
        commits += seen
        seen = size != 0
    return LostCommits(_HEADER.size + taken * step, commits) if commits else None
