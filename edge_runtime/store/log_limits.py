"""What of a topic is forgotten, when, and who loses something by it.

Records that every group has done with are kept up to `retention_bytes` and `retention_ms`. Records that a group still
wants are kept past `retention_bytes`, but not past `retention_ms`, and with `drop_oldest` not past `backlog_bytes`.
A group without a subscriber for `group_expiry_ms` is forgotten: it holds nothing back any more. Each loss of a group is
written down. One step deletes a bounded run, so that a big clearing never holds up the writer.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.store.log_plan import decode_in_hand
from edge_runtime.store.log_tables import RECORD_OVERHEAD, TAIL, Ask, Row, Topic

TRIM_COUNT: Final = 512
TRIM_BYTES: Final = 8 * 2**20
DROPS_MAX: Final = 1_000  # lines kept in the table of drops, of all topics together


class Limits(NamedTuple):
    """How much of a topic is kept. `drop_oldest`: past `backlog_bytes` the oldest goes, consumed or not."""

    retention_bytes: int
    retention_ms: int
    backlog_bytes: int
    drop_oldest: bool
    group_expiry_ms: int


class Standing(NamedTuple):
    """A topic's size: what is kept, and how much of it the slowest group has still to get. `more`: trim again."""

    kept_bytes: int
    backlog_bytes: int
    oldest_at: int | None
    more: bool


class Drop(NamedTuple):
    """Messages that a group did not get. `wall_at` is what the wall clock said (unix seconds)."""

    topic: str
    group: str
    reason: str
    entries: int
    bytes: int
    first: int
    last: int
    wall_at: float


class Span(NamedTuple):
    """What a topic holds: `first` and `last` are keys, `start` and `end` its length in bytes before and after.

    `hold` is the first key that some live group still wants, one past the last when none does.
    """

    first: int
    last: int
    start: int
    end: int
    first_at: int
    hold: int


class _Cut(NamedTuple):
    """Everything below `key` goes; below `aged` because of its age, below `full` because the backlog is too long."""

    key: int
    aged: int
    full: int


class _Loss(NamedTuple):
    """What one group has not done of a cut."""

    first: int
    last: int
    entries: int
    bytes: int


def find_span(ask: Ask, topic: Topic, owned: Collection[int], forgotten_before: int) -> Span | None:
    """None when the topic is empty. `owned` are groups with a subscriber here: they cannot be forgotten."""
    floor = topic.base + ask("SELECT floor FROM log_topic WHERE id = ?", (topic.id,))[0][0]
    last, end, _ = ask(TAIL, (topic.base, topic.top))[0]
    first = ask(
        "SELECT id, end_bytes - length(data) - ifnull(length(metadata), 0) - ?, at FROM log_entry"
        " WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
        (RECORD_OVERHEAD, floor, topic.top),
    )
    if not first:
        return None
    hold = last + 1
    for group_id, cursor, seen_at in ask("SELECT id, cursor, seen_at FROM log_group WHERE topic = ?", (topic.id,)):
        if group_id in owned or seen_at >= forgotten_before:
            hold = min(hold, topic.base + cursor)
    return Span(first[0][0], last, first[0][1], end, first[0][2], max(hold, first[0][0]))


def length_before(ask: Ask, topic: Topic, span: Span, key: int) -> int:
    """The topic's length in bytes before `key`."""
    if key <= span.first:
        return span.start
    length: int = ask(TAIL, (topic.base, min(key, span.last + 1)))[0][1]
    return length


def standing(
    ask: Ask, topic: Topic, limits: Limits, owned: Collection[int], now: int, *, more: bool = False
) -> Standing:
    """How much the topic holds."""
    span = find_span(ask, topic, owned, now - limits.group_expiry_ms)
    if span is None:
        return Standing(0, 0, None, False)
    backlog = span.end - length_before(ask, topic, span, span.hold)
    return Standing(span.end - span.start, backlog, span.first_at, more)


def is_due(ask: Ask, topic: Topic, limits: Limits, owned: Collection[int], now: int) -> bool:
    """Is there anything to trim?"""
    return _find_cut(ask, topic, limits, owned, now) is not None


