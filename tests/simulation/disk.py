"""A node's disk: SQLite in memory that outlives the process that writes to it, and can be full.

What was committed stays, what was not is gone. A crash may come before a commit, or between a commit and its answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import trio

from edge_runtime.model.errors import StoreUnavailable
from edge_runtime.store.connection import Location, location
from edge_runtime.store.database import Database, Opened, StoreLimits

T = TypeVar("T")
MEMORY: Final[Location] = location(":memory:")
_PAGES_MAX: Final = 1 << 30


class Disk:
    """What stays when a process ends."""

    def __init__(self) -> None:
        self.connection = _blank()
        self.full = False

    def fill(self) -> None:
        """From now on SQLite finds no further page."""
        self.full = True
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        self.connection.execute(f"PRAGMA max_page_count = {pages}")

    def clean_up(self) -> None:
        self.full = False
        self.connection.execute(f"PRAGMA max_page_count = {_PAGES_MAX}")

    def copy_from(self, template: bytes) -> None:
        """Begin with tables that are made already."""
        self.connection.deserialize(template)

    def open(self) -> ProcessDatabase:
        """The file as one process has it."""
        return ProcessDatabase(self.connection)

    def close(self) -> None:
        self.connection.close()


class Unanswered(StoreUnavailable):
    """It is on disk, and nobody hears of it."""


class ProcessDatabase(Database):
    """The product's database, of a process that can be killed at any moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(MEMORY, StoreLimits(), Opened(connection, connection, MEMORY))
        self.dead = False

    async def write(
        self, operation: Callable[[sqlite3.Connection], T], *, size_bytes: int = 0, single: bool = False
    ) -> T:
        """As it is. Killed in the await before it, the process loses the write; in the one after it, the answer."""
        await trio.lowlevel.checkpoint()
        if self.dead:
            raise StoreUnavailable("the process is dead")
        result = await super().write(operation, size_bytes=size_bytes, single=single)
        if self.dead:
            raise Unanswered("the process died after its commit")
        return result


def _blank() -> sqlite3.Connection:
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, cached_statements=64, timeout=0
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


class OneDatabase:
    """`Databases`, as far as the outbox knows it, with one file that is open already."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def lease(self, where: Any) -> AsyncIterator[Database]:
        yield self._database
