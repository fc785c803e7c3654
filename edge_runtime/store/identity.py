"""Who this node is: an id for good, an epoch for as long as the file goes on from where it was, and the file's clock.

A restored copy would give sequence numbers a second time. So each run writes a fresh word and the number of the file's
inode into a note beside the file, and into the file that word and when the kernel says that the note was written, which
no copy takes along. When something differs at the next opening, the file is not the one that was written last, and a
new epoch begins; so it does when the file has lost its newest commits. One that begins without need does no harm: an
entry keeps the epoch it was given.

The clock counts the time that the machine is up, as the log's does, so that ages take no notice of the wall clock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import trio

from edge_runtime.model.errors import StoreUnavailable
from edge_runtime.store.database import Database
from edge_runtime.store.log_clock import boot_id, up_ms
from edge_runtime.store.migrations import ByName, Step, migrate

logger: Final = logging.getLogger("dapr.runtime.store")

NODE_BYTES: Final = 16
EPOCH_BITS: Final = 48
_SECOND_NS: Final = 10**9
_STEPS: Final = (
    Step(
        "node-identity-1",
        lambda connection: connection.execute(
            "CREATE TABLE node_identity (id INTEGER PRIMARY KEY CHECK (id = 1), node TEXT NOT NULL,"
            " epoch INTEGER NOT NULL, run TEXT NOT NULL, boot TEXT NOT NULL, base INTEGER NOT NULL)"
        ),
    ),
)
_READ: Final = "SELECT node, epoch, run, boot, base FROM node_identity"


class Identity(NamedTuple):
    """`base_ms` is added to the time that the machine is up to give the file's time."""

    node: str
    epoch: int
    base_ms: int


class _Row(NamedTuple):
    node: str
    epoch: int
    run: str
    boot: str
    base: int


async def open_identity(
    database: Database,
    latest_ms: int,
    *,
    in_memory: bool = False,
    clock_ms: Callable[[], int] = up_ms,
    boot: Callable[[], str] = boot_id,
) -> Identity:
    """The file's identity, made when it has none. `latest_ms` is the latest time of the file's clock that is in use."""
    await migrate(database, _STEPS, ByName())
    if in_memory:
        return await _next_run(database, None, latest_ms, clock_ms(), boot())
    # Two processes that begin at once must not take each other's word for a sign of a restored file.
    note = await trio.to_thread.run_sync(_open_note, database.path + "-run")
    try:
        return await _next_run(database, note, latest_ms, clock_ms(), boot())
    finally:
        os.close(note)


def read_identity(
    database: Database, latest_ms: int, *, clock_ms: Callable[[], int] = up_ms, boot: Callable[[], str] = boot_id
) -> Identity:
    """The file's identity for who only looks: no run begins. Empty when the file has none yet."""
    rows = database.read(_READ)
    if not rows:
        return Identity("", 0, latest_ms - clock_ms())
    known = _Row(*rows[0])
    return Identity(known.node, known.epoch, known.base if known.boot == boot() else latest_ms - clock_ms())


async def _next_run(database: Database, note: int | None, latest_ms: int, clock_ms: int, boot: str) -> Identity:
    rows = database.read(_READ)
    known = _Row(*rows[0]) if rows else None
    inode = 0 if note is None else _inode(database.path)
    goes_on = known is not None and (note is None or _is_of(note, known.run, inode)) and not database.lost_commits
    word = os.urandom(8).hex()
    row = _Row(
        known.node if known is not None else os.urandom(NODE_BYTES).hex(),
        known.epoch if known is not None and goes_on else _new_epoch(),
        word,
        boot,
        known.base if known is not None and known.boot == boot else latest_ms - clock_ms,
    )
    if known is not None and not goes_on:
        logger.warning("store file %s is not what was written last: a new epoch begins", database.path)
    try:
        if note is not None:
            written = await trio.to_thread.run_sync(_note, note, _words(word, inode))
            row = row._replace(run=f"{word} {written}")
        await database.write(partial(_write, row), single=True)
    except (StoreUnavailable, OSError) as error:
        if known is None:
            raise StoreUnavailable(
                f"the node's identity cannot be written to {database.path} and its -run: {error}"
            ) from error
        # What is on disk can still be sent; the next run begins another epoch, which does no harm.
        logger.warning("the node's identity could not be noted: %s", error)
    return Identity(row.node, row.epoch, row.base)


def _write(row: _Row, connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR REPLACE INTO node_identity VALUES (1, ?, ?, ?, ?, ?)", row)


def _new_epoch() -> int:
    return int.from_bytes(os.urandom(EPOCH_BITS // 8))


def _words(run: str, inode: int) -> bytes:
    return f"{run} {inode}\n".encode()


def _inode(path: str) -> int:
    return os.stat(path).st_ino


def _open_note(path: str) -> int:
    try:
        note = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(
            f"{path}: cannot be opened: {error.strerror}; the outbox needs its folder writable"
        ) from error
    fcntl.flock(note, fcntl.LOCK_EX)
    return note


def _is_of(note: int, run: str, inode: int) -> bool:
    """Is it the note that this run of the file has written?"""
    word, _, written = run.partition(" ")
    if os.pread(note, 256, 0) != _words(word, inode) or not written.isdecimal():
        return False
    found = os.fstat(note).st_ctime_ns
    # Some file systems keep whole seconds only.
    return found == int(written) or (found % _SECOND_NS == 0 and found // _SECOND_NS == int(written) // _SECOND_NS)


def _note(note: int, words: bytes) -> int:
    """Write it; when that was, by the kernel's word."""
    os.pwrite(note, words, 0)
    os.ftruncate(note, len(words))
    os.fsync(note)
    return os.fstat(note).st_ctime_ns
