"""The log for people: what it holds, who lags behind, what was dropped. Only reads, from any process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.store.log_clock import up_ms
from edge_runtime.store.log_limits import Drop, Span, find_span, length_before
from edge_runtime.store.log_plan import decode_in_hand
from edge_runtime.store.log_tables import HAS_TABLES, PLACE_MAX, TAIL, Ask, Row, Topic, record_is_whole, wall_time

if TYPE_CHECKING:
    from edge_runtime.store.database import Database


class GroupInfo(NamedTuple):
    """Where a group stands. `in_flight` counts what is delivered or waits for redelivery, as last written down."""

    group: str
    cursor: int
    lag: int
    lag_bytes: int
    in_flight: int
    dropped: int


class TopicInfo(NamedTuple):
    """What a topic holds. `oldest_at` is unix time by today's clock, None when the topic is empty."""

    component: str
    topic: str
    entries: int
    bytes: int
    first_offset: int
    last_offset: int
    oldest_at: float | None
    groups: Sequence[GroupInfo]


class PeekedRecord(NamedTuple):
    """A record for people to look at; `damaged` when its checksum failed."""

    offset: int
    at: float
    data: bytes
    metadata: Mapping[str, str]
    damaged: bool


def describe(database: Database, clock_ms: Callable[[], int] = up_ms) -> list[TopicInfo]:
    """Every topic of the file, by component and name, with its groups."""
    if not database.read(HAS_TABLES):
        return []
    now = _now(database, clock_ms)
    rows = database.read("SELECT id, component, name, floor FROM log_topic ORDER BY component, name")
    return [_describe_topic(database.read, Topic(row[0], row[1], row[2]), row[3], now) for row in rows]


def peek(
    database: Database,
    component: str,
    topic: str,
    from_offset: int = 0,
    limit: int = 20,
    clock_ms: Callable[[], int] = up_ms,
) -> list[PeekedRecord]:
    """Up to `limit` records from `from_offset` on; nothing is consumed by looking."""
    if not database.read(HAS_TABLES):
        return []
    rows = database.read("SELECT id, floor FROM log_topic WHERE component = ? AND name = ?", (component, topic))
    if not rows:
        return []
    found = Topic(rows[0][0], component, topic)
    records = database.read(
        "SELECT id, at, crc, data, metadata FROM log_entry WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (found.base + max(from_offset, rows[0][1]), found.top, limit),
    )
    now = _now(database, clock_ms)
    return [_peeked(found, row, now) for row in records]


def drops(database: Database, limit: int = 100) -> list[Drop]:
    """What groups did not get, newest first."""
    if not database.read(HAS_TABLES):
        return []
    rows = database.read(
        "SELECT t.name, d.group_name, d.reason, d.entries, d.bytes, d.first, d.last, d.wall_at"
        " FROM log_drop d JOIN log_topic t ON t.id = d.topic ORDER BY d.id DESC LIMIT ?",
        (limit,),
    )
    return [Drop(*row) for row in rows]


def _now(database: Database, clock_ms: Callable[[], int]) -> int:
    base: int = database.read("SELECT base FROM log_clock")[0][0]
    return base + clock_ms()


def _peeked(topic: Topic, row: Row, now: int) -> PeekedRecord:
    record_id, at, crc, data, text = row
    whole = record_is_whole(topic.id, crc, data, text)
    metadata = json.loads(text) if text and whole else {}
    content = data if type(data) is bytes else b""
    return PeekedRecord(record_id & PLACE_MAX, wall_time(at, now), content, metadata, not whole)


def _describe_topic(ask: Ask, topic: Topic, floor: int, now: int) -> TopicInfo:
    span = find_span(ask, topic, (), 0)
    last = ask(TAIL, (topic.base, topic.top))[0][0] & PLACE_MAX
    groups = [
        _describe_group(ask, topic, span, floor, last, row)
        for row in ask("SELECT name, cursor, next, in_hand FROM log_group WHERE topic = ? ORDER BY name", (topic.id,))
    ]
    if span is None:
        return TopicInfo(topic.component, topic.name, 0, 0, floor, last, None, groups)
    entries, size = last - floor + 1, span.end - span.start
    return TopicInfo(topic.component, topic.name, entries, size, floor, last, wall_time(span.first_at, now), groups)


def _describe_group(ask: Ask, topic: Topic, span: Span | None, floor: int, last: int, row: Row) -> GroupInfo:
    name, cursor, next_place, text = row
    try:
        in_hand = [place for place, _ in decode_in_hand(text, next_place) if place >= floor]
    except ValueError:
        in_hand = []
    cursor = max(cursor, floor)
    lag = max(0, last - max(next_place, floor) + 1) + len(in_hand)
    lag_bytes = span.end - length_before(ask, topic, span, topic.base + cursor) if lag and span is not None else 0
    dropped = ask("SELECT ifnull(sum(entries), 0) FROM log_drop WHERE topic = ? AND group_name = ?", (topic.id, name))[
        0
    ][0]
    return GroupInfo(name, cursor, lag, lag_bytes, len(in_hand), dropped)