def trim(conn: Any, topic: Topic, limits: Limits, owned: Collection[int], now: int) -> tuple[Standing, Sequence[Drop]]:
    """One step, inside the writer's transaction."""

    def ask(sql: str, args: Sequence[Any]) -> Sequence[Row]:
        rows: Sequence[Row] = conn.execute(sql, args).fetchall()
        return rows

    cut = _find_cut(ask, topic, limits, owned, now)
    if cut is None:
        return standing(ask, topic, limits, owned, now), ()
    drops = _write_losses(conn, ask, topic, cut, now)
    conn.execute("UPDATE log_topic SET floor = ? WHERE id = ?", (cut.key - topic.base, topic.id))
    last = ask(TAIL, (topic.base, topic.top))[0][0]
    conn.execute("DELETE FROM log_entry WHERE id >= ? AND id < ?", (topic.base, min(cut.key, last)))
    if cut.key > last:
        conn.execute("UPDATE log_entry SET data = x'', metadata = NULL, crc = 0 WHERE id = ?", (last,))
    return standing(ask, topic, limits, owned, now, more=True), drops


def _find_cut(ask: Ask, topic: Topic, limits: Limits, owned: Collection[int], now: int) -> _Cut | None:
    span = find_span(ask, topic, owned, now - limits.group_expiry_ms)
    if span is None:
        return None

    def below(column: str, bound: int) -> int:
        """One past the last key of this step whose `column` is at most `bound`."""
        newest = ask(
            f"SELECT max(id) FROM log_entry WHERE id >= ? AND id < ? AND (id = ? OR end_bytes <= ?) AND {column} <= ?",
            (span.first, min(span.first + TRIM_COUNT, topic.top), span.first, span.start + TRIM_BYTES, bound),
        )[0][0]
        return span.first if newest is None else newest + 1

    aged = below("at", now - limits.retention_ms)
    full = below("end_bytes", span.end - limits.backlog_bytes) if limits.drop_oldest else span.first
    over = min(below("end_bytes", span.end - limits.retention_bytes), span.hold)
    key = max(aged, full, over)
    return _Cut(key, aged, full) if key > span.first else None


def _write_losses(conn: Any, ask: Ask, topic: Topic, cut: _Cut, now: int) -> Sequence[Drop]:
    floor = ask("SELECT floor FROM log_topic WHERE id = ?", (topic.id,))[0][0]
    cut_place = cut.key - topic.base
    reason = "age" if cut.aged == cut.key else "full" if cut.full == cut.key else "forgotten"
    drops = []
    for name, next_place, in_hand in ask(
        "SELECT name, next, in_hand FROM log_group WHERE topic = ? AND cursor < ?", (topic.id, cut_place)
    ):
        loss = _find_loss(ask, topic, floor, cut_place, next_place, in_hand)
        if loss is not None:
            write_drop(conn, topic, name, reason, loss, now)
            drops.append(Drop(topic.name, name, reason, loss.entries, loss.bytes, loss.first, loss.last, time.time()))
    return drops


def _find_loss(ask: Ask, topic: Topic, floor: int, cut: int, next_place: int, in_hand: bytes | None) -> _Loss | None:
    try:
        places = [place for place, _ in decode_in_hand(in_hand, next_place) if floor <= place < cut]
    except ValueError:
        places = []
    places += range(max(next_place, floor), cut)
    if not places:
        return None
    rows = ask(
        "SELECT id, length(data) + ifnull(length(metadata), 0) FROM log_entry WHERE id >= ? AND id <= ?",
        (topic.base + places[0], topic.base + places[-1]),
    )
    sizes: dict[int, int] = {row[0] - topic.base: row[1] for row in rows}
    return _Loss(places[0], places[-1], len(places), sum(sizes.get(place, 0) for place in places))


def write_drop(conn: Any, topic: Topic, group: str, reason: str, loss: tuple[int, int, int, int], now: int) -> None:
    """One line a run of drops: a loss that follows closely on the group's last line makes that line longer."""
    first, last, entries, size = loss
    line = conn.execute(
        "SELECT id, last, reason FROM log_drop WHERE topic = ? AND group_name = ? ORDER BY id DESC LIMIT 1",
        (topic.id, group),
    ).fetchone()
    if line is not None and line[2] == reason and line[1] < first <= line[1] + TRIM_COUNT:
        conn.execute(
            "UPDATE log_drop SET entries = entries + ?, bytes = bytes + ?, last = ?, at = ?, wall_at = ? WHERE id = ?",
            (entries, size, last, now, time.time(), line[0]),
        )
        return
    conn.execute(
        "INSERT INTO log_drop (topic, group_name, reason, entries, bytes, first, last, at, wall_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (topic.id, group, reason, entries, size, first, last, now, time.time()),
    )
    conn.execute("DELETE FROM log_drop WHERE id <= (SELECT max(id) FROM log_drop) - ?", (DROPS_MAX,))
