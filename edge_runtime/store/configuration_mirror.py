"""What a cloud link keeps in the table of a `configuration.sqlite` component, and which of its rows it brought.

A key that is written here by hand and was never brought stays when the remote has no such key; one that was brought
goes when it is gone there. Rows that are the same already are not written again: nobody is told of them, and no flash
wears. Values, removals and the note of who brought them are one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.store.configuration import VALUE_BYTES_MAX, ConfigurationTable, ring
from edge_runtime.store.migrations import ByName, Step, has_table, migrate

_ROW_BYTES: Final = 100


class Mirrored(NamedTuple):
    """What one turn has done: rows written and removed, and keys whose values are too large to keep."""

    written: int
    removed: int
    too_large: Sequence[str]


class ConfigurationMirror:
    """One route's rows of one table. `route` is its name, for ever."""

    def __init__(self, table: ConfigurationTable, route: str) -> None:
        self._database = table.database
        self._settings = table
        self._table = table.name
        self._notes = f"{table.name}_mirror"
        self._route = route

    async def prepare(self) -> None:
        """Make the tables when they are not there."""
        await self._settings.prepare()
        if not has_table(self._database.read, self._notes):
            await migrate(self._database, [Step(f"configuration mirror {self._notes}", self._create)], ByName())

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"CREATE TABLE {self._notes} (key TEXT NOT NULL PRIMARY KEY, route TEXT NOT NULL)")

    async def take(self, items: Mapping[str, ConfigurationItem], asked: Collection[str] | None) -> Mirrored:
        """The remote has these items, of the keys that were asked for (None: of all) no others."""
        kept = {key: item for key, item in items.items() if len(item.value.encode()) <= VALUE_BYTES_MAX}
        rows = {key: _row(key, item) for key, item in kept.items()}
        size = sum(len(item.value) + _ROW_BYTES for item in kept.values())
        doomed = None if asked is None else [key for key in asked if key not in items]
        work = partial(self._change, rows, doomed, frozenset(items))
        written, removed = await self._database.write(work, size_bytes=size)
        if written or removed:
            ring(self._settings.path)
        return Mirrored(written, removed, sorted(items.keys() - kept.keys()))

    def _change(
        self,
        rows: Mapping[str, tuple[str, str, str | None, str | None]],
        doomed: Sequence[str] | None,
        there: Collection[str],
        connection: sqlite3.Connection,
    ) -> tuple[int, int]:
        written = sum(self._put(row, connection) for row in rows.values())
        if doomed is None:
            brought = connection.execute(f"SELECT key FROM {self._notes} WHERE route = ?", (self._route,)).fetchall()
            doomed = [key for (key,) in brought if key not in there]
        return written, sum(self._remove(key, connection) for key in doomed)

    def _put(self, row: tuple[str, str, str | None, str | None], connection: sqlite3.Connection) -> bool:
        """Whether it was another one."""
        key = row[0]
        sql = f"SELECT key, value, version, metadata FROM {self._table} WHERE key = ?"
        note = connection.execute(f"SELECT route FROM {self._notes} WHERE key = ?", (key,)).fetchone()
        if note != (self._route,):
            connection.execute(f"REPLACE INTO {self._notes} VALUES (?, ?)", (key, self._route))
        if connection.execute(sql, (key,)).fetchone() == row:
            return False
        connection.execute(f"REPLACE INTO {self._table} (key, value, version, metadata) VALUES (?, ?, ?, ?)", row)
        return True

    def _remove(self, key: str, connection: sqlite3.Connection) -> bool:
        """Whether it was there, and this route had brought it."""
        mine = (key, self._route)
        if not connection.execute(f"DELETE FROM {self._notes} WHERE key = ? AND route = ?", mine).rowcount:
            return False
        return connection.execute(f"DELETE FROM {self._table} WHERE key = ?", (key,)).rowcount > 0


def brought_by(table: ConfigurationTable, key: str) -> str:
    """The route that brings this key; empty when none does."""
    read, notes = table.database.read, f"{table.name}_mirror"
    rows = read(f"SELECT route FROM {notes} WHERE key = ?", (key,)) if has_table(read, notes) else []
    return str(rows[0][0]) if rows else ""


def _row(key: str, item: ConfigurationItem) -> tuple[str, str, str | None, str | None]:
    metadata = msgspec.json.encode(item.metadata, order="sorted").decode() if item.metadata else None
    return key, item.value, item.version or None, metadata
