"""What an SQLite error means for the file: whose fault it is, what to tell the operator, and whether to reopen."""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from edge_runtime.model.errors import BadMetadata, DriverError, StoreUnavailable


class StoreBusy(StoreUnavailable):
    """Another process holds the file's lock longer than the busy timeout."""


class Fault(NamedTuple):
    """A failure of the medium or the file, not of one operation.

    `reopen`: nothing that the connection remembers may be trusted, it is closed, and the file verified before the next
    write. `lasting`: the store counts as unhealthy until a write has succeeded. `damaged`:
    the content itself is in doubt. `restart`: a new process may find what this one could not.
    """

    problem: str
    mend: str
    reopen: bool = True
    lasting: bool = True
    damaged: bool = False
    restart: bool = False


_FAULTS: Final = {
    sqlite3.SQLITE_FULL: Fault(
        "the disk is full", "free some space; writes are then taken again without a restart", reopen=False
    ),
    sqlite3.SQLITE_READONLY: Fault(
        "the file or its medium is read-only", "make the medium writable, or give this user write permission"
    ),
    sqlite3.SQLITE_READONLY_DBMOVED: Fault(
        "the file was moved, replaced or deleted while it was open",
        "put it back together with its -wal file, or restart to go on with what is there now",
        reopen=False,
    ),
    sqlite3.SQLITE_IOERR: Fault(
        "the disk reported an error", "check the medium (dmesg shows what the kernel saw)", restart=True
    ),
    sqlite3.SQLITE_CANTOPEN: Fault(
        "the file cannot be opened", "check that its folder exists and that this user may write there"
    ),
    sqlite3.SQLITE_PERM: Fault("access to the file was denied", "give this user write permission"),
    sqlite3.SQLITE_CORRUPT: Fault(
        "the file is damaged",
        "stop, and restore a copy, or move it away together with its -wal and -shm files to begin empty",
        damaged=True,
    ),
    sqlite3.SQLITE_NOTADB: Fault(
        "the file is not an SQLite database",
        "name another file, or move it away together with its -wal and -shm files to begin empty",
        damaged=True,
    ),
    sqlite3.SQLITE_NOMEM: Fault("memory ran out", "give the process more memory", restart=True),
    sqlite3.SQLITE_PROTOCOL: Fault("the file's locks are in disorder", "keep the file on a local disk", lasting=False),
    sqlite3.SQLITE_BUSY: Fault(
        "another process keeps it locked",
        "find who holds it (fuser shows that), or raise busyTimeout",
        reopen=False,
        lasting=False,
    ),
    sqlite3.SQLITE_LOCKED: Fault("another connection keeps a table locked", "try again", reopen=False, lasting=False),
}

# A rollback that SQLite did by itself leaves this behind for the next statement of the batch.
ROLLED_BACK: Final = Fault("the transaction was rolled back", "try again", reopen=True, lasting=False)


def fault_of(error: BaseException) -> Fault | None:
    """The fault behind an error, or None when the operation itself was wrong."""
    if isinstance(error, MemoryError):  # what Python makes of SQLITE_NOMEM
        return _FAULTS[sqlite3.SQLITE_NOMEM]
    code = getattr(error, "sqlite_errorcode", None)
    return _FAULTS.get(code) or _FAULTS.get(code & 0xFF) if isinstance(code, int) else None


def unavailable(path: str, fault: Fault, error: BaseException | None = None, *, what: str = "refused") -> DriverError:
    """The error that callers get for a fault: file, problem, mend."""
    name = getattr(error, "sqlite_errorname", "")
    detail = f" ({name})" if name else ""
    kind = StoreBusy if fault.problem == _FAULTS[sqlite3.SQLITE_BUSY].problem else StoreUnavailable
    return kind(f"store file {path}: {what}: {fault.problem}{detail}; {fault.mend}")


def moved_error() -> sqlite3.OperationalError:
    """What SQLite itself would say of a file that was moved away, if it looked in WAL mode."""
    error = sqlite3.OperationalError("the file was moved, replaced or deleted")
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    error.sqlite_errorname = "SQLITE_READONLY_DBMOVED"
    return error


def damage_error(finding: str) -> sqlite3.DatabaseError:
    """What SQLite itself would say of damage that it has not noticed."""
    error = sqlite3.DatabaseError(finding)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def driver_error(path: str, error: Exception) -> DriverError:
    """Any SQLite error in the words that callers of the store know."""
    fault = fault_of(error)
    if fault is not None:
        return unavailable(path, fault, error)
    if isinstance(error, UnicodeEncodeError):
        return BadMetadata("a key or value holds half of a surrogate pair, which is no text; send valid Unicode")
    return DriverError(f"store file {path}: {error}")
