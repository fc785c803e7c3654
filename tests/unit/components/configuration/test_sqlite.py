"""`configuration.sqlite`: its file, its versions, and writes by programs that ring no bell."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.components.configuration.sqlite import SqliteConfiguration, open_sqlite_configuration
from edge_runtime.components.registry import ComponentContext
from edge_runtime.model.errors import BadMetadata, ConfigError, DriverError
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.store.configuration import VALUE_BYTES_MAX, ConfigurationTable, ring
from edge_runtime.store.database import open_databases


@asynccontextmanager
async def opened(path: Path | str, **fields: str) -> AsyncIterator[SqliteConfiguration]:
    async with open_databases() as databases:
        metadata = {"connectionString": str(path), **fields}
        context = ComponentContext("c", "configuration.sqlite", "v1", metadata, "app", "", databases, "", "")
        async with open_sqlite_configuration(context) as store:
            yield store


@asynccontextmanager
async def table(path: Path) -> AsyncIterator[ConfigurationTable]:
    async with open_databases() as databases:
        found = ConfigurationTable(await databases.get(str(path)))
        await found.prepare()
        yield found


def foreign_write(path: Path, sql: str, *args: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, args)


async def test_a_revision_is_never_used_twice(tmp_path: Path) -> None:
    async with table(tmp_path / "c.db") as settings:
        assert await settings.put("a", ConfigurationItem("1")) == 1
        assert await settings.put("a", ConfigurationItem("2")) == 2
        assert await settings.delete("a")
        assert not await settings.delete("a")
        assert await settings.put("a", ConfigurationItem("3")) == 3
        assert (await settings.read(["a"]))["a"].item == ConfigurationItem("3", "3")


async def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    async with table(tmp_path / "c.db") as settings:
        with pytest.raises(BadMetadata, match="needs a key"):
            await settings.put("", ConfigurationItem("1"))
        with pytest.raises(BadMetadata, match="is larger than"):
            await settings.put("a", ConfigurationItem("x" * (VALUE_BYTES_MAX + 1)))


async def test_a_file_on_use_is_not_made_before(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path, openOnUse="true") as store:
        assert not path.exists()
        assert await store.get([], {}) == {}
        assert path.exists()


async def test_a_file_is_made_with_its_table(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db", tableName="other"):
        pass
    foreign_write(tmp_path / "c.db", "REPLACE INTO other (key, value) VALUES ('a', '1')")
    async with opened(tmp_path / "c.db", tableName="other") as store:
        assert await store.get([], {}) == {"a": ConfigurationItem("1", "1")}


async def test_idle_readers_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with open_databases() as databases:
        metadata = {"connectionString": str(path)}
        context = ComponentContext("c", "configuration.sqlite", "v1", metadata, "app", "", databases, "", "")
        async with open_sqlite_configuration(context):
            pass
        async with open_sqlite_configuration(context) as store:
            await store.get(["a"], {})
            assert (await databases.get(str(path))).commits == 0
    assert not bells_of(path), "nobody has followed it"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"connectionString": ":memory:"}, "in memory nobody could ever set anything"),
        ({"connectionString": ""}, "'connectionString' is required"),
        ({"tableName": "a b"}, "letters, digits and _ only"),
        ({"pollInterval": "x"}, "expected a duration"),
    ],
)
async def test_mistakes_are_named(tmp_path: Path, fields: Mapping[str, str], text: str) -> None:
    metadata = {"connectionString": str(tmp_path / "c.db"), **fields}
    async with open_databases() as databases:
        context = ComponentContext("c", "configuration.sqlite", "v1", metadata, "app", "", databases, "", "")
        # Raised as it is, in no group, so that the start of the component names it.
        with pytest.raises(ConfigError, match=text):
            await open_sqlite_configuration(context).__aenter__()


async def test_metadata_that_is_no_object_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as store:
        foreign_write(tmp_path / "c.db", "INSERT INTO configuration (key, value, metadata) VALUES ('a', '1', '[]')")
        with pytest.raises(DriverError, match="the metadata of 'a' cannot be read"):
            await store.get([], {})


def bells_of(path: Path) -> list[Path]:
    """Who follows the file now."""
    return list(Path(f"{path}-configuration").glob("bells/*"))


class Told:
    def __init__(self) -> None:
        self.items: list[Mapping[str, ConfigurationItem]] = []

    async def take(self, items: Mapping[str, ConfigurationItem]) -> None:
        self.items.append(items)

    async def follow(self, store: SqliteConfiguration, *, task_status: Any) -> None:
        await store.subscribe([], {}, self.take, task_status=task_status)


async def test_a_program_that_rings_no_bell_is_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    path, told = tmp_path / "c.db", Told()
    autojump_clock.autojump_threshold = 0.05  # the reading of all settings is done in a thread
    async with opened(path) as store, trio.open_nursery() as nursery:
        await nursery.start(told.follow, store)
        foreign_write(path, "INSERT INTO configuration (key, value) VALUES ('a', '1')")
        await trio.sleep(6)
        assert told.items == [{"a": ConfigurationItem("1", "1")}]
        foreign_write(path, "UPDATE configuration SET value = '2'")
        await trio.sleep(6)
        assert told.items[1:] == [{"a": ConfigurationItem("2", "1")}]
        nursery.cancel_scope.cancel()


async def test_without_room_for_a_bell_the_file_is_looked_at(tmp_path: Path, autojump_clock: MockClock) -> None:
    path, told = tmp_path / "c.db", Told()
    autojump_clock.autojump_threshold = 0.05
    (tmp_path / "c.db-configuration").write_text("in the way")
    async with opened(path, pollInterval="0") as store, trio.open_nursery() as nursery:
        await nursery.start(told.follow, store)
        foreign_write(path, "INSERT INTO configuration (key, value) VALUES ('a', '1')")
        await trio.sleep(2)
        assert len(told.items) == 1
        nursery.cancel_scope.cancel()


async def test_a_bell_without_a_change_tells_nothing(tmp_path: Path) -> None:
    path, told = tmp_path / "c.db", Told()
    async with opened(path, pollInterval="0") as store, trio.open_nursery() as nursery:
        await nursery.start(told.follow, store)
        ring(str(path))
        await wait_all_tasks_blocked(0.05)
        assert not told.items
        nursery.cancel_scope.cancel()


async def test_the_bell_is_taken_down_with_the_last_follower(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as store:
        async with trio.open_nursery() as nursery:
            await nursery.start(Told().follow, store)
            await nursery.start(Told().follow, store)
            await wait_all_tasks_blocked()
            assert len(bells_of(path)) == 1
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert not bells_of(path)
