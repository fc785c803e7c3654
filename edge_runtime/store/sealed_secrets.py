"""Secrets of remote stores, sealed, each with its age.

Age is counted by the time that the machine is up, as in the outbox, so that a wall clock that jumps makes no secret
old or young. What the node has been up since the last note is lost with a power cut, and what it was switched off
counts only where the kernel vouches for the wall clock, then and now.

Names are inside the seal as well; a row is found by a keyed hash of them.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.store.database import Database
from edge_runtime.store.kernel_clock import is_synchronized
from edge_runtime.store.log_clock import boot_id, up_ms
from edge_runtime.store.migrations import ByName, Step, migrate

logger: Final = logging.getLogger("dapr.runtime.store")

RECORDS_MAX: Final = 1000
BYTES_MAX: Final = 4 * 2**20
RECORD_BYTES_MAX: Final = 2**18
# The name of the record that says when all of a store's secrets were fetched; no secret has it. It is written before
# them, and gives way first: without it nobody takes for all what is left.
ALL: Final = ""

Values = Mapping[str, str]


class Seals(Protocol):
    """What keeps content from others; `security/secret_box.py` is it."""

    def seal(self, plain: bytes) -> bytes: ...
    def open(self, sealed: bytes) -> bytes: ...
    def mark(self, plain: bytes) -> bytes: ...


class Secret(NamedTuple):
    """Which one: its name in the remote store, and what else the request said."""

    name: str
    metadata: Mapping[str, str] = {}


class Kept(NamedTuple):
    """What was kept of a secret, and for how long."""

    secret: Secret
    values: Values
    age_s: float


class Damaged(DriverError):
    """The record cannot be opened."""

    permanent = True


_STEPS: Final = (
    Step(
        "sealed-secrets-1",
        lambda connection: connection.execute(
            "CREATE TABLE sealed_secret (id BLOB NOT NULL PRIMARY KEY, route TEXT NOT NULL, at INTEGER NOT NULL,"
            " record BLOB NOT NULL)"
        ),
    ),
    Step(
        "sealed-secrets-clock-1",
        lambda connection: connection.execute(
            "CREATE TABLE sealed_secret_clock (id INTEGER PRIMARY KEY CHECK (id = 1), boot TEXT NOT NULL,"
            " base INTEGER NOT NULL, noted INTEGER NOT NULL)"
        ),
    ),
)
# A damaged column may have become a text that is none.
_SELECT: Final = "SELECT CAST(record AS BLOB) FROM sealed_secret"
_INSERT: Final = "INSERT OR REPLACE INTO sealed_secret (id, route, at, record) VALUES (?, ?, ?, ?)"


class Clocks(NamedTuple):
    """Time that the machine is up, this boot's name, the wall clock, and whether the kernel vouches for it."""

    up_ms: Callable[[], int] = up_ms
    boot: Callable[[], str] = boot_id
    wall: Callable[[], float] = time.time
    is_right: Callable[[], bool] = is_synchronized


