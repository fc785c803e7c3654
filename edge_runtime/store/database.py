"""The node's SQLite files: one `Database` a file, shared by everything that names the same file.

Reads run on the trio thread, on a connection of their own: a hot SELECT costs less than the hop to a thread. Writes are
group-committed. A batch is what has been asked for while the loop ran everything that was ready; it is handed over
whole to the file's writer thread, and what arrives while a commit is in flight is the next batch. There is no time
window, and with one writer waiting the batch is one.

An operation that was handed over completes: its caller cannot be cancelled any more. One still in the queue is dropped
when its caller is cancelled.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import trio

from edge_runtime.model.errors import ConfigError, DriverError, Overloaded, StoreUnavailable
from edge_runtime.store.connection import INLINE_BUSY_MS, Location, location, open_reader, open_writer, verify
from edge_runtime.store.faults import Fault, StoreBusy, driver_error, fault_of, unavailable
from edge_runtime.store.lost_commits import find_lost_commits, read_header
from edge_runtime.store.writer import Batch, Retry, Write, Writer

logger = logging.getLogger("dapr.runtime.store")

T = TypeVar("T")
Row = tuple[Any, ...]
Arguments = Sequence[Any] | Mapping[str, Any]

# Closing waits so long for the last batch; a disk that hangs longer would hang the whole shutdown.
_CLOSE_TIMEOUT_S: Final = 10.0


class StoreLimits(NamedTuple):
    """What a database takes on. `queue_*`: writes waiting; past them `Overloaded`. `batch_*`: one commit."""

    batch_operations_max: int = 512
    batch_bytes_max: int = 8 * 1024 * 1024
    queue_operations_max: int = 4096
    queue_bytes_max: int = 32 * 1024 * 1024
    idle_s: float = 60.0
    retry: Retry = Retry()


class Database:
    """One open file."""

    def __init__(self, where: Location, limits: StoreLimits, opened: Opened) -> None:
        self.path = where.path
        self._where = where
        self._limits = limits
        self._writer = Writer(where, opened.writer, limits.retry, self._alarm)
        self._reader = opened.reader
        self._reading = opened.reading
        self._thread_reader: sqlite3.Connection | None = None
        self._functions: dict[str, tuple[int, Callable[..., Any]]] = {}
        self._undefined: dict[str, tuple[int, Callable[..., Any]]] = {}  # not yet known to the thread's connection
        self._thread_limiter = trio.CapacityLimiter(1)
        # Without a -wal file a reader waits for the writer's commit, which the trio thread must not do.
        self._reads_inline = where.wal or where.memory or where.read_only
        self._token = trio.lowlevel.current_trio_token()
        self._pending: deque[Write] = deque()
        self._pending_operations = 0
        self._pending_bytes = 0
        self._in_flight = False
        self._feeder: trio.lowlevel.Task | None = None  # set while the feeder sleeps
        self._written = trio.Event()
        self._failed = trio.Event()
        self.taps: dict[str, Any] = {}  # by table: what has to happen with every write of whoever shares the file
        self._refusing = where.read_only  # also once closing
        self.lost_commits = opened.lost_commits  # when it was opened
        self._opened_to_read = False
        if opened.failure is not None:
            self._opened_to_read = True
            self._writer.lock_out(*opened.failure)

    # --- health -------------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """False while writes are refused because of the file or its medium."""
        return not self._writer.reason

    @property
    def reason(self) -> str:
        """Why it is not healthy; empty when it is."""
        return self._writer.reason

    @property
    def restart_may_mend(self) -> bool:
        """It is not healthy, for a reason that a new process may not find."""
        return self._writer.restart_may_mend

    async def answer(self) -> None:
        """Wait until the writer thread has got through what it was given before; nothing is written for it."""
        if self._where.memory or self._where.read_only or self._refusing:
            return
        answered = trio.Event()
        self._writer.jobs.put(partial(self._token.run_sync_soon, answered.set))
        await answered.wait()

    @property
    def commits(self) -> int:
        """Batches committed so far."""
        return self._writer.commits

    # --- reads --------------------------------------------------------------------------------------------------------

    def read(self, sql: str, args: Arguments = ()) -> list[Row]:
        """All rows, at once, on this thread: for small reads by key. Raises `StoreBusy` when the file is locked."""
        try:
            return self._reader.execute(sql, args).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise driver_error(self.path, error) from error

    async def fetch(self, sql: str, args: Arguments = ()) -> list[Row]:
        """As `read`, but moves to a thread when the file is locked or the read might wait for a commit."""
        if self._reads_inline:
            try:
                return self.read(sql, args)
            except StoreBusy:
                if self._where.memory:
                    raise
        return await self.read_in_thread(sql, args)

    async def read_in_thread(self, sql: str, args: Arguments = ()) -> list[Row]:
        """All rows, read in a thread: for a big or slow read. Cancelling stops the read."""
        if self._where.memory:
            await trio.lowlevel.checkpoint()
            return self.read(sql, args)
        return await trio.to_thread.run_sync(self._read_in_thread, sql, args, limiter=self._thread_limiter)

    def _read_in_thread(self, sql: str, args: Arguments) -> list[Row]:
        try:
            if self._thread_reader is None:
                reader = open_reader(self._reading, busy_ms=round(self._where.busy_timeout_s * 1000))
                reader.set_progress_handler(_stop_when_cancelled, 20_000)
                self._thread_reader = reader
                self._undefined.update(self._functions)
            while self._undefined:
                name, (arguments, function) = self._undefined.popitem()
                self._thread_reader.create_function(name, arguments, function, deterministic=True)
            return self._thread_reader.execute(sql, args).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                trio.from_thread.check_cancelled()
            raise driver_error(self.path, error) from error

    def define(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """An SQL function for `read_in_thread`."""
        self._functions[name] = self._undefined[name] = (arguments, function)
        if self._where.memory:
            self._reader.create_function(name, arguments, function, deterministic=True)

    # --- writes -------------------------------------------------------------------------------------------------------

    async def write(
        self, operation: Callable[[sqlite3.Connection], T], *, size_bytes: int = 0, single: bool = False
    ) -> T:
        """Run `operation` in the next transaction and return its result once that is on disk.

        It runs in the writer thread. `single` says that it changes the file by one statement at most, which saves the
        savepoint. `size_bytes` is about what it writes, for the limits. Raises `Overloaded`, `StoreUnavailable`, or
        what the operation raised, which then has changed nothing.
        """
        limits = self._limits
        if (
            self._pending_operations >= limits.queue_operations_max
            or self._pending_bytes + size_bytes > limits.queue_bytes_max
            or self._refusing
        ):
            raise self._overloaded(size_bytes)
        write = Write(operation, trio.lowlevel.current_task(), size_bytes, single)
        if self._where.memory:
            return await self._write_at_once(write)  # type: ignore[no-any-return]
        self._pending.append(write)
        self._pending_operations += 1
        self._pending_bytes += size_bytes
        if self._feeder is not None and not self._in_flight:
            self._wake_feeder()
        return await trio.lowlevel.wait_task_rescheduled(write.give_up)  # type: ignore[no-any-return]

    async def _write_at_once(self, write: Write) -> Any:
        """In memory there is no commit to wait for, so no thread either."""
        self._writer.run([write])
        await trio.lowlevel.cancel_shielded_checkpoint()
        assert write.result is not None
        return write.result.unwrap()

    def _overloaded(self, size_bytes: int) -> DriverError:
        limits = self._limits
        if self._refusing:
            why = "it was opened to read only" if self._where.read_only else "it is being closed"
            return StoreUnavailable(f"store file {self.path}: the write was refused: {why}")
        if self._pending_operations >= limits.queue_operations_max:
            full = f"{limits.queue_operations_max} writes are waiting; raise --store-queue-operations"
        else:
            full = f"{size_bytes} bytes more would pass {limits.queue_bytes_max} waiting; raise --store-queue-size"
        return Overloaded(f"store file {self.path}: the write queue is full: {full}, or send fewer writes at once")

    # --- the feeder ---------------------------------------------------------------------------------------------------

    def _wake_feeder(self) -> None:
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            trio.lowlevel.reschedule(feeder)

    async def _feed(self) -> None:
        """Hand over batch after batch, until closing and nothing is left."""
        while True:
            if self._in_flight or not self._pending:
                if self._refusing and not self._in_flight:
                    return
                self._feeder = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._feeder_cancelled)
            else:
                # Everything that is ready now runs once more, and its writes join the batch.
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._hand_over()

    def _feeder_cancelled(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._feeder = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _hand_over(self) -> None:
        batch: Batch = []
        batch_bytes = 0
        pending = self._pending
        limits = self._limits
        while pending and len(batch) < limits.batch_operations_max:
            write = pending[0]
            if batch and batch_bytes + write.size_bytes > limits.batch_bytes_max:
                break
            pending.popleft()
            self._pending_operations -= 1
            self._pending_bytes -= write.size_bytes
            if write.task is not None:
                write.handed_over = True
                batch_bytes += write.size_bytes
                batch.append(write)
        if batch:
            self._in_flight = True
            self._writer.jobs.put(batch)

    def _answer(self, batch: Batch) -> None:
        """In the writer thread: the batch is done."""
        try:
            self._token.run_sync_soon(self._answered, batch)
        except trio.RunFinishedError:
            logger.warning("store file %s: %d writes were answered after the end", self.path, len(batch))

    def _answered(self, batch: Batch) -> None:
        self._in_flight = False
        for write in batch:
            assert write.task is not None
            trio.lowlevel.reschedule(write.task, write.result)  # type: ignore[arg-type]
        if self._feeder is not None and (self._pending or self._refusing):
            self._wake_feeder()
        if not self._written.is_set():
            self._written.set()

    # --- looking after the file ---------------------------------------------------------------------------------------

    async def _rest_when_idle(self) -> None:
        """Fold the -wal file in once when writing has stopped; a file at rest is not touched."""
        while True:
            await self._written.wait()
            commits = -1
            while commits != self._writer.commits:
                commits = self._writer.commits
                await trio.sleep(self._limits.idle_s)
            self._written = trio.Event()
            self._writer.jobs.put(self._writer.rest)

    def _alarm(self) -> None:
        """In the writer thread: writes are refused from now on."""
        try:
            self._token.run_sync_soon(self._set_failed)
        except trio.RunFinishedError:
            pass

    def _set_failed(self) -> None:
        self._failed.set()

    async def _try_again_after_failure(self) -> None:
        """While writes are refused, look from time to time whether they can be taken again."""
        while True:
            await self._failed.wait()
            while not self.healthy:
                await trio.sleep(self._limits.retry.most_s)
                if self._opened_to_read:
                    await self._open_again()
                else:
                    self._writer.jobs.put(self._writer.try_again)
            self._failed = trio.Event()

    async def _open_again(self) -> None:
        """After an opening that could only read: once writing works, the connections are new ones.

        SQLite shares what it knows of a file between a process's connections: while one is open that could only read,
        none can write. So the readers go first, and no task runs until there is a new one.
        """
        async with self._thread_limiter:
            for connection in (self._reader, self._thread_reader):
                if connection is not None:
                    connection.close()
            self._thread_reader = None
            try:
                opened = _open_connections(self._where)
            except DriverError:
                with suppress(DriverError):  # else reads are refused until the next try
                    self._reader = _open_to_read(self._reading)
                return
        self._reader, self._reading = opened.reader, opened.reading
        if opened.writer is None:
            return
        self._opened_to_read = False
        self._writer.jobs.put(partial(self._writer.let_in, opened.writer))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The tasks and the thread of this file, until `close`. Closing is the only way to end them: a write that is
        under way when the program is cancelled still gets its answer."""
        with trio.CancelScope(shield=True):
            thread = self._writer.start(self._answer)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._rest_when_idle)
                    nursery.start_soon(self._try_again_after_failure)
                    task_status.started()
                    await self._feed()
                    nursery.cancel_scope.cancel()
            finally:
                self._writer.jobs.put(None)
                await trio.to_thread.run_sync(thread.join, _CLOSE_TIMEOUT_S)

    def close(self) -> None:
        """Take no more writes; `serve` ends when what was taken is done."""
        self._refusing = True
        if not self._in_flight:
            self._wake_feeder()

    def close_connections(self) -> None:
        """Give the readers' connections back. Nothing may be read afterwards."""
        for connection in (self._reader, self._thread_reader):
            if connection is not None:
                connection.close()

    def check_same(self, where: Location) -> None:
        """Two components may share a file, but not open it in ways that contradict each other."""
        if (where.wal, where.read_only) != (self._where.wal, self._where.read_only):
            raise ConfigError(
                f"store file {self.path} is opened by two components, one with and one without"
                " disableWAL or mode=ro; give both the same settings"
            )


