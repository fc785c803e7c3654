"""The thread that alone writes to one file: a batch of operations, one commit, and what happens when the disk fails.

A batch is one transaction. Each operation runs in a savepoint of its own, so that a failed one (an etag that does not
match) leaves its neighbours alone; an operation of a single statement needs none, as SQLite undoes a failed statement
by itself. When the medium fails, the whole batch is rolled back and refused.

After an I/O error nothing that the connection remembers is trusted: it is closed, the file is opened and verified
again, and a probe is committed before the next batch is taken. The probe also overwrites what a failed commit may have
left behind in the -wal file, so that a refused write cannot come back.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import outcome
import trio

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.store.connection import Location, open_writer, verify
from edge_runtime.store.faults import ROLLED_BACK, Fault, driver_error, fault_of, moved_error, unavailable

logger = logging.getLogger("dapr.runtime.store")

# The work of one checkpoint, in pages: rarely enough that a page changed often is copied once.
CHECKPOINT_PAGES: Final = 1000
# A bigger file is verified by its schema and by use; reading all of it would stop writes for too long.
VERIFY_WHOLE_BYTES_MAX: Final = 64 * 1024 * 1024
# Free pages are given back when idle: from this many on, and so many at a time.
FREE_PAGES_MIN: Final = 256
FREE_PAGES_STEP: Final = 1024

# When memory was too short to roll back; the next batch begins with a new connection.
UNKNOWN: Final = "the write failed, and whether it was kept is not known"
MEMORY_PAUSE_S: Final = 0.01

Operation = Callable[[sqlite3.Connection], Any]
Identity = tuple[int, int, int] | None


class Write:
    """One operation on its way through the writer. `task` is None once its caller gave up waiting in the queue."""

    __slots__ = ("handed_over", "operation", "result", "single", "size_bytes", "task")

    def __init__(self, operation: Operation, task: trio.lowlevel.Task, size_bytes: int, single: bool) -> None:
        self.operation = operation
        self.task: trio.lowlevel.Task | None = task
        self.size_bytes = size_bytes
        self.single = single
        self.handed_over = False
        self.result: outcome.Outcome[Any] | None = None

    def give_up(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        """Its caller is cancelled: leave the queue, unless the writer thread has it already."""
        if self.handed_over:
            return trio.lowlevel.Abort.FAILED
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


Batch = list[Write]


class Retry(NamedTuple):
    """How soon a store that failed is tried again: from `first_s`, doubled up to `most_s`."""

    first_s: float = 0.1
    most_s: float = 5.0


def _when_memory_allows(step: Callable[[], None]) -> None:
    """Again and again, as nobody else can do it; a pause is one of the things that may need memory."""
    while True:
        try:
            step()
            return
        except MemoryError:
            pass
        try:
            time.sleep(MEMORY_PAUSE_S)
        except MemoryError:
            pass


def _say_if_memory_allows(path: str) -> None:
    try:
        logger.exception("store file %s: looking after it failed", path)
    except MemoryError:
        pass


class Writer:
    """Runs batches one after the other. `run` takes one at a time; `serve` is the thread around it."""

    def __init__(
        self, where: Location, connection: sqlite3.Connection | None, retry: Retry, alarm: Callable[[], None]
    ) -> None:
        self._where = where
        self._path = where.path
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity = None
        self._adopt(connection)
        self._alarm = alarm
        self._retry = retry
        self._retry_in_s = retry.first_s
        self._retry_at = 0.0
        self._fault: Fault | None = None
        self._last_error: BaseException | None = None
        self._locked_out = False
        self._pages_guess = 0.0  # pages in the -wal file since the last checkpoint, as guessed from what was written
        self._guess_factor = 1.0  # what the last checkpoint found against the guess
        self.reason = ""  # why writes are refused; empty when they are taken. Read by the trio thread.
        self.commits = 0
        self.jobs: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()

    @property
    def restart_may_mend(self) -> bool:
        """Writes are refused for something that a new process may not find. Read by the trio thread."""
        fault = self._fault
        return fault is not None and fault.restart

    def _adopt(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._identity = None if connection is None or self._where.memory else self._find_identity()

    def _find_identity(self) -> Identity:
        """Which files have the names: a commit into a file that has lost its name would never be found again."""
        try:
            main = os.stat(self._path)
            log = os.stat(self._path + "-wal") if self._where.wal else main
        except FileNotFoundError:
            return None
        return main.st_dev, main.st_ino, log.st_ino

    # --- the thread ---------------------------------------------------------------------------------------------------

    def start(self, answer: Callable[[Batch], None]) -> threading.Thread:
        """The thread, running. `answer` is called in it with each batch once every result is there."""
        thread = threading.Thread(
            target=self._serve, args=(answer,), name=f"store-writer {os.path.basename(self._path)}", daemon=True
        )
        thread.start()
        return thread

    def _serve(self, answer: Callable[[Batch], None]) -> None:
        ended = False
        while not ended:
            try:
                ended = self._serve_one(answer)
            except Exception:  # the thread has to go on: every later write waits for it
                _say_if_memory_allows(self._path)
        self.close()

    def _serve_one(self, answer: Callable[[Batch], None]) -> bool:
        """Whether it was the last job."""
        job = self.jobs.get()
        if job is None:
            return True
        if isinstance(job, list):
            self._run_and_answer(job, answer)
            del job  # a batch may hold megabytes; do not keep it while the file is looked after
            self._checkpoint_when_due()
        else:
            job()
        return False

    def _run_and_answer(self, batch: Batch, answer: Callable[[Batch], None]) -> None:
        """Whoever waits gets an answer, even where memory is too short to find out what came of it."""
        try:
            self.run(batch)
        except Exception as error:
            text = repr(error) if not isinstance(error, MemoryError) else "MemoryError"
            _when_memory_allows(lambda: self._give_up(batch, text))
        _when_memory_allows(lambda: answer(batch))

    def _give_up(self, batch: Batch, text: str) -> None:
        for write in batch:
            write.result = outcome.Error(StoreUnavailable(f"store file {self._path}: {UNKNOWN}: {text}"))

    # --- batches ------------------------------------------------------------------------------------------------------

    def run(self, batch: Batch) -> None:
        """Give every operation its result; on return what succeeded is on disk."""
        try:
            if self._fault is not None:
                self._recover()
            self._run_in_transaction(batch)
        except (sqlite3.Error, DriverError, MemoryError) as error:
            refusal = error if isinstance(error, DriverError) else self._fail(error)
            for write in batch:  # an exception each: a shared one would gather the tracebacks of all who wait
                write.result = outcome.Error(type(refusal)(str(refusal)))
        else:
            self.commits += 1
            if self._fault is not None:
                self._mend()

    def _run_in_transaction(self, batch: Batch) -> None:
        connection = self._begin()
        size_bytes = 0
        for write in batch:
            size_bytes += write.size_bytes
            if write.single:
                result: outcome.Outcome[Any] = outcome.capture(write.operation, connection)
                if type(result) is outcome.Error:
                    result = self._judge(result, connection)
            else:
                result = self._run_in_savepoint(write.operation, connection)
            write.result = result
        connection.execute("COMMIT")
        self._pages_guess += len(batch) + size_bytes / 4096 + 1

    def _run_in_savepoint(self, operation: Operation, connection: sqlite3.Connection) -> outcome.Outcome[Any]:
        connection.execute("SAVEPOINT one")
        result: outcome.Outcome[Any] = outcome.capture(operation, connection)
        if type(result) is outcome.Error:
            result = self._judge(result, connection)
            connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return result

    def _judge(self, result: outcome.Error, connection: sqlite3.Connection) -> outcome.Error:
        """The operation's own failure as its caller shall see it; a failure of the medium ends the batch."""
        error = result.error
        if not connection.in_transaction:
            raise error if fault_of(error) else unavailable(self._path, ROLLED_BACK, error)
        if fault_of(error) is not None:
            raise error
        if not isinstance(error, (sqlite3.Error, UnicodeEncodeError)):
            return result
        return outcome.Error(driver_error(self._path, error))

    def _begin(self) -> sqlite3.Connection:
        """Take the write lock. SQLite's own waiting grows to 100 ms steps and so loses to a busy neighbour; ours is
        short and jittered, so that processes on one file get their turns."""
        connection = self._connection
        if connection is None:
            connection = open_writer(self._where)
            self._adopt(connection)
        deadline = time.monotonic() + self._where.busy_timeout_s
        pause_s = 0.0005
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                if self._identity is not None and self._find_identity() != self._identity:
                    raise moved_error()
                return connection
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() >= deadline:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(pause_s * 1.5, 0.005)

    # --- failure and recovery -----------------------------------------------------------------------------------------

    def _fail(self, error: sqlite3.Error | MemoryError) -> DriverError:
        """Roll back, remember the fault, and say so."""
        fault = fault_of(error) or Fault("SQLite refused", "see the text", reopen=True, lasting=False)
        self._roll_back(reopen=fault.reopen)
        what = "the write was refused and not kept"
        if not self._where.wal and not self._where.memory:
            # A journal file that could not be removed decides at the next opening whether the commit counts.
            what = "the write was refused; whether it was kept is not known"
        refusal = unavailable(self._path, fault, error, what=what)
        if fault.reopen or fault.lasting:
            self.remember(fault, error, str(refusal))
        return refusal

    def remember(self, fault: Fault, error: BaseException, reason: str) -> None:
        """Refuse writes for `reason` until a probe has succeeded."""
        if self._fault is None:
            logger.error("%s", reason)
        self._fault = fault
        self._last_error = error
        self.reason = reason
        self._retry_at = time.monotonic() + self._retry_in_s
        self._retry_in_s = min(self._retry_in_s * 2, self._retry.most_s)
        self._alarm()

    def _roll_back(self, *, reopen: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            reopen = True
        if reopen and not self._where.memory:
            self._connection = None
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.warning("store file %s: closing after a failure: %s", self._path, error)

    def _recover(self) -> None:
        """Before the next batch after a failure: open and verify again, or refuse at once until the pause is over."""
        fault = self._fault
        if fault is not None and self._locked_out:
            raise unavailable(self._path, fault, self._last_error)
        if fault is None or (not fault.reopen and self._connection is not None):
            return
        if time.monotonic() < self._retry_at:
            raise unavailable(self._path, fault, self._last_error)
        if self._connection is None:
            connection = open_writer(self._where)
            try:
                verify(connection, whole=self._size_bytes() <= VERIFY_WHOLE_BYTES_MAX)
            except BaseException:
                connection.close()
                raise
            self._adopt(connection)
        self._probe()

    def _probe(self) -> None:
        """Commit without changing anything: proves that the disk takes writes, and covers what a failed commit left."""
        connection = self._begin()
        version = connection.execute("PRAGMA user_version").fetchall()[0][0]
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def lock_out(self, fault: Fault, error: BaseException, reason: str) -> None:
        """Refuse every write until `let_in`: the file could only be opened to read."""
        self._locked_out = True
        self.remember(fault, error, reason)

    def let_in(self, connection: sqlite3.Connection) -> None:
        """Take writes from now on, through this connection."""
        self._locked_out = False
        self._adopt(connection)
        self._mend()

    def _mend(self) -> None:
        logger.warning("store file %s takes writes again", self._path)
        self._fault = self._last_error = None
        self._retry_in_s = self._retry.first_s
        self.reason = ""

    def try_again(self) -> None:
        """Look whether a store that failed is usable by now. For a node where nobody writes meanwhile."""
        if self._fault is None or self._locked_out or time.monotonic() < self._retry_at:
            return
        try:
            self._recover()
            if not self._fault.reopen:
                self._probe()
        except (sqlite3.Error, DriverError) as error:
            if isinstance(error, sqlite3.Error):
                self._fail(error)
        else:
            self._mend()

    def _size_bytes(self) -> int:
        try:
            return os.path.getsize(self._path)
        except OSError:
            return 0

    # --- checkpoints and space ----------------------------------------------------------------------------------------

    def _checkpoint_when_due(self) -> None:
        if self._pages_guess * self._guess_factor >= CHECKPOINT_PAGES and self._fault is None:
            self._checkpoint("PASSIVE")

    def _checkpoint(self, mode: str) -> None:
        if not self._where.wal or self._connection is None:
            self._pages_guess = 0.0
            return
        try:
            _, pages, done = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()[0]
        except sqlite3.Error as error:
            # Nothing is lost: what was committed stays in the -wal file.
            logger.warning("%s", driver_error(self._path, error))
            if fault_of(error) is not None:
                self._fail(error)
        else:
            if pages > 0 and done == pages and self._pages_guess > 0:
                self._guess_factor = min(max(pages / self._pages_guess, 0.02), 8.0)
        self._pages_guess = 0.0

    def rest(self) -> None:
        """What is done once when nothing has been written for a while: give space back, fold the -wal file in."""
        if self._fault is not None or self._connection is None:
            return
        try:
            free = self._connection.execute("PRAGMA freelist_count").fetchall()[0][0]
            pages = self._connection.execute("PRAGMA page_count").fetchall()[0][0]
            if free >= FREE_PAGES_MIN and free * 4 >= pages:
                # `execute` would take one step of it, which frees one page.
                self._connection.executescript(f"PRAGMA incremental_vacuum({FREE_PAGES_STEP})")
        except sqlite3.Error as error:
            self._fail(error)
            return
        self._checkpoint("PASSIVE")

    def close(self) -> None:
        """Fold the -wal file in and close. A failure here loses nothing: the next opening reads the -wal file."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if self._where.wal and self._fault is None:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            logger.warning("store file %s: closing: %s", self._path, error)
        finally:
            connection.close()
