"""The log: topics of records in a SQLite file, with the place that each consumer group has reached in them.

Publishing is one statement and a share of one commit. A group's place is one row, written when something was
acknowledged. What the rows look like is in `log_tables`, what is forgotten and when in `log_limits`, what a group does
next in `log_plan`, the clock in `log_clock`.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_runtime.model.errors import DriverError, Overloaded
from edge_runtime.store import log_limits
from edge_runtime.store.log_clock import boot_id, carry_on, up_ms
from edge_runtime.store.log_limits import Drop, Limits, Standing
from edge_runtime.store.log_plan import decode_in_hand, encode_in_hand
from edge_runtime.store.log_tables import (
    HAS_TABLES,
    PLACE_BITS,
    PLACE_MAX,
    RECORD_OVERHEAD,
    SCHEMA,
    TAIL,
    Row,
    Topic,
    group_checksum,
    record_checksum,
    record_is_whole,
)
from edge_runtime.store.log_view import GroupInfo, PeekedRecord, TopicInfo, describe, drops, peek

if TYPE_CHECKING:
    from edge_runtime.store.database import Database

__all__ = [
    "Drop",
    "GroupInfo",
    "GroupState",
    "Limits",
    "Log",
    "PeekedRecord",
    "Record",
    "Standing",
    "Topic",
    "TopicInfo",
    "describe",
    "drops",
    "open_log",
    "peek",
]

logger: Final = logging.getLogger("dapr.runtime.log")

READ_COUNT: Final = 64
READ_BYTES: Final = 256 * 1024

_APPEND: Final = (
    "INSERT INTO log_entry VALUES ((SELECT max(id) + 1 FROM log_entry WHERE id >= ?6 AND id < ?7),"
    " (SELECT end_bytes FROM log_entry WHERE id >= ?6 AND id < ?7 ORDER BY id DESC LIMIT 1) + ?1, ?2, ?3, ?4, ?5)"
)
# Not the last row of a topic once it is forgotten and emptied: a group that has not come so far would find it damaged.
_RECORD: Final = (
    "SELECT id, crc, data, metadata, end_bytes FROM log_entry"
    " WHERE (crc != 0 OR length(data) OR metadata IS NOT NULL) AND "
)
_READ_FIRST: Final = _RECORD + "id >= ? AND id < ? ORDER BY id LIMIT 1"
_READ_SOME: Final = _RECORD + "id >= ? AND id < ? AND end_bytes <= ? ORDER BY id LIMIT ?"
_READ_ONE: Final = _RECORD + "id = ?"
_SAVE_GROUP: Final = "UPDATE log_group SET cursor = ?, next = ?, in_hand = ?, crc = ?, seen_at = ? WHERE id = ?"


class Record(NamedTuple):
    """One record as read; `data` None when its checksum failed. `end_bytes` is the topic's length at its end."""

    place: int
    data: bytes | None
    metadata: Mapping[str, str]
    end_bytes: int | None


class GroupState(NamedTuple):
    """What is known of a group at its opening: `in_hand` are (place, attempts) below `next` that are not done."""

    next: int
    in_hand: Sequence[tuple[int, int]]