class SealedSecrets:
    """The table; made by `open_sealed_secrets`."""

    def __init__(self, database: Database, seals: Seals, base_ms: int, clocks: Clocks) -> None:
        self._database = database
        self._seals = seals
        self._base_ms = base_ms
        self._clocks = clocks

    def now_ms(self) -> int:
        return self._base_ms + self._clocks.up_ms()

    async def read(self, route: str, secret: Secret) -> Kept | None:
        """What is kept of it, however old. Raises Damaged."""
        sql = f"{_SELECT} WHERE id = ?"
        rows = await self._database.fetch(sql, (self._mark(route, secret),))
        return self._open(route, rows[0][0]) if rows else None

    async def read_all(self, route: str) -> tuple[Sequence[Kept], int]:
        """Everything of a route that can be opened, and how much cannot."""
        found: list[Kept] = []
        damaged = 0
        for (record,) in await self._database.fetch(f"{_SELECT} WHERE route = ?", (route,)):
            try:
                found.append(self._open(route, record))
            except Damaged:
                damaged += 1
        return found, damaged

    async def put(self, route: str, secrets: Mapping[str, Values], metadata: Mapping[str, str]) -> int:
        """Keep them in place of what was kept; how many are too large for that. Without those it is not all."""
        rows = [self._row(route, Secret(name, metadata), values) for name, values in secrets.items()]
        large = [row[0] for row in rows if len(row[3]) > RECORD_BYTES_MAX]
        gone = {*large, self._mark(route, Secret(ALL, metadata))} if large else set()
        fitting = [row for row in rows if row[0] not in gone]
        size = sum(len(row[3]) for row in fitting)
        await self._database.write(partial(_put, fitting, gone), size_bytes=size)
        return len(large)

    async def remove(self, route: str, secrets: Iterable[Secret]) -> None:
        """Those that are kept."""
        marks = [(self._mark(route, secret),) for secret in secrets]
        await self._database.write(lambda conn: conn.executemany("DELETE FROM sealed_secret WHERE id = ?", marks))

    async def note(self, age_max_s: Mapping[str, float]) -> None:
        """Write down how late it is, and forget what is too old. Writes nothing while nothing is kept."""
        if self._database.read("SELECT 1 FROM sealed_secret LIMIT 1"):
            now = self.now_ms()
            oldest = [(route, now - round(age_s * 1000)) for route, age_s in age_max_s.items()]
            await self._database.write(partial(_note, now, oldest))

    # --- records ------------------------------------------------------------------------------------------------------

    def _mark(self, route: str, secret: Secret) -> bytes:
        import cbor2

        return self._seals.mark(cbor2.dumps([route, secret.name, sorted(secret.metadata.items())]))

    def _row(self, route: str, secret: Secret, values: Values) -> tuple[bytes, str, int, bytes]:
        import cbor2

        now = self.now_ms()
        wall = self._clocks.wall() if self._clocks.is_right() else None
        content = [route, secret.name, dict(secret.metadata), dict(values), now, wall]
        return self._mark(route, secret), route, now, self._seals.seal(cbor2.dumps(content))

    def _open(self, route: str, record: Any) -> Kept:
        import cbor2

        try:
            plain = self._seals.open(record or b"")
        except DriverError as error:
            raise Damaged(f"a kept secret cannot be opened: {error}") from None
        whose, name, metadata, values, at, wall = cbor2.loads(plain)
        if whose != route:
            raise Damaged("a kept secret lies in another's place")
        return Kept(Secret(name, metadata), values, self._age_s(at, wall))

    def _age_s(self, at: int, wall: float | None) -> float:
        age_s = max(self.now_ms() - at, 0) / 1000
        if wall is not None and self._clocks.is_right():
            return max(age_s, self._clocks.wall() - wall)
        return age_s


async def open_sealed_secrets(database: Database, seals: Seals, clocks: Clocks = Clocks()) -> SealedSecrets:  # noqa: B008
    """The secrets kept in this file; its tables are made when there are none."""
    await migrate(database, _STEPS, ByName())
    boot, up = clocks.boot(), clocks.up_ms()
    try:
        base_ms = await database.write(partial(_carry_on, boot, up))
    except StoreUnavailable as error:  # what is kept can be given all the same
        logger.warning("the clock of kept secrets could not be noted: %s", error)
        base_ms = _base(lambda sql: database.read(sql), boot, up)[0]
    return SealedSecrets(database, seals, base_ms, clocks)


def _carry_on(boot: str, up: int, connection: sqlite3.Connection) -> int:
    """The clock goes on from the latest time in the file; within one boot of the machine it is the same for all."""
    base, latest = _base(lambda sql: connection.execute(sql).fetchall(), boot, up)
    if latest is not None:
        connection.execute("INSERT OR REPLACE INTO sealed_secret_clock VALUES (1, ?, ?, ?)", (boot, base, latest))
    return base


def _base(ask: Callable[[str], Sequence[Sequence[Any]]], boot: str, up: int) -> tuple[int, int | None]:
    """What is added to the time that the machine is up; with the latest time in the file when this is another boot."""
    rows = ask("SELECT boot, base, noted FROM sealed_secret_clock")
    if rows and rows[0][0] == boot:
        return int(rows[0][1]), None
    latest = max(ask("SELECT max(at) FROM sealed_secret")[0][0] or 0, rows[0][2] if rows else 0)
    return latest - up, latest


def _put(rows: Sequence[tuple[Any, ...]], gone: Iterable[bytes], connection: sqlite3.Connection) -> None:
    connection.executemany("DELETE FROM sealed_secret WHERE id = ?", [(mark,) for mark in gone])
    connection.executemany(_INSERT, rows)
    count, size = connection.execute("SELECT count(*), coalesce(sum(length(record)), 0) FROM sealed_secret").fetchone()
    while count > RECORDS_MAX or size > BYTES_MAX:
        oldest = "SELECT id, length(record) FROM sealed_secret ORDER BY at LIMIT 1"
        mark, length = connection.execute(oldest).fetchone()
        connection.execute("DELETE FROM sealed_secret WHERE id = ?", (mark,))
        count, size = count - 1, size - length


def _note(now: int, oldest: Sequence[tuple[str, int]], connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE sealed_secret_clock SET noted = max(noted, ?)", (now,))
    connection.executemany("DELETE FROM sealed_secret WHERE route = ? AND at < ?", oldest)
