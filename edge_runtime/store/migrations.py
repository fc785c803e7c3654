"""Changes of a file's tables: named steps in order, each in one transaction together with its record.

A step that is recorded has been done whole, one that is not has done nothing; so a power cut between two steps, or two
processes that open the same new file, do no harm. Our own tables record steps by name. A `state.sqlite` file records
what Dapr's driver records, the number of steps in its metadata table, so that either can open what the other made.

An update may be taken back, so the version before must be able to work on the file as the new one leaves it. Versions
whose steps differ have generations, counted up; a file says which is the oldest that may open it. A step may therefore
add in one generation, and take away only in the next.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from edge_runtime.model.errors import ConfigError
from edge_runtime.store.database import Database

# Of this version's steps. Counted up by a release that changes tables which an earlier release has made.
GENERATION: Final = 1
_NAMES_TABLE: Final = "edge_migrations"
_READABLE_TABLE: Final = "edge_readable"


class Step(NamedTuple):
    """One change. A name is never used again, a step that has been released never changes.

    `readable_from` is the oldest generation that may go on with the file once the step is done.
    """

    name: str
    apply: Callable[[sqlite3.Connection], object]
    readable_from: int = 1


class Record(Protocol):
    """Where a file keeps which steps are done."""

    def missing(self, read: Callable[[str, Sequence[object]], list[tuple[object, ...]]], steps: Sequence[Step]) -> int:
        """The place of the first step that is not done; `len(steps)` when all are."""

    def add(self, connection: sqlite3.Connection, place: int, step: Step) -> None:
        """Record that `steps[place]` is done."""


async def migrate(database: Database, steps: Sequence[Step], record: Record, *, generation: int = GENERATION) -> None:
    """Do what is missing, before anything is served from the tables. Writes nothing when nothing is missing.

    Raises ConfigError, with nothing changed, when a version that this one cannot follow has been at the file.
    """

    def read(sql: str, args: Sequence[object]) -> list[tuple[object, ...]]:
        return database.read(sql, args)

    for step in steps:
        if step.readable_from > max(generation - 1, 1):
            raise ValueError(f"step {step.name!r}: the version before could not go on with the file")
    _check_readable(read, database.path, generation)
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
            _note_readable(connection, steps[place].readable_from)

    return do


def _check_readable(
    read: Callable[[str, Sequence[object]], list[tuple[object, ...]]], path: str, generation: int
) -> None:
    if not has_table(read, _READABLE_TABLE):
        return
    ((oldest,),) = read(f"SELECT max(generation) FROM {_READABLE_TABLE}", ()) or [(1,)]
    if isinstance(oldest, int) and oldest > generation:
        raise ConfigError(
            f"store file {path}: a newer version has changed its tables; it takes one of generation {oldest} or later, "
            f"this is {generation}. Install the newer version again, or restore a backup of before"
        )


def _note_readable(connection: sqlite3.Connection, readable_from: int) -> None:
    """In the step's own transaction. A file that every version can read has no such table."""
    if readable_from > 1:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {_READABLE_TABLE} (generation INTEGER NOT NULL PRIMARY KEY)")
        connection.execute(f"INSERT OR IGNORE INTO {_READABLE_TABLE} (generation) VALUES (?)", (readable_from,))


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