class Log:
    """The log of one file. Reading is synchronous, writing returns when it is on disk."""

    def __init__(self, database: Database, base: int, clock_ms: Callable[[], int]) -> None:
        self.database = database
        self._base = base
        self._clock_ms = clock_ms
        self._topics: dict[tuple[str, str], Topic] = {}
        self.damaged = 0  # records and group rows whose checksum failed

    def now(self) -> int:
        """The log's clock, in milliseconds."""
        return self._base + self._clock_ms()

    # --- topics and records

    async def topic(self, component: str, name: str, topics_max: int) -> Topic:
        """The topic, made when there is none."""
        topic = self._topics.get((component, name))
        if topic is None:
            rows = self.database.read("SELECT id FROM log_topic WHERE component = ? AND name = ?", (component, name))
            if rows:
                topic_id = rows[0][0]
            else:
                now = self.now()
                topic_id = await self.database.write(lambda conn: _make_topic(conn, component, name, topics_max, now))
            topic = self._topics.setdefault((component, name), Topic(topic_id, component, name))
        return topic

    async def append(self, topic: Topic, data: bytes, metadata: Mapping[str, str]) -> int:
        """The place of the record in its topic, once it is on disk."""
        row = self._row(topic, data, metadata)

        def insert(conn: sqlite3.Connection) -> int:
            return conn.execute(_APPEND, row).lastrowid or 0

        return await self.database.write(insert, size_bytes=row[0], single=True) & PLACE_MAX

    async def append_all(self, topic: Topic, entries: Sequence[tuple[bytes, Mapping[str, str]]]) -> int:
        """All or none, next to one another; the place of the first."""
        rows = [self._row(topic, data, metadata) for data, metadata in entries]

        def insert(conn: sqlite3.Connection) -> int:
            last = 0
            for row in rows:
                last = conn.execute(_APPEND, row).lastrowid or 0
            return last

        last_id = await self.database.write(insert, size_bytes=sum(row[0] for row in rows))
        return (last_id & PLACE_MAX) - len(rows) + 1

    def _row(self, topic: Topic, data: bytes, metadata: Mapping[str, str]) -> Row:
        text = json.dumps(metadata, separators=(",", ":")).encode() if metadata else None
        size = len(data) + RECORD_OVERHEAD + (len(text) if text else 0)
        at = self._base + self._clock_ms()
        return size, at, record_checksum(topic.id, data, text), data, text, topic.base, topic.top

    def existing_topics(self, component: str) -> list[str]:
        """The names of the topics that the file has of this component."""
        return [row[0] for row in self.database.read("SELECT name FROM log_topic WHERE component = ?", (component,))]

    def last_place(self, topic: Topic) -> int:
        """The place of the newest record, 0 when there has been none."""
        place: int = self.database.read(TAIL, (topic.base, topic.top))[0][0] & PLACE_MAX
        return place

    def floor(self, topic: Topic) -> int:
        """The first place that is still kept."""
        floor: int = self.database.read("SELECT floor FROM log_topic WHERE id = ?", (topic.id,))[0][0]
        return floor

    def read(self, topic: Topic, place: int, after_bytes: int | None) -> Sequence[Record]:
        """Records from `place` on: some, or none when there are no more.

        `after_bytes` is the topic's length before them, when known: it bounds how many bytes are read at once.
        """
        start = topic.base + place
        rows: Sequence[Row] = ()
        try:
            if after_bytes is not None:
                rows = self.database.read(_READ_SOME, (start, topic.top, after_bytes + READ_BYTES, READ_COUNT))
            if not rows:
                rows = self.database.read(_READ_FIRST, (start, topic.top))
        except DriverError as error:
            if not _is_damage(error):
                raise
            return self._read_around_damage(topic, place, error)
        return [self._record(topic, row) for row in rows]

    def read_one(self, topic: Topic, place: int) -> Record | None:
        """The record at `place`, None when it is gone."""
        try:
            rows = self.database.read(_READ_ONE, (topic.base + place,))
        except DriverError as error:
            if not _is_damage(error):
                raise
            self.damaged += 1
            return Record(place, None, {}, None)
        return self._record(topic, rows[0]) if rows else None

    def _read_around_damage(self, topic: Topic, place: int, error: DriverError) -> Sequence[Record]:
        """Row by row past pages that SQLite itself cannot read: each place on them is one damaged record."""
        logger.error("topic %s: damage near offset %d: %s", topic.name, place, error)
        last = min(self.last_place(topic), place + READ_COUNT)
        records = [self.read_one(topic, candidate) for candidate in range(place, last + 1)]
        return [record for record in records if record is not None]

    def _record(self, topic: Topic, row: Row) -> Record:
        record_id, crc, data, text, end_bytes = row
        place = record_id & PLACE_MAX
        if record_is_whole(topic.id, crc, data, text):
            return Record(place, data, json.loads(text) if text else {}, end_bytes)
        self.damaged += 1
        return Record(place, None, {}, None)

    # --- groups

    async def join(self, topic: Topic, name: str, *, latest: bool, groups_max: int, expiry_ms: int) -> int:
        """The group's number, made when there is none: at the oldest record, or past the newest with `latest`."""
        rows = self.database.read("SELECT id FROM log_group WHERE topic = ? AND name = ?", (topic.id, name))
        if rows:
            group_id: int = rows[0][0]
            return group_id
        now = self.now()
        return await self.database.write(
            lambda conn: _make_group(conn, topic, name, latest, groups_max, now, now - expiry_ms)
        )

    def group_state(self, topic: Topic, group_id: int) -> GroupState:
        """Where the group was when it was last written down. A damaged row starts again at the oldest record."""
        floor = self.floor(topic)
        next_place, text, crc = self.database.read(
            "SELECT next, in_hand, crc FROM log_group WHERE id = ?", (group_id,)
        )[0]
        try:
            if crc != group_checksum(next_place, text):
                raise ValueError("its checksum fails")
            in_hand = decode_in_hand(text, next_place)
        except ValueError as error:
            self.damaged += 1
            logger.error("topic %s: the place of group %d is damaged, it starts again: %s", topic.name, group_id, error)
            return GroupState(floor, ())
        return GroupState(max(next_place, floor), [pair for pair in in_hand if pair[0] >= floor])

    async def save_group(self, group_id: int, next_place: int, in_hand: Mapping[int, int]) -> None:
        """Write down where the group is."""
        text = encode_in_hand(in_hand.items(), next_place)
        cursor = min(in_hand, default=next_place)
        row = (cursor, next_place, text, group_checksum(next_place, text), self.now(), group_id)
        await self.database.write(lambda conn: conn.execute(_SAVE_GROUP, row), single=True)

    # --- limits

    def standing(self, topic: Topic, limits: Limits, owned: Collection[int]) -> Standing:
        """How much the topic holds. `owned` are groups that have a subscriber here, so cannot be forgotten."""
        return log_limits.standing(self.database.read, topic, limits, owned, self.now())

    def is_due(self, topic: Topic, limits: Limits, owned: Collection[int]) -> bool:
        """Is there anything to trim? A reader's question, so that the writer is not bothered for nothing."""
        return log_limits.is_due(self.database.read, topic, limits, owned, self.now())

    async def trim(self, topic: Topic, limits: Limits, owned: Collection[int]) -> tuple[Standing, Sequence[Drop]]:
        """One bounded step of forgetting what is past the limits, and what groups lost by it."""
        if not self.is_due(topic, limits, owned):
            return self.standing(topic, limits, owned), ()
        now = self.now()
        return await self.database.write(lambda conn: log_limits.trim(conn, topic, limits, owned, now))

    async def note_drop(self, topic: Topic, group: str, reason: str, place: int, size: int) -> None:
        """Write down that `group` will not get the record at `place`."""
        now = self.now()
        loss = (place, place, 1, size)
        await self.database.write(lambda conn: log_limits.write_drop(conn, topic, group, reason, loss, now))