def _stop_when_cancelled() -> int:
    try:
        trio.from_thread.check_cancelled()
    except trio.Cancelled:
        return 1
    return 0


class Opened(NamedTuple):
    """The connections of a file, and how to open one more to read; `failure` is why it cannot be written for now.
    `lost_commits`: damage has taken back what was written last."""

    writer: sqlite3.Connection | None
    reader: sqlite3.Connection
    reading: Location
    failure: tuple[Fault, sqlite3.Error, str] | None = None
    lost_commits: bool = False


@asynccontextmanager
async def open_database(where: Location, limits: StoreLimits = StoreLimits()) -> AsyncIterator[Database]:  # noqa: B008
    """One file, looked at and ready. Raises `StoreUnavailable` naming the file when it cannot be used."""
    opened = await trio.to_thread.run_sync(_open_connections, where)
    database = Database(where, limits, opened)
    try:
        if where.memory or where.read_only:
            yield database
            return
        async with trio.open_nursery() as nursery:
            # Its tasks are shielded: cancelled on the way, nobody would be left to end them.
            with trio.CancelScope(shield=True):
                await nursery.start(database.serve)
            try:
                yield database
            finally:
                database.close()
    finally:
        database.close_connections()


def _open_connections(where: Location) -> Opened:
    if where.read_only:
        return Opened(None, _open_to_read(where), where)
    header = read_header(where) if where.wal else b""
    try:
        writer = open_writer(where)
    except sqlite3.Error as error:
        return _opened_after(error, where)
    try:
        verify(writer, whole=False)
        lost = find_lost_commits(writer, where, header)
        if lost is not None:
            logger.error(
                "store file %s: its -wal file is damaged at byte %d: %d acknowledged commits or more behind it are"
                " lost; restore a copy if they matter, and check the medium",
                *(where.path, lost.place, lost.commits),
            )
        reader = writer if where.memory else open_reader(where, busy_ms=INLINE_BUSY_MS)
        return Opened(writer, reader, where, lost_commits=lost is not None)
    except sqlite3.Error as error:
        writer.close()
        return _opened_after(error, where)


