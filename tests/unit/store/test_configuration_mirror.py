"""What a link brings into a configuration table, and what it leaves alone there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.store.configuration import VALUE_BYTES_MAX, ConfigurationTable
from edge_runtime.store.configuration_mirror import ConfigurationMirror
from edge_runtime.store.database import Database, open_databases

Item = ConfigurationItem


class Opened:
    def __init__(self, database: Database, table: ConfigurationTable, mirror: ConfigurationMirror) -> None:
        self.database = database
        self.table = table
        self.mirror = mirror

    async def items(self) -> dict[str, ConfigurationItem]:
        return {key: entry.item for key, entry in (await self.table.read()).items()}


@asynccontextmanager
async def opened(path: Path, route: str = "link/cloud/store") -> AsyncIterator[Opened]:
    async with open_databases() as databases:
        database = await databases.get(str(path))
        table = ConfigurationTable(database)
        mirror = ConfigurationMirror(table, route)
        await mirror.prepare()
        yield Opened(database, table, mirror)


async def test_items_come_whole(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        item = Item("42", "v7", {"b": "2", "a": "1"})
        assert await one.mirror.take({"k": item, "empty": Item("", "1")}, None) == (2, 0, [])
        assert await one.items() == {"k": item, "empty": Item("", "1")}


async def test_what_is_the_same_is_not_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        items = {"k": Item("42", "", {"b": "2", "a": "1"}), "l": Item("1", "1")}
        await one.mirror.take(items, None)
        before = await one.table.read()
        assert await one.mirror.take({**items, "l": Item("2", "2")}, None) == (1, 0, [])
        after = await one.table.read()
        assert before["k"] == after["k"]
        assert before["l"].mark != after["l"].mark


async def test_what_is_gone_there_goes_here(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        await one.table.put("mine", Item("1"))
        await one.mirror.take({"a": Item("1"), "b": Item("2"), "c": Item("3")}, None)
        assert await one.mirror.take({"b": Item("2"), "c": Item("3")}, None) == (0, 1, [])
        assert await one.mirror.take({}, ["c", "mine"]) == (0, 1, [])
        assert (await one.items()).keys() == {"b", "mine"}


async def test_a_hand_that_writes_over_is_put_right(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        await one.mirror.take({"a": Item("remote", "7")}, None)
        await one.table.put("a", Item("by hand"))
        await one.mirror.take({"a": Item("remote", "7")}, ["a"])
        assert await one.items() == {"a": Item("remote", "7")}


async def test_routes_keep_to_their_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        other = ConfigurationMirror(one.table, "link/other/store")
        await one.mirror.take({"a": Item("1")}, None)
        await other.take({"b": Item("2")}, None)
        await other.take({}, None)
        assert (await one.items()).keys() == {"a"}


async def test_the_next_life_knows_what_was_brought(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        await one.mirror.take({"a": Item("1"), "b": Item("1")}, None)
    async with opened(tmp_path / "c.db") as one:
        assert (await one.items()).keys() == {"a", "b"}
        assert await one.mirror.take({"a": Item("1")}, None) == (0, 1, [])
        assert one.database.commits == 1


async def test_a_value_that_is_too_large_leaves_the_one_before(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as one:
        await one.mirror.take({"a": Item("1")}, None)
        assert await one.mirror.take({"a": Item("x" * (VALUE_BYTES_MAX + 1)), "b": Item("2")}, None) == (1, 0, ["a"])
        assert await one.items() == {"a": Item("1", "1"), "b": Item("2", "2")}
