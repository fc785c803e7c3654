"""Steps that are done once, whole or not at all."""

import pathlib
import sqlite3

import pytest
import trio

from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from edge_runtime.store.migrations import ByCount, ByName, Step, migrate


def make(table: str) -> Step:
    return Step(table, lambda connection: connection.execute(f"CREATE TABLE {table} (a)"))


def fail(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE half (a)")
    connection.execute("nonsense")


@pytest.mark.parametrize("record", [ByName(), ByCount("metadata")])
async def test_steps_are_done_once(tmp_path: pathlib.Path, record: ByName | ByCount) -> None:
    where = location(str(tmp_path / "a.db"))
    async with open_database(where) as database:
        await migrate(database, [make("one")], record)
    async with open_database(where) as database:
        await migrate(database, [make("one"), make("two")], record)
        await migrate(database, [make("one"), make("two")], record)
        assert database.read("SELECT count(*) FROM sqlite_master WHERE name IN ('one', 'two')") == [(2,)]


@pytest.mark.parametrize("record", [ByName(), ByCount("metadata")])
async def test_failed_step_leaves_nothing(tmp_path: pathlib.Path, record: ByName | ByCount) -> None:
    async with open_database(location(str(tmp_path / "a.db"))) as database:
        with pytest.raises(DriverError, match="nonsense"):
            await migrate(database, [make("one"), Step("bad", fail), make("two")], record)
        assert database.read("SELECT name FROM sqlite_master WHERE name IN ('one', 'half', 'two')") == [("one",)]
        await migrate(database, [make("one"), make("half"), make("two")], record)


async def test_two_processes_migrate_once(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "a.db")
    steps = [make("one"), make("two"), make("three")]
    async with open_database(location(path)) as first, open_database(location(path)) as second:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(migrate, first, steps, ByName())
            nursery.start_soon(migrate, second, steps, ByName())
        assert second.read("SELECT count(*) FROM edge_migrations") == [(3,)]


async def test_count_is_what_dapr_keeps(tmp_path: pathlib.Path) -> None:
    async with open_database(location(str(tmp_path / "a.db"))) as database:
        await migrate(database, [make("one")], ByCount("metadata"))
        assert database.read("SELECT key, value FROM metadata") == [("migrations", "1")]


async def test_newer_files_are_left_alone(tmp_path: pathlib.Path) -> None:
    async with open_database(location(str(tmp_path / "a.db"))) as database:
        await migrate(database, [make("one"), make("two")], ByCount("metadata"))
        await migrate(database, [make("other")], ByCount("metadata"))
        assert database.read("SELECT value FROM metadata") == [("2",)]


async def test_odd_count_is_told(tmp_path: pathlib.Path) -> None:
    async with open_database(location(str(tmp_path / "a.db"))) as database:
        await migrate(database, [make("one")], ByCount("metadata"))
        await database.write(lambda connection: connection.execute("UPDATE metadata SET value = 'many'").rowcount)
        with pytest.raises(ConfigError, match=r"'many'.*expected the number of migrations"):
            await migrate(database, [make("one")], ByCount("metadata"))


def note(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE one ADD COLUMN later")


ADDED = Step("one-2", note)
TAKEN = Step("one-3", lambda connection: connection.execute("DROP TABLE one"), readable_from=2)


@pytest.mark.parametrize("record", [ByName(), ByCount("metadata")])
async def test_version_before_goes_on(tmp_path: pathlib.Path, record: ByName | ByCount) -> None:
    where = location(str(tmp_path / "a.db"))
    async with open_database(where) as database:
        await migrate(database, [make("one"), ADDED], record, generation=2)
    async with open_database(where) as database:
        await migrate(database, [make("one")], record, generation=1)
        await database.write(lambda connection: connection.execute("INSERT INTO one (a) VALUES (1)").rowcount)
        assert database.read("SELECT a FROM one") == [(1,)]


@pytest.mark.parametrize("record", [ByName(), ByCount("metadata")])
async def test_two_versions_back_are_refused(tmp_path: pathlib.Path, record: ByName | ByCount) -> None:
    where = location(str(tmp_path / "a.db"))
    async with open_database(where) as database:
        await migrate(database, [make("one"), ADDED, TAKEN], record, generation=3)
    async with open_database(where) as database:
        await migrate(database, [make("one"), ADDED], record, generation=2)
        with pytest.raises(ConfigError, match=r"a.db.*generation 2 or later, this is 1.*restore a backup"):
            await migrate(database, [make("one"), make("two")], record, generation=1)
        assert database.read("SELECT name FROM sqlite_master WHERE name IN ('one', 'two')") == []


async def test_step_must_leave_a_way_back(tmp_path: pathlib.Path) -> None:
    async with open_database(location(str(tmp_path / "a.db"))) as database:
        with pytest.raises(ValueError, match="the version before"):
            await migrate(database, [make("one"), ADDED, TAKEN], ByName(), generation=2)
        assert database.read("SELECT name FROM sqlite_master WHERE name = 'one'") == []