def _open_to_read(where: Location) -> sqlite3.Connection:
    try:
        reader = open_reader(where, busy_ms=INLINE_BUSY_MS)
        verify(reader, whole=False)
    except sqlite3.Error as error:
        raise _unusable(where, error) from error
    return reader


def _opened_after(error: sqlite3.Error, where: Location) -> Opened:
    """A file that cannot be written may still be read: apps see their data, and health says what is wrong."""
    fault = fault_of(error)
    if fault is None or fault.damaged or where.memory or not os.path.exists(where.path):
        raise _unusable(where, error) from error
    parameters = {**dict(where.parameters), "mode": "ro"}
    if _is_read_only(os.path.dirname(where.path)) and not _has_content(where.path + "-wal"):
        parameters["immutable"] = "1"  # nobody can change it, and with no -wal file the main file is all there is
    reading = where._replace(read_only=True, parameters=tuple(parameters.items()))
    return Opened(None, _open_to_read(reading), reading, (fault, error, str(unavailable(where.path, fault, error))))


def _unusable(where: Location, error: sqlite3.Error) -> DriverError:
    fault = fault_of(error)
    if fault is None:
        return driver_error(where.path, error)
    return unavailable(where.path, fault, error, what="it cannot be used")


def _is_read_only(folder: str) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY) or not os.access(folder, os.W_OK)


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


