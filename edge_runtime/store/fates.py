"""What became of the entries of a route that is asked about them: written with their removal, and kept for a while.

An entry that was delivered leaves what its sender returned, one that was dropped the reason. Dead letters need no row:
they are still there. The table is made with the first route that keeps fates.

Space is bounded by bytes and age. Rows are added up when a route is opened; later sums are estimates that are only too
high, so that a write looks at the table again when there is likely something to take out, and not each time.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_runtime.model.ports import FateLimits
from edge_runtime.store.migrations import ByName, Step, migrate
from edge_runtime.store.outbox_tables import Ask, Row
from edge_runtime.store.records import DamagedRecord, open_record, seal_record

if TYPE_CHECKING:
    from edge_runtime.store.database import Database

logger: Final = logging.getLogger("dapr.runtime.outbox")

ROW_BYTES: Final = 128  # what a row takes beside its record
_LOOK_EVERY_MS: Final = 3_600_000  # how often rows are looked for that are too old
_FREE_AT_ONCE: Final = 8  # of the limit: so much more is taken out than has to be

DELIVERED: Final = "delivered"
_COLUMNS: Final = "id, end, reason, attempts, key, epoch, ended_at, forget_at, record"
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outbox_fate'"
_WITHIN: Final = "FROM outbox_fate WHERE id > ? AND id < ?"


def _make(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE outbox_fate (id INTEGER PRIMARY KEY, end TEXT NOT NULL, reason TEXT NOT NULL,"
        " attempts INTEGER NOT NULL, key BLOB NOT NULL, epoch INTEGER NOT NULL, ended_at REAL NOT NULL,"
        " forget_at INTEGER NOT NULL, record BLOB NOT NULL)"
    )


_STEPS: Final = (Step("outbox-fates-1", _make),)


class Fate(NamedTuple):
    """How an entry ended: `delivered`, or `dropped` for a reason. `said` is what its sender returned, None for nothing
    or for what is damaged; `ended_at` is unix time."""

    id: int
    end: str
    reason: str
    attempts: int
    key: str
    epoch: int
    ended_at: float
    said: Mapping[str, Any] | None


class Fates:
    """Of one route. What is written is written in the transaction that removes the entries."""

    def __init__(self, limits: FateLimits, base: int, top: int, bytes_: int) -> None:
        self.limits = limits
        self._range = (base, top)
        self._bytes = bytes_  # at most so many
        self._looked_at: int | None = None

    def deliver(
        self, connection: sqlite3.Connection, said: Mapping[int, Mapping[str, Any]], wall: float, now: int
    ) -> None:
        """Entries were sent; `said` is what came of them."""
        rows = [(seal_record(dict(what)), entry) for entry, what in said.items()]
        insert = (
            f"INSERT OR REPLACE INTO outbox_fate ({_COLUMNS})"
            f" SELECT id, '{DELIVERED}', '', attempts, key, epoch, ?, ?, ? FROM outbox_entry WHERE id = ?"
        )
        forget_at = now + round(self.limits.age_max_s * 1000)
        connection.executemany(insert, [(wall, forget_at, *row) for row in rows])
        self._bytes += sum(ROW_BYTES + len(record) for record, _ in rows)
        self._keep_within(connection, now)

    def drop(
        self, connection: sqlite3.Connection, table: str, reason: str, ids: Sequence[int], wall: float, now: int
    ) -> None:
        """Entries of a table, which has them still, were dropped."""
        forget_at = now + round(self.limits.age_max_s * 1000)
        connection.execute(
            f"INSERT OR REPLACE INTO outbox_fate ({_COLUMNS}) SELECT id, 'dropped', ?, attempts, key, epoch, ?, ?, X''"
            f" FROM {table} WHERE id IN (SELECT value FROM json_each(?))",
            (reason, wall, forget_at, json.dumps(list(ids))),
        )
        self._bytes += ROW_BYTES * len(ids)
        self._keep_within(connection, now)

    def _keep_within(self, connection: sqlite3.Connection, now: int) -> None:
        if self._looked_at is None or now - self._looked_at >= _LOOK_EVERY_MS:
            self._looked_at = now
            connection.execute(f"DELETE {_WITHIN} AND forget_at <= ?", (*self._range, now))
        if self._bytes > self.limits.bytes_max:
            self._bytes = _sum(lambda sql, args: connection.execute(sql, args).fetchall(), *self._range)
            if self._bytes > self.limits.bytes_max:
                self._take_out(connection)

    def _take_out(self, connection: sqlite3.Connection) -> None:
        """Those that ended first, until there is room again."""
        most = self.limits.bytes_max - self.limits.bytes_max // _FREE_AT_ONCE
        sql = f"SELECT id, length(record) {_WITHIN} ORDER BY ended_at, id"
        gone: list[tuple[int]] = []
        for entry, size in connection.execute(sql, self._range):
            if self._bytes <= most:
                break
            gone.append((entry,))
            self._bytes -= size + ROW_BYTES
        connection.executemany("DELETE FROM outbox_fate WHERE id = ?", gone)


def _sum(ask: Ask, base: int, top: int) -> int:
    total: int = ask(f"SELECT ifnull(sum(length(record) + {ROW_BYTES}), 0) {_WITHIN}", (base, top))[0][0]
    return total


async def open_fates(database: Database, limits: FateLimits, base: int, top: int) -> Fates:
    """The fates of the route whose entries lie between the two."""
    await migrate(database, _STEPS, ByName())
    return Fates(limits, base, top, _sum(database.read, base, top))


def read_fates(ask: Ask, start: int, stop: int, now: int, limit: int) -> list[Fate]:
    """Up to `limit` from `start` to before `stop`, by their sequences, without those that are to be forgotten."""
    if not ask(_HAS_TABLE, ()):
        return []
    rows = ask(
        f"SELECT {_COLUMNS} FROM outbox_fate WHERE id >= ? AND id < ? AND forget_at > ? ORDER BY id LIMIT ?",
        (start, stop, now, limit),
    )
    return [_fate(row) for row in rows]


def _fate(row: Row) -> Fate:
    entry, end, reason, attempts, key, epoch, ended_at, _, record = row
    return Fate(
        entry, end, reason, attempts, bytes(key).decode(errors="replace"), epoch, ended_at, _said(entry, record)
    )


def _said(entry: int, record: bytes) -> Mapping[str, Any] | None:
    if not record:
        return None
    try:
        said: Mapping[str, Any] = open_record(record)
    except DamagedRecord as error:
        logger.error("what became of outbox entry %d is damaged: %s", entry, error)
        return None
    return said