async def open_log(database: Database, clock_ms: Callable[[], int] = up_ms, boot: Callable[[], str] = boot_id) -> Log:
    """The log of `database`; its tables are made when there are none, and its clock is carried on after a reboot."""
    boot_text = boot()
    if not database.read(HAS_TABLES) or not database.read("SELECT 1 FROM log_clock WHERE boot = ?", (boot_text,)):
        now = clock_ms()
        await database.write(lambda conn: _prepare(conn, boot_text, now))
    return Log(database, database.read("SELECT base FROM log_clock")[0][0], clock_ms)


def _is_damage(error: DriverError) -> bool:
    """Was it the file's content, rather than its medium or a lock?"""
    cause = error.__cause__
    return (
        isinstance(cause, sqlite3.DatabaseError)
        and getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT
    )


def _prepare(conn: sqlite3.Connection, boot: str, clock_ms: int) -> None:
    for statement in SCHEMA.split(";"):
        conn.execute(statement)
    carry_on(conn, boot, clock_ms)


def _make_topic(conn: sqlite3.Connection, component: str, name: str, topics_max: int, now: int) -> int:
    row = conn.execute("SELECT id FROM log_topic WHERE component = ? AND name = ?", (component, name)).fetchone()
    if row is not None:
        found: int = row[0]
        return found
    count = conn.execute("SELECT count(*) FROM log_topic WHERE component = ?", (component,)).fetchone()[0]
    if count >= topics_max:
        raise Overloaded(
            f"pub/sub {component} has {count} topics and makes no more; the limit is the component's metadata topicsMax"
        )
    topic_id = conn.execute(
        "INSERT INTO log_topic (component, name, floor) VALUES (?, ?, 1)", (component, name)
    ).lastrowid
    assert topic_id is not None
    conn.execute("INSERT INTO log_entry VALUES (?, 0, ?, 0, x'', NULL)", (topic_id << PLACE_BITS, now))
    return topic_id


def _make_group(
    conn: sqlite3.Connection, topic: Topic, name: str, latest: bool, groups_max: int, now: int, forgotten_before: int
) -> int:
    row = conn.execute("SELECT id FROM log_group WHERE topic = ? AND name = ?", (topic.id, name)).fetchone()
    if row is not None:
        found: int = row[0]
        return found
    _make_room_for_group(conn, topic, groups_max, forgotten_before)
    if latest:
        place = (conn.execute(TAIL, (topic.base, topic.top)).fetchone()[0] & PLACE_MAX) + 1
    else:
        place = conn.execute("SELECT floor FROM log_topic WHERE id = ?", (topic.id,)).fetchone()[0]
    made = conn.execute(
        "INSERT INTO log_group (topic, name, cursor, next, in_hand, crc, seen_at) VALUES (?, ?, ?, ?, NULL, ?, ?)",
        (topic.id, name, place, place, group_checksum(place, None), now),
    ).lastrowid
    assert made is not None
    return made


def _make_room_for_group(conn: Any, topic: Topic, groups_max: int, forgotten_before: int) -> None:
    """Groups that are forgotten anyway give way to a new one."""
    count = conn.execute("SELECT count(*) FROM log_group WHERE topic = ?", (topic.id,)).fetchone()[0]
    if count >= groups_max:
        forgotten = "DELETE FROM log_group WHERE topic = ? AND seen_at < ?"
        count -= conn.execute(forgotten, (topic.id, forgotten_before)).rowcount
    if count >= groups_max:
        raise Overloaded(
            f"topic {topic.name} of pub/sub {topic.component} has {count} consumer groups and takes no more;"
            " the limit is the component's metadata groupsMax"
        )