class _Shared:
    """One file's `Database` and who uses it."""

    __slots__ = ("closed", "closing", "database", "users")

    def __init__(self, database: Database, closing: trio.Event, closed: trio.Event) -> None:
        self.database = database
        self.users = 0
        self.closing = closing
        self.closed = closed


class Databases:
    """The node's open files. Whoever names the same file, by whatever path, shares one `Database` and its writer."""

    def __init__(self, nursery: trio.Nursery, limits: StoreLimits) -> None:
        self._nursery = nursery
        self._limits = limits
        self._shared: dict[str, _Shared] = {}
        self._opening = trio.Lock()
        self._memory_names = itertools.count()

    async def get(self, path: str, **settings: Any) -> Database:
        """The file's database, open as long as the registry. `settings` are those of `Location`."""
        return (await self._acquire(location(path, **settings))).database

    @asynccontextmanager
    async def lease(self, where: Location) -> AsyncIterator[Database]:
        """The file's database, closed when its last user is gone."""
        shared = await self._acquire(where)
        try:
            yield shared.database
        finally:
            shared.users -= 1
            if not shared.users:
                self._shared = {key: entry for key, entry in self._shared.items() if entry is not shared}
                shared.closing.set()
                with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                    await shared.closed.wait()

    @property
    def opened(self) -> list[Database]:
        """The files that are open now."""
        return [shared.database for shared in self._shared.values()]

    @property
    def unhealthy(self) -> list[str]:
        """Why writes are refused, a line for each file that refuses them."""
        return [shared.database.reason for shared in self._shared.values() if not shared.database.healthy]

    def close(self) -> None:
        """Let every file finish what it was given, then close it."""
        for shared in self._shared.values():
            shared.closing.set()

    async def _acquire(self, where: Location) -> _Shared:
        async with self._opening:
            # What is in memory is its component's alone.
            key = f":memory:{next(self._memory_names)}" if where.memory else where.path
            shared = self._shared.get(key)
            if shared is None:
                # As in `open_database`: what is being opened has to be closed by somebody.
                with trio.CancelScope(shield=True):
                    opened: _Shared = await self._nursery.start(self._serve, where)
                shared = self._shared[key] = opened
            shared.database.check_same(where)
            shared.users += 1
            return shared

    async def _serve(self, where: Location, *, task_status: trio.TaskStatus[_Shared]) -> None:
        closing, closed = trio.Event(), trio.Event()
        try:
            # The registry's end closes files one by one and in order; a cancelled program must not do it from the side.
            with trio.CancelScope(shield=True):
                async with open_database(where, self._limits) as database:
                    task_status.started(_Shared(database, closing, closed))
                    await closing.wait()
        finally:
            closed.set()


@asynccontextmanager
async def open_databases(limits: StoreLimits = StoreLimits()) -> AsyncIterator[Databases]:  # noqa: B008
    """The registry of the node's files; all are closed at the end, once their last writes are on disk."""
    async with trio.open_nursery() as nursery:
        databases = Databases(nursery, limits)
        try:
            yield databases
        finally:
            databases.close()
