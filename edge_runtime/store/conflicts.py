"""The conflict inbox: both versions of every key that two sides had changed, and what became of them.

An entry is written in the transaction that settles the conflict, so a version that loses is never nowhere. It stays
until somebody has looked (`resolve`, `restore`) and room is needed. When the inbox is full the oldest resolved entries
go first, then the oldest of all; what goes unlooked at is counted and logged. The newest entry always has room.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from edge_runtime.model.errors import BadMetadata
from edge_runtime.model.ports import DeleteRequest, SetRequest
from edge_runtime.model.sync import Dispute
from edge_runtime.store.database import Database
from edge_runtime.store.records import DamagedRecord, open_record, seal_record
from edge_runtime.store.state import StateTable

logger: Final = logging.getLogger("dapr.runtime.store")

_ENTRY_BYTES: Final = 200  # of a row beside what it holds, roughly
Side = Literal["local", "remote", "base"]


class InboxLimits(NamedTuple):
    """How much the inbox of one table holds."""

    entries_max: int = 1000
    bytes_max: int = 16 * 2**20


class Entry(NamedTuple):
    """One conflict. `at` is what the wall clock said. `damaged`: the versions cannot be read any more."""

    id: int
    key: str
    at: float
    resolved: bool
    size_bytes: int
    dispute: Dispute
    damaged: bool = False


class Standing(NamedTuple):
    """How full it is. `dropped` went for want of room before anybody had looked, since the file was made."""

    entries: int
    open: int
    size_bytes: int
    dropped: int


class Inbox:
    """The inbox of one state table. `now` is the wall clock, in seconds."""

    def __init__(
        self,
        database: Database,
        table: StateTable,
        name: str,
        now: Callable[[], float],
        limits: InboxLimits = InboxLimits(),  # noqa: B008
    ) -> None:
        self._database = database
        self._table = table
        self._name = name = f"edge_conflict_{name}"
        self._now = now
        self._limits = limits
        self._insert = (
            f"INSERT INTO {name} (key, at, resolved, size, policy, outcome, losers, paths, record)"
            " VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?)"
        )
        self._columns = "id, key, at, resolved, size, policy, outcome, losers, paths, record"

    def create(self, connection: sqlite3.Connection) -> None:
        """The tables."""
        name = self._name
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {name} (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL,"
            " at REAL NOT NULL, resolved INTEGER NOT NULL, size INTEGER NOT NULL, policy TEXT NOT NULL,"
            " outcome TEXT NOT NULL, losers TEXT NOT NULL, paths TEXT NOT NULL, record BLOB NOT NULL)"
        )
        # Counting and making room must not read the versions.
        connection.execute(f"CREATE INDEX IF NOT EXISTS {name}_order ON {name} (resolved DESC, id, size)")
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name}_dropped (entries INTEGER NOT NULL)")

    # --- within the transaction that settles --------------------------------------------------------------------------

    def prepare(self, key: str, dispute: Dispute) -> Callable[[sqlite3.Connection], None]:
        """What adds the entry and makes room for it."""
        versions = [dispute.base, dispute.local, dispute.remote, dispute.local_stamp, dispute.remote_stamp]
        record = seal_record(versions)
        size = len(record) + len(key.encode()) + _ENTRY_BYTES
        row = (key, self._now(), size, dispute.policy, dispute.outcome, json.dumps(list(dispute.losers)))
        return partial(self._add, (*row, json.dumps(list(dispute.paths)), record))

    def _add(self, row: tuple[Any, ...], connection: sqlite3.Connection) -> None:
        added = connection.execute(self._insert, row).lastrowid
        entries, size = connection.execute(f"SELECT count(*), sum(size) FROM {self._name}").fetchone()
        if entries <= self._limits.entries_max and size <= self._limits.bytes_max:
            return
        dropped = 0
        order = f"SELECT id, size, resolved FROM {self._name} WHERE id != ? ORDER BY resolved DESC, id"
        for entry_id, entry_size, resolved in connection.execute(order, (added,)).fetchall():
            if entries <= self._limits.entries_max and size <= self._limits.bytes_max:
                break
            connection.execute(f"DELETE FROM {self._name} WHERE id = ?", (entry_id,))
            entries, size, dropped = entries - 1, size - entry_size, dropped + (not resolved)
        if dropped:
            self._count(dropped, connection)

    def _count(self, dropped: int, connection: sqlite3.Connection) -> None:
        logger.warning(
            "%s: %d conflicts that nobody had looked at went to make room; resolve conflicts, or raise the limit",
            self._name,
            dropped,
        )
        if not connection.execute(f"UPDATE {self._name}_dropped SET entries = entries + ?", (dropped,)).rowcount:
            connection.execute(f"INSERT INTO {self._name}_dropped VALUES (?)", (dropped,))

    # --- for whoever looks --------------------------------------------------------------------------------------------

    async def entries(
        self, after: int = 0, limit: int = 100, *, resolved: bool | None = None, prefix: str | None = None
    ) -> list[Entry]:
        """In the order in which they came; `resolved` asks for one kind only, `prefix` for those of one owner."""
        which = "" if resolved is None else f" AND resolved = {int(resolved)}"
        mine, args = owned(prefix)
        sql = f"SELECT {self._columns} FROM {self._name} WHERE id > ?{which} AND {mine} ORDER BY id LIMIT ?"
        return [_entry(row) for row in await self._database.read_in_thread(sql, (after, *args, limit))]

    async def get(self, entry_id: int, prefix: str | None = None) -> Entry | None:
        """One entry, unless it is somebody else's."""
        mine, args = owned(prefix)
        sql = f"SELECT {self._columns} FROM {self._name} WHERE id = ? AND {mine}"
        rows = await self._database.fetch(sql, (entry_id, *args))
        return _entry(rows[0]) if rows else None

    async def standing(self, prefix: str | None = None) -> Standing:
        """How full it is. What was dropped is counted for all owners together."""
        mine, args = owned(prefix)
        sql = f"SELECT count(*), count(*) - ifnull(sum(resolved), 0), ifnull(sum(size), 0) FROM {self._name}"
        entries, unseen, size = (await self._database.fetch(f"{sql} WHERE {mine}", args))[0]
        rows = await self._database.fetch(f"SELECT sum(entries) FROM {self._name}_dropped")
        return Standing(entries, unseen, size, rows[0][0] or 0)

    async def resolve(self, ids: Sequence[int]) -> int:
        """Somebody has looked: these may go when room is needed. How many there were."""
        sql = f"UPDATE {self._name} SET resolved = 1 WHERE id IN (SELECT value FROM json_each(?))"
        return await self._database.write(lambda conn: conn.execute(sql, (json.dumps(list(ids)),)).rowcount)

    async def restore(self, entry_id: int, side: Side) -> None:
        """Write one side's version as an app would, so that it is sent as any change is. Raises DriverError."""
        entry = await self.get(entry_id)
        if entry is None or entry.damaged:
            problem = "is damaged" if entry is not None else "is not there any more"
            raise BadMetadata(f"conflict {entry_id} {problem}; list the conflicts to see what there is")
        value: bytes | None = getattr(entry.dispute, side)
        if value is not None:
            await self._table.set(SetRequest(entry.key, value))
        elif side == "base":
            raise BadMetadata(f"conflict {entry_id} has no base version; take local or remote")
        else:
            await self._table.delete(DeleteRequest(entry.key))
        await self.resolve([entry_id])


def owned(prefix: str | None) -> tuple[str, tuple[Any, ...]]:
    """The condition on keys of one owner: those with a prefix, for an empty one those without any. None is all."""
    if prefix is None:
        return "1", ()
    if not prefix:
        return "instr(key, '||') = 0", ()
    return "substr(key, 1, ?) = ?", (len(prefix), prefix)


def _entry(row: tuple[Any, ...]) -> Entry:
    entry_id, key, at, resolved, size, policy, outcome, losers, paths, record = row
    damaged = False
    try:
        base, local, remote, local_stamp, remote_stamp = open_record(record)
    except DamagedRecord:
        damaged = True
        base = local = remote = local_stamp = remote_stamp = None
    told = json.loads(losers), json.loads(paths)
    dispute = Dispute(policy, outcome, base, local, remote, *told, local_stamp, remote_stamp)
    return Entry(entry_id, key, at, bool(resolved), size, dispute, damaged)
