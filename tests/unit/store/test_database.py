"""Files, batches and their limits."""

from __future__ import annotations

import os
import pathlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import ConfigError, DriverError, EtagMismatch, Overloaded, StoreUnavailable
from edge_runtime.store.connection import Location, location, open_writer
from edge_runtime.store.copies import inspect_copy
from edge_runtime.store.database import Database, Databases, StoreLimits, open_database, open_databases
from edge_runtime.store.faults import StoreBusy
from edge_runtime.store.writer import Retry

FAST_RETRY = StoreLimits(retry=Retry(first_s=0.0, most_s=0.01))


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "test.db")


@pytest.fixture
async def database(path: str) -> AsyncIterator[Database]:
    async with open_database(location(path)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a UNIQUE)").rowcount)
        yield database


def insert(value: Any) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute("INSERT INTO t VALUES (?)", (value,)).rowcount


def rows(database: Database) -> list[Any]:
    return [row[0] for row in database.read("SELECT a FROM t ORDER BY a")]


def stamps(path: str) -> list[int]:
    return [os.stat(name).st_mtime_ns for name in (path, path + "-wal")]


def read_bytes(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()


def write_bytes(path: str, content: bytes) -> None:
    pathlib.Path(path).write_bytes(content)


def size_bytes(path: str) -> int:
    return os.path.getsize(path)


def names_beside(path: str) -> list[str]:
    return os.listdir(os.path.dirname(path))


async def until_writable(database: Database) -> None:
    while True:
        try:
            await database.write(insert(1))
        except StoreUnavailable:
            await trio.lowlevel.checkpoint()
        else:
            return


class Gate:
    """An operation that keeps the writer thread until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.go.wait(10)

    async def hold(self, database: Database, nursery: trio.Nursery) -> None:
        nursery.start_soon(database.write, self)
        await trio.to_thread.run_sync(self.entered.wait, 10)


# --- reading and writing ----------------------------------------------------------------------------------------------


async def test_write_is_read_at_once(database: Database) -> None:
    assert await database.write(insert(1)) == 1
    assert rows(database) == [1]
    assert await database.fetch("SELECT a FROM t") == [(1,)]
    assert await database.read_in_thread("SELECT a FROM t WHERE a = :a", {"a": 1}) == [(1,)]


async def test_file_is_as_it_should_be(database: Database, path: str) -> None:
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert other.execute("PRAGMA page_size").fetchone() == (4096,)
    assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    other.close()
    writer = await database.write(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0])
    assert writer == 2


async def test_clean_close_leaves_one_file(path: str) -> None:
    async with open_database(location(path)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        assert size_bytes(path + "-wal") > 0
    assert names_beside(path) == ["test.db"]


async def test_writes_at_once_are_one_commit(database: Database) -> None:
    before = database.commits
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(database.write, insert(number))
    assert database.commits == before + 1
    assert rows(database) == list(range(50))


async def test_writes_during_a_commit_are_the_next(database: Database) -> None:
    gate = Gate()
    before = database.commits
    async with trio.open_nursery() as nursery:
        await gate.hold(database, nursery)
        for number in range(20):
            nursery.start_soon(database.write, insert(number))
            await trio.testing.wait_all_tasks_blocked()
        gate.go.set()
    assert database.commits == before + 2


@pytest.mark.parametrize("single", [False, True])
async def test_failed_operation_spares_its_neighbours(database: Database, single: bool) -> None:
    errors: list[Exception] = []

    async def write(value: int) -> None:
        try:
            await database.write(insert(value), single=single)
        except DriverError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for value in (1, 2, 2, 3):
            nursery.start_soon(write, value)
    assert rows(database) == [1, 2, 3]
    assert len(errors) == 1
    assert "UNIQUE constraint failed" in str(errors[0])
    assert database.healthy


async def test_failed_operation_is_undone_whole(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        insert(1)(connection)
        raise EtagMismatch("no")

    with pytest.raises(EtagMismatch, match="no"):
        await database.write(half)
    assert rows(database) == []


async def test_batches_are_bounded(path: str) -> None:
    limits = StoreLimits(batch_operations_max=8, batch_bytes_max=100)
    async with open_database(location(path), limits) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        before = database.commits
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(database.write, insert(number))
        assert database.commits == before + 3
        before = database.commits
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(lambda n=number: database.write(insert(n), size_bytes=50 if n else 500))
        assert database.commits - before in (3, 4)  # the big one alone, or last in line


async def test_full_queue_refuses(path: str) -> None:
    limits = StoreLimits(queue_operations_max=3, queue_bytes_max=1000)
    async with open_database(location(path), limits) as database, trio.open_nursery() as nursery:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        gate = Gate()
        await gate.hold(database, nursery)
        nursery.start_soon(lambda: database.write(insert(1), size_bytes=900))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="raise --store-queue-size"):
            await database.write(insert(9), size_bytes=101)
        for number in (2, 3):
            nursery.start_soon(database.write, insert(number))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="3 writes are waiting; raise --store-queue-operations"):
            await database.write(insert(9))
        gate.go.set()
    async with open_database(location(path), limits) as database:
        assert rows(database) == [1, 2, 3]


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_waiting_write_can_be_cancelled(database: Database) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        await gate.hold(database, nursery)
        with trio.CancelScope() as scope:
            scope.cancel()
            await database.write(insert(1))
        assert scope.cancelled_caught
        nursery.start_soon(database.write, insert(2))
        gate.go.set()
    assert rows(database) == [2]


async def test_handed_over_write_completes(database: Database) -> None:
    gate = Gate()
    scope = trio.CancelScope()
    done = []

    def operation(connection: sqlite3.Connection) -> None:
        gate(connection)
        insert(1)(connection)

    async def write() -> None:
        with scope:
            await database.write(operation)
            done.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.to_thread.run_sync(gate.entered.wait, 10)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.go.set()
    assert done == [True]
    assert rows(database) == [1]


async def test_cancelled_program_still_answers(path: str) -> None:
    gate = Gate()
    async with open_databases() as databases:
        database = await databases.get(path)
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await gate.hold(database, nursery)
                scope.cancel()
                gate.go.set()
        with trio.CancelScope() as scope:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await database.write(insert(1))
    async with open_database(location(path)) as database:
        assert rows(database) == [1]


@pytest.mark.parametrize("single", [False, True])
async def test_lack_of_memory_ends_no_thread(path: str, single: bool) -> None:
    def starve(connection: sqlite3.Connection) -> None:
        raise MemoryError

    async with open_database(location(path), FAST_RETRY) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        with pytest.raises(StoreUnavailable, match="memory ran out"):
            await database.write(starve, single=single)
        await until_writable(database)
        assert rows(database) == [1]


async def test_failed_upkeep_ends_no_thread(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("unforeseen")

    database._writer.jobs.put(fail)
    await database.write(insert(1))
    assert "unforeseen" in caplog.text


async def test_any_failed_opening_is_tried_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(where: Location) -> None:
        raise DriverError("no fault that is known")

    monkeypatch.setattr("edge_runtime.store.database._open_connections", fail)
    await database._open_again()
    assert rows(database) == []


async def test_cancelled_opening_is_closed(path: str) -> None:
    async def use(databases: Databases) -> None:
        async with databases.lease(location(path)):
            await trio.sleep_forever()

    with trio.fail_after(5):
        async with open_databases() as databases, trio.open_nursery() as nursery:
            nursery.start_soon(use, databases)
            while not databases._opening.locked():
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert names_beside(path) == ["test.db"]


async def test_slow_read_can_be_cancelled(database: Database) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.read_in_thread, endless)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await database.read_in_thread("SELECT 1") == [(1,)]


async def test_closing_refuses_more(path: str) -> None:
    async with open_database(location(path)) as database:
        pass
    with pytest.raises(StoreUnavailable, match="being closed"):
        await database.write(insert(1))


# --- the registry -----------------------------------------------------------------------------------------------------


async def test_one_file_is_one_database(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    async with open_databases() as databases:
        first = await databases.get(str(tmp_path / "a.db"))
        assert await databases.get(str(tmp_path / "link" / "a.db")) is first
        async with databases.lease(location(str(tmp_path / "a.db"))) as leased:
            assert leased is first
        assert first.read("SELECT 1") == [(1,)]
        assert databases.unhealthy == []


async def test_last_user_closes_the_file(path: str) -> None:
    async with open_databases() as databases:
        async with databases.lease(location(path)) as first:
            await first.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        assert names_beside(path) == ["test.db"]
        async with databases.lease(location(path)) as second:
            assert second is not first
            assert rows(second) == []


async def test_contradicting_settings_are_refused(path: str) -> None:
    async with open_databases() as databases:
        await databases.get(path)
        with pytest.raises(ConfigError, match=r"one with and one without disableWAL"):
            await databases.get(path, wal=False)


async def test_memory_is_private() -> None:
    async with open_databases() as databases:
        first, second = await databases.get(":memory:"), await databases.get(":memory:")
        await first.write(lambda connection: connection.execute("CREATE TABLE t (a UNIQUE)").rowcount)
        await first.write(insert(1))
        with pytest.raises(DriverError, match="UNIQUE"):
            await first.write(insert(1))
        assert await first.fetch("SELECT a FROM t") == await first.read_in_thread("SELECT a FROM t") == [(1,)]
        with pytest.raises(DriverError, match="no such table"):
            second.read("SELECT a FROM t")


# --- several processes ------------------------------------------------------------------------------------------------


async def test_other_processes_commits_are_seen(database: Database, path: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("INSERT INTO t VALUES (1)")
    assert rows(database) == [1]
    await database.write(insert(2))
    assert other.execute("SELECT count(*) FROM t").fetchall() == [(2,)]
    other.close()


async def test_foreign_lock_is_waited_for(database: Database, path: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, insert(1))
        await trio.testing.wait_all_tasks_blocked()
        assert rows(database) == []
        other.execute("COMMIT")
    assert rows(database) == [1]
    other.close()


async def test_endless_lock_is_told(path: str) -> None:
    async with open_database(Location(path, busy_timeout_s=0.01)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match=r"another process keeps it locked.*raise busyTimeout"):
            await database.write(insert(1))
        assert database.healthy
        other.execute("COMMIT")
        other.close()
        await database.write(insert(2))
        assert rows(database) == [2]


async def test_lock_is_waited_for_once(path: str) -> None:
    writer = open_writer(location(path))
    assert writer.execute("PRAGMA busy_timeout").fetchall() == [(0,)]  # SQLite's own waiting would come on top of ours
    writer.close()


# --- files that are taken away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_moved_file_takes_no_writes(database: Database, path: str, suffix: str) -> None:
    await database.write(insert(1))
    os.rename(path + suffix, path + ".elsewhere")
    with pytest.raises(StoreUnavailable, match=r"moved, replaced or deleted while it was open"):
        await database.write(insert(2))
    assert not database.healthy
    assert rows(database) == [1]
    write_bytes(path + suffix, b"")
    with pytest.raises(StoreUnavailable, match=r"put it back together with its -wal file, or restart"):
        await database.write(insert(3))
    os.rename(path + ".elsewhere", path + suffix)
    await database.write(insert(4))
    assert database.healthy
    assert rows(database) == [1, 4]


# --- files that cannot be used ----------------------------------------------------------------------------------------


async def test_foreign_file_is_refused(path: str) -> None:
    content = b"this is no database, but it is long enough to be looked at" * 100
    write_bytes(path, content)
    with pytest.raises(
        StoreUnavailable, match=r"test.db: it cannot be used: .* is not an SQLite database.*move it away"
    ):
        async with open_database(location(path)):
            pass
    assert read_bytes(path) == content


async def test_missing_folder_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"none/a.db: it cannot be used.*its folder exists"):
        async with open_database(location(str(tmp_path / "none" / "a.db"))):
            pass


async def test_read_only_file_is_only_read(path: str) -> None:
    async with open_database(location(path)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        await database.write(insert(1))
    where = Location(path, read_only=True, wal=False, parameters=(("mode", "ro"),))
    async with open_database(where) as database:
        assert rows(database) == [1]
        with pytest.raises(StoreUnavailable, match="opened to read only"):
            await database.write(insert(2))


async def test_damage_is_told_and_not_touched(path: str) -> None:
    async with open_database(location(path)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        for number in range(300):
            await database.write(insert(f"{number:04}" * 100))
    content = bytearray(read_bytes(path))
    content[8192:-4096] = b"\xff" * (len(content) - 12288)
    write_bytes(path, content)
    async with open_database(location(path), FAST_RETRY) as database:
        with pytest.raises(StoreUnavailable, match=r"test.db: .*the file is damaged.*restore a copy"):
            rows(database)
        with pytest.raises(StoreUnavailable, match="the file is damaged"):
            await database.write(lambda connection: connection.execute("DELETE FROM t").rowcount)
        assert not database.healthy
        assert "the file is damaged" in database.reason


async def test_a_schema_that_is_no_text_is_damage(path: str, tmp_path: pathlib.Path) -> None:
    """SQLite quotes it in its error, and Python cannot read the quotation."""
    async with open_database(location(path)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
    write_bytes(path, read_bytes(path).replace(b"CREATE TABLE t (a)", b"CR\xacATE TABLE t (a)"))
    told = r"test.db: .*the file is damaged.*restore a copy"
    for where in (location(path), location(path)._replace(read_only=True, wal=False, parameters=(("mode", "ro"),))):
        with pytest.raises(StoreUnavailable, match=told):
            async with open_database(where):
                pass
    with pytest.raises(StoreUnavailable, match=told):
        inspect_copy(path)


# --- at rest ----------------------------------------------------------------------------------------------------------


async def test_idle_file_is_not_written(path: str, autojump_clock: trio.testing.MockClock) -> None:
    async with open_database(location(path)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        await trio.sleep(3600)
        await database.write(lambda connection: None)  # the writer has done what came before
        before = stamps(path)
        await trio.sleep(24 * 3600)
        await database.write(lambda connection: None)  # the writer has done what came before
        assert stamps(path) == before


async def test_rest_gives_space_back(path: str) -> None:
    async with open_database(location(path), StoreLimits(idle_s=0.0)) as database:
        await database.write(lambda connection: connection.execute("CREATE TABLE t (a)").rowcount)
        for _ in range(20):
            await database.write(insert(b"x" * 200_000))
        await database.write(lambda connection: connection.execute("DELETE FROM t").rowcount)
        while database.read("PRAGMA page_count")[0][0] > 300:
            await trio.lowlevel.checkpoint()
        await database.write(lambda connection: None)  # the writer has done what came before
        assert database.healthy


@pytest.mark.slow
async def test_wal_file_stays_bounded(path: str) -> None:
    async with open_database(location(path)) as database:
        await database.write(
            lambda connection: connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)").rowcount
        )
        for number in range(3000):
            await database.write(
                lambda connection, n=number: connection.execute("REPLACE INTO t VALUES (?, ?)", (n % 50, b"x" * 3000)),
                size_bytes=3000,
            )
        assert size_bytes(path + "-wal") <= 8 * 1024 * 1024


class ShortToken:
    """Memory is too short for the first call."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self.failed = 0

    def run_sync_soon(self, function: Callable[..., Any], *args: Any) -> None:
        if not self.failed:
            self.failed += 1
            raise MemoryError
        self._token.run_sync_soon(function, *args)


async def test_an_answer_comes_where_memory_is_short(database: Database) -> None:
    token = ShortToken(database._token)
    database._token = token  # type: ignore[assignment]
    with trio.fail_after(5):
        await database.write(insert(1))
    assert token.failed
    assert rows(database) == [1]


@pytest.mark.parametrize("name", ["_fail", "_checkpoint_when_due"])
async def test_the_writer_outlives_short_memory(database: Database, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise MemoryError

    def short(_: sqlite3.Connection) -> int:
        raise MemoryError

    monkeypatch.setattr(database._writer, name, fail)
    with trio.fail_after(5):
        if name == "_fail":
            with pytest.raises(StoreUnavailable, match=r"whether it was kept is not known: MemoryError"):
                await database.write(short)
        else:
            await database.write(insert(0))
        while 1 not in rows(database):
            try:
                await database.write(insert(1))
            except StoreUnavailable:  # it opens the file again before the next write, after a pause
                await trio.sleep(0.01)
