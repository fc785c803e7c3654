"""The outbox on disk: what waits to be sent, by route, until it is sent, given up, or dropped for a noted reason.

Appending is one statement and a share of one commit. Whoever opens a route holds its lock: one process appends to it
and sends from it. What rows look like is in `outbox_tables`, what was lost in `outbox_ledger`.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_runtime.model.errors import DriverError, Overloaded, StoreUnavailable
from edge_runtime.model.hlc import Clock, unpack
from edge_runtime.model.ports import FateLimits
from edge_runtime.store.fates import Fate, Fates, open_fates, read_fates
from edge_runtime.store.faults import damage_error, driver_error, fault_of
from edge_runtime.store.identity import Identity, open_identity, read_identity
from edge_runtime.store.kernel_clock import Synchronized
from edge_runtime.store.log_clock import boot_id, up_ms
from edge_runtime.store.log_wakes import GroupLock
from edge_runtime.store.migrations import ByName, migrate
from edge_runtime.store.outbox_ledger import Drop, dropped_by_reason, list_drops, write_drop
from edge_runtime.store.outbox_tables import (
    ENTRY_OVERHEAD,
    HAS_TABLES,
    STEPS,
    TAIL,
    Ask,
    Content,
    Head,
    RouteRow,
    Row,
    base_of,
    head_of,
    open_entry,
    route_checksum,
    route_is_whole,
    seal_entry,
)
from edge_runtime.store.records import DamagedRecord

if TYPE_CHECKING:
    from edge_runtime.store.database import Database

__all__ = [
    "Burial",
    "Content",
    "DamagedRecord",
    "DeadLetter",
    "Drop",
    "Fate",
    "Head",
    "OutboxStore",
    "Removal",
    "RouteStore",
    "entry_size",
    "has_outbox",
    "look_at_store",
    "open_entry",
    "open_outbox_store",
]

logger: Final = logging.getLogger("dapr.runtime.outbox")

ROUTES_MAX: Final = 1024
NAME_BYTES_MAX: Final = 256
KEY_BYTES_MAX: Final = 1024
VACUUM_PAGES: Final = 256
FREE_PAGES_MIN: Final = 256
AROUND_MAX: Final = 8192  # places that are looked at one by one when some of them cannot be read

_HEAD: Final = "SELECT id, size, at, attempts, key, hlc, epoch, priority"
_APPEND: Final = (
    "INSERT INTO outbox_entry SELECT"
    " max(ifnull((SELECT max(id) FROM outbox_entry WHERE id > ?1 AND id < ?2), 0), last) + 1,"
    " max(ifnull((SELECT end_bytes FROM outbox_entry WHERE id > ?1 AND id < ?2 ORDER BY id DESC LIMIT 1), 0),"
    " last_bytes) + ?3, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9 FROM outbox_route WHERE id = ?10"
)
_READ_ALL: Final = f"{_HEAD} FROM outbox_entry WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_READ_OTHERS: Final = (
    f"{_HEAD} FROM outbox_entry WHERE id >= ? AND id < ? AND key NOT IN (SELECT CAST(value AS BLOB) FROM json_each(?))"
    " ORDER BY id LIMIT ?"
)
_READ_KEY: Final = f"{_HEAD} FROM outbox_entry WHERE id >= ? AND id < ? AND key = ? ORDER BY id LIMIT ?"
_READ_RECORDS: Final = "SELECT id, record FROM outbox_entry WHERE id IN (SELECT value FROM json_each(?))"
_REMOVE: Final = "DELETE FROM outbox_entry WHERE id IN (SELECT value FROM json_each(?)) RETURNING size"
_SAVE_ROUTE: Final = (
    "UPDATE outbox_route SET out_entries = ?, out_bytes = ?, last = ?, last_bytes = ?, last_at = ?, last_hlc = ?,"
    " crc = ? WHERE id = ?"
)
_BURY: Final = (
    "INSERT OR REPLACE INTO outbox_dead SELECT id, size, at, ?, priority, key, hlc, epoch, ?, ?, record"
    " FROM outbox_entry WHERE id = ?"
)
_ROUTE_ROW: Final = (
    "SELECT out_entries, out_bytes, last, last_bytes, last_at, last_hlc, crc FROM outbox_route WHERE id = ?"
)


class DeadLetter(NamedTuple):
    """An entry that was given up. `content` is None when its record is damaged."""

    head: Head
    reason: str
    died_at: float
    content: Content | None


class Standing(NamedTuple):
    """What of a route waits on disk."""

    entries: int
    bytes: int
    oldest_at: int | None
    dead_entries: int
    dead_bytes: int


class Burial(NamedTuple):
    """An entry that becomes a dead letter."""

    id: int
    attempts: int
    reason: str


class Removal(NamedTuple):
    """What one transaction takes out of a route: what was sent, what is given up, what is dropped, by reason.

    `attempts` are noted for entries that stay, as the file is written anyway. `said` is what came of some that were
    sent, for a route that keeps that.
    """

    sent: Sequence[int] = ()
    buried: Sequence[Burial] = ()
    dropped: Mapping[str, Sequence[Head]] = {}
    attempts: Sequence[tuple[int, int]] = ()
    said: Mapping[int, Mapping[str, Any]] = {}


class RouteStore:
    """One route's part of the file. Reading is synchronous, writing returns when it is on disk."""

    def __init__(self, outbox: OutboxStore, route_id: int, name: str, lock: GroupLock | None) -> None:
        self.outbox = outbox
        self.database = outbox.database
        self.id = route_id
        self.name = name
        self.base = base_of(route_id)
        self.top = base_of(route_id + 1)
        self._lock = lock
        self._fates: Fates | None = None

    def close(self) -> None:
        """Let another process have the route."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def keep_fates(self, limits: FateLimits | None) -> None:
        """From now on what becomes of entries is kept, within these limits; None is not at all."""
        if limits is None:
            self._fates = None
        elif self._fates is None:
            self._fates = await open_fates(self.database, limits, self.base, self.top)
        else:
            self._fates.limits = limits

    def fates(self, start: int, limit: int) -> list[Fate]:
        """What became of entries from `start` on, in the order of their sequences."""
        return read_fates(self.database.read, max(start, self.base), self.top, self.outbox.now(), limit)

    # --- appending

    async def append(
        self,
        key: str,
        payload: Mapping[str, Any] | bytes,
        priority: int | None,
        size: int,
        room: Mapping[str, Sequence[Head]] | None = None,
    ) -> int:
        """The entry's sequence, once it is on disk; what is in `room` is dropped in the same transaction."""
        outbox = self.outbox
        wall = outbox.wall()
        at, hlc, epoch = outbox.now(), outbox.clock.now(int(wall * 1000)).pack(), outbox.identity.epoch
        record = seal_entry(self.id, key, at, hlc, epoch, size, Content(payload, wall))
        row = (self.base, self.top, size, at, priority, key.encode(), hlc, epoch, record, self.id)
        if room:
            removal = Removal(dropped=room)
            return await self.database.write(lambda conn: self._replace(conn, row, removal, wall), size_bytes=size)
        return await self.database.write(lambda conn: _append(conn, row), size_bytes=size, single=True)

    def _replace(self, connection: sqlite3.Connection, row: Row, removal: Removal, wall: float) -> int:
        self._remove(connection, removal, 0, wall)
        return _append(connection, row)

    # --- reading

    def read(
        self, start: int, stop: int, limit: int, key: str | None = None, without: Sequence[str] = ()
    ) -> list[Head]:
        """Up to `limit` entries from `start` to before `stop`: of one key, or of all keys but `without`."""
        try:
            return self._read(start, stop, limit, key, without)
        except DriverError as error:
            if not _is_damage(error) or stop - start > AROUND_MAX:
                raise
            if stop - start == 1:
                return []
            logger.error("outbox route %s: damage near entry %d: %s", self.name, start, error)
        heads: list[Head] = []
        for place in range(start, stop):
            heads += self.read(place, place + 1, 1, key, without)
            if len(heads) == limit:
                break
        return heads

    def _read(self, start: int, stop: int, limit: int, key: str | None, without: Sequence[str]) -> list[Head]:
        read = self.database.read
        if key is not None:
            rows = read(_READ_KEY, (start, stop, key.encode(), limit))
        elif without:
            rows = read(_READ_OTHERS, (start, stop, json.dumps(without), limit))
        else:
            rows = read(_READ_ALL, (start, stop, limit))
        return self._ascending([head_of(row) for row in rows])

    def _ascending(self, heads: list[Head]) -> list[Head]:
        """Without those whose place damage has changed into another's."""
        kept: list[Head] = []
        for head in heads:
            if not kept or head.id > kept[-1].id:
                kept.append(head)
        if len(kept) < len(heads):
            path = self.database.path
            logger.error("outbox route %s: %s is damaged: entry %d is not the only one", self.name, path, kept[-1].id)
        return kept

    def records(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The records of these entries, as far as they are there. Raises DamagedRecord when one cannot be read."""
        try:
            rows = self.database.read(_READ_RECORDS, (json.dumps(ids),))
        except DriverError as error:
            if not _is_damage(error):
                raise
            raise DamagedRecord(str(error)) from error
        return {row[0]: row[1] for row in rows}

    def tail(self) -> int:
        """The last entry that was ever appended."""
        rows = self.database.read(TAIL, (self.base, self.top))
        last = self._row(self.database.read).last
        return max(rows[0][0], last) if rows else last

    def standing(self) -> Standing:
        """Counted from two rows, unless the route's own row is damaged."""
        read = self.database.read
        row = self._row(read)
        tail = read(TAIL, (self.base, self.top))
        last, last_bytes = (row.last, row.last_bytes)
        if tail:
            last, last_bytes = max(last, tail[0][0]), max(last_bytes, tail[0][1])
        first = self.oldest(1)
        dead = read("SELECT count(*), ifnull(sum(size), 0) FROM outbox_dead WHERE id > ? AND id < ?", self._range)[0]
        return Standing(
            last - self.base - row.out_entries, last_bytes - row.out_bytes, first[0].at if first else None, *dead
        )

    @property
    def _range(self) -> tuple[int, int]:
        return self.base, self.top

    def _row(self, ask: Ask) -> RouteRow:
        rows = ask(_ROUTE_ROW, (self.id,))
        if not rows:  # an index has it still, so it can be neither read nor made anew
            error = damage_error(f"the row of outbox route {self.name} is not there")
            raise driver_error(self.database.path, error) from error
        *values, checksum = rows[0]
        row = RouteRow(*values)
        return row if route_is_whole(self.id, row, checksum) else self._recount(ask)

    def _recount(self, ask: Ask) -> RouteRow:
        """The route's row is damaged: count what there is. Sequences go on far past any that was given."""
        logger.error("outbox route %s: its row is damaged; its entries are counted anew", self.name)
        range_ = self._range
        count, size = ask("SELECT count(*), ifnull(sum(size), 0) FROM outbox_entry WHERE id > ? AND id < ?", range_)[0]
        tail = ask(TAIL, range_)
        dead = ask("SELECT max(id) FROM outbox_dead WHERE id > ? AND id < ?", range_)[0][0] or self.base
        last = max(tail[0][0] if tail else self.base, dead) + (1 << 20)
        end = tail[0][1] if tail else 0
        end = max(end, size)
        return RouteRow(last - self.base - count, end - size, last, end, self.outbox.now(), 0)

    # --- taking out

    async def remove(self, removal: Removal, dead_bytes_max: int) -> list[Head]:
        """Take out what was sent, given up and dropped; the dead letters that had to make room for new ones."""
        wall = self.outbox.wall()
        return await self.database.write(lambda conn: self._remove(conn, removal, dead_bytes_max, wall))

    def _remove(self, connection: sqlite3.Connection, removal: Removal, dead_bytes_max: int, wall: float) -> list[Head]:
        ask = _asker(connection)
        row, tail = self._row(ask), ask(TAIL, self._range)
        for burial in removal.buried:
            connection.execute(_BURY, (burial.attempts, burial.reason, wall, burial.id))
        ids = [*removal.sent, *(burial.id for burial in removal.buried)]
        for reason, heads in removal.dropped.items():
            ids += [head.id for head in heads]
            self._drop(connection, "outbox_entry", reason, heads, wall)
        if removal.said and self._fates is not None:
            self._fates.deliver(connection, removal.said, wall, self.outbox.now())
        sizes = connection.execute(_REMOVE, (json.dumps(ids),)).fetchall()
        if removal.attempts:
            note = "UPDATE outbox_entry SET attempts = ? WHERE id = ? AND attempts != ?"
            connection.executemany(note, [(count, entry, count) for entry, count in removal.attempts])
        self._save(connection, row, tail, len(sizes), sum(size[0] for size in sizes))
        if removal.buried and dead_bytes_max:
            return self._trim_dead(connection, dead_bytes_max, wall)
        return []

    def _drop(
        self, connection: sqlite3.Connection, table: str, reason: str, heads: Sequence[Head], wall: float
    ) -> None:
        """Note why entries go, while the table has them still."""
        write_drop(connection, self.id, reason, heads, wall)
        if heads and self._fates is not None:
            self._fates.drop(connection, table, reason, [head.id for head in heads], wall, self.outbox.now())

    def _save(
        self, connection: sqlite3.Connection, row: RouteRow, tail: Sequence[Row], entries: int, size: int
    ) -> None:
        last = row[2:]
        if tail:
            last = tuple(max(pair) for pair in zip(last, tail[0], strict=True))
        new = RouteRow(row.out_entries + entries, row.out_bytes + size, *last)
        connection.execute(_SAVE_ROUTE, (*new, route_checksum(self.id, new), self.id))

    def _trim_dead(self, connection: sqlite3.Connection, bytes_max: int, wall: float) -> list[Head]:
        """Too many dead letters: the oldest go, and the ledger says so."""
        within = "FROM outbox_dead WHERE id > ? AND id < ?"
        excess = connection.execute(f"SELECT ifnull(sum(size), 0) {within}", self._range).fetchone()[0] - bytes_max
        gone: list[Head] = []
        rows = connection.execute(f"{_HEAD} {within} ORDER BY died_at, id", self._range) if excess > 0 else ()
        for row in rows:
            gone.append(head_of(row))
            excess -= gone[-1].size
            if excess <= 0:
                break
        self._drop(connection, "outbox_dead", "dead letters full", gone, wall)
        connection.executemany("DELETE FROM outbox_dead WHERE id = ?", [(head.id,) for head in gone])
        return gone

    # --- making room

    def oldest(self, limit: int) -> list[Head]:
        """The entries that were taken in first."""
        return self.read(self.base, self.top, limit)

    def lowest(self, priority: int | None, start: int, limit: int) -> list[Head]:
        """The oldest entries of one priority; None are those of the route's own."""
        where = "priority IS NULL" if priority is None else f"priority = {int(priority)}"
        sql = f"{_HEAD} FROM outbox_entry WHERE {where} AND id >= ? AND id < ? ORDER BY id LIMIT ?"
        return [head_of(row) for row in self.database.read(sql, (start, self.top, limit))]

    # --- dead letters

    def dead_letters(self, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """In the order of their sequences."""
        sql = f"{_HEAD}, reason, died_at, record FROM outbox_dead WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
        rows = self.database.read(sql, (max(self.base, after), self.top, limit))
        return [DeadLetter(head_of(row), row[8], row[9], _content(head_of(row), row[10])) for row in rows]

    async def revive(self, ids: Sequence[int] | None) -> list[Head]:
        """Dead letters become entries again, in their old places; None is all of them."""
        return await self.database.write(lambda conn: self._revive(conn, ids))

    def _revive(self, connection: sqlite3.Connection, ids: Sequence[int] | None) -> list[Head]:
        """Their age begins anew. One that is damaged stays where it is."""
        row, tail = self._row(_asker(connection)), connection.execute(TAIL, self._range).fetchall()
        revived: list[Head] = []
        for dead, record in self._dead(connection, ids):
            content = _content(dead, record)
            if content is not None:
                head = dead._replace(at=self.outbox.now(), attempts=0)
                columns = (head.id, 0, head.size, head.at, 0, head.priority, head.key.encode(), head.hlc, head.epoch)
                sealed = seal_entry(self.id, head.key, head.at, head.hlc, head.epoch, head.size, content)
                connection.execute("INSERT INTO outbox_entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*columns, sealed))
                connection.execute("DELETE FROM outbox_dead WHERE id = ?", (head.id,))
                revived.append(head)
        self._save(connection, row, tail, -len(revived), -sum(head.size for head in revived))
        return revived

    async def discard(self, ids: Sequence[int] | None) -> list[Head]:
        """Dead letters are dropped; None is all of them."""
        wall = self.outbox.wall()
        return await self.database.write(lambda conn: self._discard(conn, ids, wall))

    def _discard(self, connection: sqlite3.Connection, ids: Sequence[int] | None, wall: float) -> list[Head]:
        heads = [head for head, _ in self._dead(connection, ids)]
        self._drop(connection, "outbox_dead", "discarded", heads, wall)
        connection.executemany("DELETE FROM outbox_dead WHERE id = ?", [(head.id,) for head in heads])
        return heads

    def _dead(self, connection: sqlite3.Connection, ids: Sequence[int] | None) -> list[tuple[Head, bytes]]:
        wanted = "" if ids is None else " AND id IN (SELECT value FROM json_each(?))"
        args = self._range if ids is None else (*self._range, json.dumps(list(ids)))
        sql = f"{_HEAD}, record FROM outbox_dead WHERE id > ? AND id < ?{wanted} ORDER BY id"
        return [(head_of(row), row[8]) for row in connection.execute(sql, args).fetchall()]

    def dropped(self) -> dict[str, tuple[int, int]]:
        """(entries, bytes) by reason."""
        return dropped_by_reason(self.database.read, self.id)


class OutboxStore:
    """The outbox of one file."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        clock: Clock,
        clock_ms: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.wall = wall
        self.identity = identity
        self.clock = clock
        self._clock_ms = clock_ms
        self._lock_folder = f"{database.path}-outbox"

    def now(self) -> int:
        """The file's clock, in milliseconds."""
        return self.identity.base_ms + self._clock_ms()

    def hlc_text(self, packed: int) -> str:
        """The whole stamp of an entry."""
        return str(unpack(packed, self.identity.node))

    async def open_route(self, name: str) -> RouteStore:
        """The route, made when there is none. Raises DriverError when another process has it."""
        if not name or len(name.encode()) > NAME_BYTES_MAX:
            raise DriverError(f"an outbox route is named {name[:80]!r}; expected 1 to {NAME_BYTES_MAX} bytes")
        rows = self.database.read("SELECT id FROM outbox_route WHERE name = ?", (name,))
        lock = self._lock(name)
        try:
            route_id = rows[0][0] if rows else await self.database.write(lambda conn: _make_route(conn, name))
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        return RouteStore(self, route_id, name, lock)

    def look(self, name: str) -> RouteStore | None:
        """A route to look at, whoever has it; None when there is none."""
        rows = self.database.read("SELECT id FROM outbox_route WHERE name = ?", (name,))
        return RouteStore(self, rows[0][0], name, None) if rows else None

    def names(self) -> list[str]:
        """Of all routes that the file has."""
        return [row[0] for row in self.database.read("SELECT name FROM outbox_route ORDER BY name")]

    def ledger(self, route: str | None = None, limit: int = 1000) -> list[Drop]:
        """The newest lines, the oldest of them first."""
        return list_drops(self.database.read, route, limit)

    def _lock(self, name: str) -> GroupLock | None:
        if self.database.path == ":memory:":
            return None
        try:
            os.makedirs(os.path.join(self._lock_folder, "locks"), exist_ok=True)
            lock = GroupLock(self._lock_folder, "route", name, "")
        except OSError as error:
            raise StoreUnavailable(f"{self._lock_folder}: {error.strerror}; the outbox needs it writable") from error
        if lock.try_acquire():
            return lock
        lock.close()
        raise DriverError(
            f"outbox route {name} is in use by another process with the same state directory;"
            " give one of them another --state-dir, or run both apps on one node"
        )

    async def give_back(self) -> bool:
        """One bounded step of giving free space back to the file system; False when there is not enough to bother."""
        free = self.database.read("PRAGMA freelist_count")[0][0]
        pages = self.database.read("PRAGMA page_count")[0][0]
        if free < FREE_PAGES_MIN or free * 4 < pages:
            return False
        await self.database.write(_vacuum)
        return True


async def open_outbox_store(
    database: Database,
    clock_ms: Callable[[], int] = up_ms,
    is_right: Callable[[], bool] | None = None,
    *,
    wall: Callable[[], float] = time.time,
    boot: Callable[[], str] = boot_id,
) -> OutboxStore:
    """The outbox of `database`; its tables are made when there are none. `is_right` vouches for the wall clock."""
    is_right = is_right or Synchronized()
    await migrate(database, STEPS, ByName())
    latest_at, latest_hlc = _latest(database.read)
    in_memory = database.path == ":memory:"
    identity = await open_identity(database, latest_at, in_memory=in_memory, clock_ms=clock_ms, boot=boot)
    clock = Clock(identity.node, unpack(latest_hlc, identity.node), is_right=is_right)
    return OutboxStore(database, identity, clock, clock_ms, wall)


def has_outbox(database: Database) -> bool:
    """Whether something has ever opened an outbox in this file."""
    return bool(database.read(HAS_TABLES))


def look_at_store(database: Database, clock_ms: Callable[[], int] = up_ms) -> OutboxStore | None:
    """The outbox of a file that is only read, whoever writes it; None when the file has none."""
    if not has_outbox(database):
        return None
    latest_at, latest_hlc = _latest(database.read)
    identity = read_identity(database, latest_at, clock_ms=clock_ms)
    return OutboxStore(database, identity, Clock(identity.node, unpack(latest_hlc, identity.node)), clock_ms)


def _latest(ask: Ask) -> tuple[int, int]:
    """The latest time and stamp in the file."""
    latest_at = latest_hlc = 0
    for route_id, at, hlc in ask("SELECT id, last_at, last_hlc FROM outbox_route", ()):
        tail = ask(TAIL, (base_of(route_id), base_of(route_id + 1)))
        latest_at = max(latest_at, at, tail[0][2] if tail else 0)
        latest_hlc = max(latest_hlc, hlc, tail[0][3] if tail else 0)
    return latest_at, latest_hlc


def _is_damage(error: DriverError) -> bool:
    """Was it what the file holds, rather than its medium or a lock?"""
    cause = error.__cause__
    if not isinstance(cause, sqlite3.Error):
        return False
    fault = fault_of(cause)
    return fault is None or fault.damaged


def _append(connection: sqlite3.Connection, row: Row) -> int:
    cursor = connection.execute(_APPEND, row)
    if cursor.rowcount != 1:
        raise damage_error("the row of an outbox route is not there")
    return cursor.lastrowid or 0


def _asker(connection: sqlite3.Connection) -> Ask:
    def ask(sql: str, args: Sequence[Any]) -> Sequence[Row]:
        rows: Sequence[Row] = connection.execute(sql, args).fetchall()
        return rows

    return ask


def _content(head: Head, record: bytes) -> Content | None:
    try:
        return open_entry(head, record)
    except DamagedRecord:
        return None


def _make_route(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT id FROM outbox_route WHERE name = ?", (name,)).fetchone()
    if row is not None:
        found: int = row[0]
        return found
    if connection.execute("SELECT count(*) FROM outbox_route").fetchone()[0] >= ROUTES_MAX:
        raise Overloaded(f"the outbox has {ROUTES_MAX} routes and makes no more; use fewer names")
    made = connection.execute(
        "INSERT INTO outbox_route (name, out_entries, out_bytes, last, last_bytes, last_at, last_hlc, crc)"
        " VALUES (?, 0, 0, 0, 0, 0, 0, 0)",
        (name,),
    ).lastrowid
    assert made is not None
    row = RouteRow(0, 0, base_of(made), 0, 0, 0)
    connection.execute(_SAVE_ROUTE, (*row, route_checksum(made, row), made))
    return made


def _vacuum(connection: sqlite3.Connection) -> None:
    for _ in range(VACUUM_PAGES):  # each `execute` takes one step of it, which frees one page
        connection.execute("PRAGMA incremental_vacuum(1)")


def entry_size(key: str, payload: Mapping[str, Any] | bytes, size_bytes: int | None = None) -> int:
    """What an entry counts with: its payload, its key and about what a row costs."""
    if size_bytes is None:
        size_bytes = len(payload) if isinstance(payload, bytes) else _mapping_bytes(payload)
    return size_bytes + len(key) + ENTRY_OVERHEAD


def _mapping_bytes(payload: Mapping[str, Any]) -> int:
    sizes = (len(part if isinstance(part, bytes | str) else repr(part)) for part in payload.values())
    return sum(sizes) + sum(len(name) for name in payload)
