"""Copies of store files: taken while others write, looked at, and kept from everybody while one is put in place.

A snapshot is one moment of its file. In WAL mode it holds nobody up; the -wal file grows until it is closed. A file
with a rollback journal (`disableWAL`) has no such moments: there the copy begins again when somebody has written, and
after a few times writers wait for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from edge_runtime.model.errors import DriverError
from edge_runtime.store.connection import StoreConnection
from edge_runtime.store.faults import driver_error

MAGIC: Final = b"SQLite format 3\0"
_WAL_VERSION: Final = 2
_VERSION_AT: Final = 18  # in the header of the file
_BUSY_S: Final = 10.0
_STEP_PAGES: Final = 256  # 1 MiB: so much is read at a time
_TRIES: Final = 3
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
BESIDE: Final = ("-wal", "-shm", "-journal")
# Where every connection has its lock: PENDING_BYTE, RESERVED_BYTE and the range of SHARED locks.
_LOCK_AT: Final = 0x40000000
_LOCK_BYTES: Final = 512


class StoreInUse(DriverError):
    """Another process has the file open."""


def is_database(path: str) -> bool:
    """Whether the file is one of SQLite. An empty one is none: nothing is lost with it."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Snapshot:
    """One file as it is now, however long its copy takes."""

    def __init__(self, path: str, scratch: str) -> None:
        self.path = path
        opened = path
        if not os.access(os.path.dirname(path), os.W_OK):
            opened = _set_aside(path, scratch)  # SQLite wants to write beside a file, even to read it
        self._wal = _is_wal(opened)
        try:
            self._connection = _connect(opened, "mode=ro", timeout_s=_BUSY_S)
            if self._wal:
                self.hold()
        except sqlite3.Error as error:
            raise driver_error(path, error) from error

    def hold(self) -> None:
        """From here on the file is seen as it is now."""
        self._connection.execute("BEGIN")
        self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def close(self) -> None:
        self._connection.close()

    def copy_to(self, target: str, step: Callable[[], None] = lambda: None) -> None:
        """Write the copy, which has no -wal file of its own. `step` is called after each MiB."""
        try:
            for number in range(_TRIES):
                if self._copy(target, step, may_begin_again=not self._wal and number < _TRIES - 1):
                    return
        except sqlite3.Error as error:
            raise driver_error(target, error) from error

    def _copy(self, target: str, step: Callable[[], None], *, may_begin_again: bool) -> bool:
        """False when somebody has written, and it would have to begin again."""
        if not self._wal and not may_begin_again:
            self.hold()
        left = [2**62]

        def progress(status: int, remaining: int, total: int) -> None:
            if remaining > left[0] and may_begin_again:
                raise _BeganAgain
            left[0] = remaining
            step()

        with open(target, "wb"):
            pass  # what an earlier try has left
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")  # whoever reads it into an archive flushes that
            self._connection.backup(copy, pages=_STEP_PAGES, progress=progress)
            return True
        except _BeganAgain:
            return False
        finally:
            copy.close()


class _BeganAgain(Exception):
    pass


def inspect_copy(path: str) -> Mapping[str, int]:
    """Read all of a copy that nobody writes, and count: table → rows. Raises DriverError when it is damaged."""
    try:
        connection = _connect(path, "mode=ro&immutable=1")
        try:
            findings = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if findings != [("ok",)]:
                raise DriverError(f"store file {path}: is damaged: {findings[0][0] if findings else 'no answer'}")
            names = [row[0] for row in connection.execute(_TABLES)]
            return {name: _count(connection, name) for name in names}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise driver_error(path, error) from error


def _count(connection: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    return int(connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0])


@contextmanager
def kept_closed(path: str) -> Iterator[None]:
    """While the block lasts nobody can open the file. Raises StoreInUse when somebody has it open.

    The lock is taken as SQLite takes it, and without SQLite: when its last connection closes, it deletes what lies
    beside the path, which may be another file's by then.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_AT)
        except OSError:
            raise StoreInUse(f"store file {path}: is in use; stop the node first") from None
        yield
    finally:
        os.close(descriptor)


def settle(path: str) -> None:
    """Bring what the -wal file of a file that nobody has open holds into it, as far as the file can be read."""
    try:
        connection = _connect(path, "mode=rw")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        pass  # what cannot be read is about to be replaced


def sqlite_version() -> str:
    return sqlite3.sqlite_version


class Look(NamedTuple):
    """What a database says of itself. `step` is the last change of its tables that was made."""

    problem: str
    tables: Mapping[str, int]
    step: str
    bytes: int


def look_at(path: str, *, pages: bool, count: bool = False) -> Look:
    """Look while others write; with `pages` every page is read, with `count` every table's rows are counted."""
    try:
        connection = _connect(path, "mode=ro", timeout_s=_BUSY_S)
        try:
            names = [row[0] for row in connection.execute(_TABLES)]
            findings = connection.execute("PRAGMA quick_check(1)").fetchall() if pages else [("ok",)]
            step = ""
            if "edge_migrations" in names:
                rows = connection.execute("SELECT name FROM edge_migrations ORDER BY rowid DESC LIMIT 1").fetchall()
                step = str(rows[0][0]) if rows else ""
            tables = {name: _count(connection, name) if count else -1 for name in names}
            return Look("" if findings == [("ok",)] else str(findings[0][0]), tables, step, os.path.getsize(path))
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Look(str(driver_error(path, error)), {}, "", os.path.getsize(path) if os.path.exists(path) else 0)


def schema_of(path: str) -> list[str]:
    """The statements that make its tables. Raises DriverError."""
    try:
        connection = _connect(path, "mode=ro", timeout_s=_BUSY_S)
        try:
            return [row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise driver_error(path, error) from error


def _is_wal(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(_VERSION_AT)
            return file.read(1) == bytes([_WAL_VERSION])
    except OSError as error:
        raise DriverError(f"store file {path}: cannot be read: {error.strerror}") from error


def _set_aside(path: str, scratch: str) -> str:
    """The file with what belongs to it where one may write; nobody changes what lies on a medium for reading."""
    aside = os.path.join(scratch, f"aside-{time.monotonic_ns()}")
    try:
        shutil.copyfile(path, aside)
        if os.path.exists(path + "-wal"):
            shutil.copyfile(path + "-wal", aside + "-wal")
    except OSError as error:
        raise DriverError(f"store file {path}: cannot be copied: {error.strerror}") from error
    return aside


def _connect(path: str, query: str, timeout_s: float = 0.0) -> sqlite3.Connection:
    uri = f"file:{urllib.parse.quote(os.path.abspath(path))}?{query}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, factory=StoreConnection)
