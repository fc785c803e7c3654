"""The log's tables, the statements that more than one module needs, and what a row looks like.

A record's key is its topic's number and its place in the topic, so that a topic lies in one run of pages and needs no
index; each carries the bytes of the topic up to its end, so that any distance in bytes is one subtraction. A topic
begins with an empty row at place 0 and its last row always stays, so that no place is ever given twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import crc32

PLACE_BITS: Final = 40
PLACE_MAX: Final = (1 << PLACE_BITS) - 1
RECORD_OVERHEAD: Final = 32  # bytes that a record is counted with beside its content, so that empty ones count too

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS log_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1), boot TEXT NOT NULL, base INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS log_topic (
    id INTEGER PRIMARY KEY AUTOINCREMENT, component TEXT NOT NULL, name TEXT NOT NULL, floor INTEGER NOT NULL,
    UNIQUE (component, name));
CREATE TABLE IF NOT EXISTS log_entry (
    id INTEGER PRIMARY KEY, end_bytes INTEGER NOT NULL, at INTEGER NOT NULL, crc INTEGER NOT NULL,
    data BLOB NOT NULL, metadata BLOB);
CREATE TABLE IF NOT EXISTS log_group (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, name TEXT NOT NULL, cursor INTEGER NOT NULL,
    next INTEGER NOT NULL, in_hand BLOB, crc INTEGER NOT NULL, seen_at INTEGER NOT NULL,
    UNIQUE (topic, name));
CREATE TABLE IF NOT EXISTS log_drop (
    id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, group_name TEXT NOT NULL, reason TEXT NOT NULL,
    entries INTEGER NOT NULL, bytes INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    at INTEGER NOT NULL, wall_at REAL NOT NULL)
"""
HAS_TABLES: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'log_drop'"
TAIL: Final = "SELECT id, end_bytes, at FROM log_entry WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1"

Row = tuple[Any, ...]
# A question to the file: a reader's connection asks, or the writer's inside its transaction.
Ask = Callable[[str, Sequence[Any]], Sequence[Row]]


class Topic:
    """One topic's number, and the keys that its records can have."""

    __slots__ = ("base", "component", "id", "name", "top")

    def __init__(self, topic_id: int, component: str, name: str) -> None:
        self.id = topic_id
        self.component = component
        self.name = name
        self.base = topic_id << PLACE_BITS
        self.top = (topic_id + 1) << PLACE_BITS


def record_checksum(topic_id: int, data: bytes, metadata: bytes | None) -> int:
    """Over what an app will see, and the topic, so that a row that strayed is found too."""
    crc = crc32(data, topic_id)
    return crc32(metadata, crc) if metadata else crc


def record_is_whole(topic_id: int, crc: object, data: object, metadata: object) -> bool:
    """Does the checksum hold? The columns of a damaged row may have any type."""
    if type(data) is not bytes or not (metadata is None or type(metadata) is bytes):
        return False
    return crc == record_checksum(topic_id, data, metadata)


def group_checksum(next_place: object, in_hand: object) -> int:
    """Over a group's place in the log. The columns of a damaged row may have any type."""
    return crc32(in_hand if type(in_hand) is bytes else b"", crc32(str(next_place).encode()))


def wall_time(at: int, now: int) -> float:
    """The log's time as unix time by today's clock: right also for what was written before the clock was set."""
    return time.time() - (now - at) / 1000
