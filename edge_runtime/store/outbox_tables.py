"""The outbox's tables, what their rows look like, and the checksums that let damage be seen.

An entry's key is its route's number and its place in the route, so that a route lies in one run of pages and appending
touches the last of them alone: no index, and no counter row. Each entry carries the bytes of its route up to its end,
and each route's row, which is written with every removal anyway, what has been taken out so far. So what waits, in
entries and in bytes, is a subtraction, after a restart too.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from edge_runtime.store.migrations import Step
from edge_runtime.store.records import DamagedRecord, open_record, seal_record

PLACE_BITS: Final = 40
PLACE_MAX: Final = (1 << PLACE_BITS) - 1
# What an entry is counted with beside its payload and key: about what its row costs on disk.
ENTRY_OVERHEAD: Final = 64

_SCHEMA: Final = """
CREATE TABLE outbox_route (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, out_entries INTEGER NOT NULL,
    out_bytes INTEGER NOT NULL, last INTEGER NOT NULL, last_bytes INTEGER NOT NULL, last_at INTEGER NOT NULL,
    last_hlc INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE outbox_entry (
    id INTEGER PRIMARY KEY, end_bytes INTEGER NOT NULL, size INTEGER NOT NULL, at INTEGER NOT NULL,
    attempts INTEGER NOT NULL, priority INTEGER, key BLOB NOT NULL, hlc INTEGER NOT NULL, epoch INTEGER NOT NULL,
    record BLOB NOT NULL);
CREATE INDEX outbox_entry_priority ON outbox_entry (priority) WHERE priority IS NOT NULL;
CREATE TABLE outbox_dead (
    id INTEGER PRIMARY KEY, size INTEGER NOT NULL, at INTEGER NOT NULL, attempts INTEGER NOT NULL, priority INTEGER,
    key BLOB NOT NULL, hlc INTEGER NOT NULL, epoch INTEGER NOT NULL, reason TEXT NOT NULL, died_at REAL NOT NULL,
    record BLOB NOT NULL);
CREATE TABLE outbox_drop (
    id INTEGER PRIMARY KEY, route INTEGER NOT NULL, reason TEXT NOT NULL, entries INTEGER NOT NULL,
    bytes INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, first_key TEXT NOT NULL,
    last_key TEXT NOT NULL, from_wall REAL NOT NULL, to_wall REAL NOT NULL, lines INTEGER NOT NULL)
"""


def _make(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)


STEPS: Final = (Step("outbox-1", _make),)

HAS_TABLES: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outbox_drop'"
TAIL: Final = "SELECT id, end_bytes, at, hlc FROM outbox_entry WHERE id > ? AND id < ? ORDER BY id DESC LIMIT 1"

Row = tuple[Any, ...]
# A question to the file: a reader's connection asks, or the writer's inside its transaction.
Ask = Callable[[str, Sequence[Any]], Sequence[Row]]
_HEAD: Final = struct.Struct(">qqqqqI")
_ROUTE: Final = struct.Struct(">qqqqqqq")


class RouteRow(NamedTuple):
    """What a route's row says: what was taken out, and the last entry that was ever seen when it was written."""

    out_entries: int
    out_bytes: int
    last: int
    last_bytes: int
    last_at: int
    last_hlc: int


class Head(NamedTuple):
    """An entry without its payload."""

    id: int
    size: int
    at: int
    attempts: int
    key: str
    hlc: int
    epoch: int
    priority: int | None


class Content(NamedTuple):
    """What an entry carries. `wall` is what the wall clock said when it was taken in."""

    payload: Mapping[str, Any] | bytes
    wall: float


def head_of(row: Row) -> Head:
    """The first columns of a row. One that damage made another type becomes a number that its checksum refuses."""
    entry_id, size, at, attempts, key, hlc, epoch, priority = row[:8]
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    whole = (number if type(number) is int else 0 for number in (size, at, attempts, hlc, epoch))
    size, at, attempts, hlc, epoch = whole
    return Head(entry_id, size, at, attempts, text, hlc, epoch, priority if type(priority) is int else None)


def base_of(route_id: int) -> int:
    """Every entry of the route lies above, and below the base of the next route."""
    return route_id << PLACE_BITS


def route_checksum(route_id: int, row: RouteRow) -> int:
    return crc32(_ROUTE.pack(route_id, *row))


def route_is_whole(route_id: int, row: RouteRow, checksum: Any) -> bool:
    """False when the row is not what was written, even in the types of its columns."""
    try:
        return bool(route_checksum(route_id, row) == checksum)
    except struct.error:
        return False


def seal_entry(route_id: int, key: str, at: int, hlc: int, epoch: int, size: int, content: Content) -> bytes:
    """The record; it also holds a checksum over the columns beside it."""
    return seal_record([content.payload, content.wall, _head_checksum(route_id, key, at, hlc, epoch, size)])


def open_entry(head: Head, record: bytes) -> Content:
    """Raises DamagedRecord when the record or a column beside it is not what was written."""
    value = open_record(record)
    checksum = _head_checksum(head.id >> PLACE_BITS, head.key, head.at, head.hlc, head.epoch, head.size)
    if value[2] != checksum:
        raise DamagedRecord(f"entry {head.id}: its columns do not match their checksum")
    return Content(value[0], value[1])


def _head_checksum(route_id: int, key: str, at: int, hlc: int, epoch: int, size: int) -> int:
    try:
        return crc32(_HEAD.pack(route_id, at, hlc, epoch, size, crc32(key.encode())))
    except (struct.error, TypeError, AttributeError) as error:  # a column has another type than was written
        raise DamagedRecord(f"an entry's columns are damaged: {error}") from None
