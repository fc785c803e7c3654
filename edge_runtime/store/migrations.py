"""Changes of a file's tables: named steps in order, each in one transaction together with its record.

A step that is recorded has been done whole, one that is not has done nothing; so a power cut between two steps, or two
processes that open the same new file, do no harm. Our own tables record steps by name. A `state.sqlite` file records
what Dapr's driver records, the number of steps in its metadata table, so that either can open what the other made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from edge_runtime.model.errors import ConfigError
from edge_runtime.store.database import Database

_NAMES_TABLE: Final = "edge_migrations"


class Step(NamedTuple):
    """One change. A name is never used again, a step that has been released never changes."""

    name: str
    apply: Callable[[sqlite3.Connection], object]


class Record(Protocol):
    """Where a file keeps which steps are done."""

    def missing(self, read: Callable[[str, Sequence[object]], list[tuple[object, ...]]], steps: Sequence[Step]) -> int:
        """The place of the first step that is not done; `len(steps)` when all are."""

    def add(self, connection: sqlite3.Connection, place: int, step: Step) -> None:
        """Record that `steps[place]` is done."""


async def migrate(database: Database, steps: Sequence[Step], record: Record) -> None:
    """Do what is missing, before anything is served from the tables. Writes nothing when nothing is missing."""

    def read(sql: str, args: Sequence[object]) -> list[tuple[object, ...]]:
        return database.read(sql, args)

    while (place := record.missing(read, steps)) < len(steps):
        await database.write(_one_step(steps, record, place))


def _one_step(steps: Sequence[Step], record: Record, place: int) -> Callable[[sqlite3.Connection], None]:
    def do(connection: sqlite3.Connection) -> None:
        def read(sql: str, args: Sequence[object]) -> list[tuple[object, ...]]:
            return connection.execute(sql, args).fetchall()

        # Another process may have been quicker; under the write lock there is one answer.
        if record.missing(read, steps) == place:
            steps[place].apply(connection)
            record.add(connection, place, steps[place])

    return do


def has_table(read: Callable[[str, Sequence[object]], list[tuple[object, ...]]], name: str) -> bool:
    """Whether the file has such a table."""
    return bool(read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)))


class ByName:
    """For tables that are ours alone: a row for each step."""

    def missing(self, read: Callable[[str, Sequence[object]], list[tuple[object, ...]]], steps: Sequence[Step]) -> int:
        if not has_table(read, _NAMES_TABLE):
            return 0
        done = {row[0] for row in read(f"SELECT name FROM {_NAMES_TABLE}", ())}
        return next((place for place, step in enumerate(steps) if step.name not in done), len(steps))

    def add(self, connection: sqlite3.Connection, place: int, step: Step) -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {_NAMES_TABLE} (name TEXT NOT NULL PRIMARY KEY,"
            " applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        connection.execute(f"INSERT INTO {_NAMES_TABLE} (name) VALUES (?)", (step.name,))


class ByCount:
    """For a file that Dapr's own driver may open too: the number of steps, as text, in its metadata table."""

    def __init__(self, table: str, key: str = "migrations") -> None:
        self._table = table
        self._key = key

    def missing(self, read: Callable[[str, Sequence[object]], list[tuple[object, ...]]], steps: Sequence[Step]) -> int:
        if not has_table(read, self._table):
            return 0
        rows = read(f"SELECT value FROM {self._table} WHERE key = ?", (self._key,))
        text = str(rows[0][0]) if rows else "0"
        if not text.isdecimal():
            raise ConfigError(
                f"table {self._table!r} has {text!r} under {self._key!r}; expected the number of migrations."
                " Name another metadataTableName, or restore the file"
            )
        # More than we know: a newer release has been here. What it added is left alone.
        return min(int(text), len(steps))

    def add(self, connection: sqlite3.Connection, place: int, step: Step) -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)"
        )
        connection.execute(f"REPLACE INTO {self._table} (key, value) VALUES (?, ?)", (self._key, str(place + 1)))
