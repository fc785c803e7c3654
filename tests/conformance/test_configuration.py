"""What every configuration store keeps: the same settings asked for and followed in each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.components.configuration.sqlite import open_sqlite_configuration
from edge_runtime.components.registry import DRIVERS, ComponentContext
from edge_runtime.model.ports import ConfigurationItem, ConfigurationStore
from edge_runtime.store.configuration import ConfigurationTable
from edge_runtime.store.database import open_databases

Put = Callable[[str, ConfigurationItem | None], Awaitable[None]]


class Opened(NamedTuple):
    """A store, and how something is set from outside; None deletes it."""

    store: ConfigurationStore
    put: Put


class Driver(NamedTuple):
    type: str
    open: Callable[[Path], AbstractAsyncContextManager[Opened]]


def sqlite(**fields: str) -> Callable[[Path], AbstractAsyncContextManager[Opened]]:
    @asynccontextmanager
    async def opened(directory: Path) -> AsyncIterator[Opened]:
        path = str(directory / "settings.db")
        async with open_databases() as databases, open_databases() as elsewhere:
            table = ConfigurationTable(await elsewhere.get(path))
            await table.prepare()

            async def put(key: str, item: ConfigurationItem | None) -> None:
                if item is None:
                    await table.delete(key)
                else:
                    await table.put(key, item)

            metadata = {"connectionString": path, **fields}
            context = ComponentContext("c", "configuration.sqlite", "v1", metadata, "app", "", databases, "", "")
            async with open_sqlite_configuration(context) as store:
                yield Opened(store, put)

    return opened


SUITE = {
    "sqlite": Driver("configuration.sqlite", sqlite(pollInterval="0")),
    "sqlite on use": Driver("configuration.sqlite", sqlite(openOnUse="true", pollInterval="0")),
}


@pytest.fixture(params=list(SUITE))
def driver(request: pytest.FixtureRequest) -> Driver:
    return SUITE[request.param]


@pytest.fixture
async def opened(driver: Driver, tmp_path: Path) -> AsyncIterator[Any]:
    async with driver.open(tmp_path) as found:
        yield found


class Follower:
    """Everything that was told, in order."""

    def __init__(self) -> None:
        self._send, self.told = trio.open_memory_channel[Mapping[str, ConfigurationItem]](100)

    async def take(self, items: Mapping[str, ConfigurationItem]) -> None:
        await self._send.send(items)

    async def follow(self, store: ConfigurationStore, *keys: str, task_status: Any) -> None:
        await store.subscribe(keys, {}, self.take, task_status=task_status)


def test_every_driver_is_in_the_suite() -> None:
    listed = {key.rpartition("/")[0] for key in DRIVERS if key.startswith("configuration.")}
    assert listed == {driver.type for driver in SUITE.values()}


FULL = ConfigurationItem("with ünits", "v1", {"unit": "s", "é": "x"})


async def test_items_are_read_as_they_were_set(opened: Opened) -> None:
    await opened.put("full", FULL)
    await opened.put("other", ConfigurationItem("2", "7"))
    assert await opened.store.get(["full"], {}) == {"full": FULL}
    assert await opened.store.get([], {}) == {"full": FULL, "other": ConfigurationItem("2", "7")}


async def test_unknown_keys_are_left_out(opened: Opened) -> None:
    assert await opened.store.get(["nothing"], {}) == {}
    assert await opened.store.get([], {}) == {}
    await opened.put("a", ConfigurationItem("1", "1"))
    assert await opened.store.get(["a", "nothing"], {}) == {"a": ConfigurationItem("1", "1")}


async def test_many_keys_are_read_at_once(opened: Opened) -> None:
    for number in range(0, 1200, 100):
        await opened.put(f"k{number}", ConfigurationItem(str(number), "1"))
    found = await opened.store.get([f"k{number}" for number in range(1200)], {})
    assert sorted(found) == sorted(f"k{number}" for number in range(0, 1200, 100))


async def test_changes_additions_and_deletions_are_told(opened: Opened) -> None:
    await opened.put("a", ConfigurationItem("1", "v1"))
    follower = Follower()
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.follow, opened.store, "a", "b")
        await opened.put("a", ConfigurationItem("2", "v2", {"k": "v"}))
        assert await follower.told.receive() == {"a": ConfigurationItem("2", "v2", {"k": "v"})}
        await opened.put("b", ConfigurationItem("3", "v3"))
        assert await follower.told.receive() == {"b": ConfigurationItem("3", "v3")}
        await opened.put("a", None)
        assert await follower.told.receive() == {"a": ConfigurationItem("")}
        nursery.cancel_scope.cancel()


async def test_other_keys_are_not_told(opened: Opened) -> None:
    follower, everything = Follower(), Follower()
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.follow, opened.store, "a")
        await nursery.start(everything.follow, opened.store)
        await opened.put("other", ConfigurationItem("1", "1"))
        assert list(await everything.told.receive()) == ["other"]
        await opened.put("a", ConfigurationItem("1", "1"))
        assert list(await everything.told.receive()) == ["a"]
        assert list(await follower.told.receive()) == ["a"]
        nursery.cancel_scope.cancel()


async def test_an_item_set_to_what_it_was_is_told(opened: Opened) -> None:
    await opened.put("a", ConfigurationItem("1", "v1"))
    follower = Follower()
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.follow, opened.store, "a")
        await opened.put("a", ConfigurationItem("1", "v1"))
        assert await follower.told.receive() == {"a": ConfigurationItem("1", "v1")}
        nursery.cancel_scope.cancel()


async def test_nothing_is_told_after_the_end(opened: Opened) -> None:
    gone, there = Follower(), Follower()
    scope = trio.CancelScope()

    async def until_cancelled(*, task_status: Any) -> None:
        with scope:
            await gone.follow(opened.store, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(until_cancelled)
        await nursery.start(there.follow, opened.store)
        scope.cancel()
        await wait_all_tasks_blocked()
        await opened.put("a", ConfigurationItem("1", "1"))
        assert list(await there.told.receive()) == ["a"]
        with pytest.raises(trio.WouldBlock):
            gone.told.receive_nowait()
        nursery.cancel_scope.cancel()


async def test_a_store_can_be_followed_again(opened: Opened) -> None:
    for value in ("1", "2"):
        follower = Follower()
        async with trio.open_nursery() as nursery:
            await nursery.start(follower.follow, opened.store, "a")
            await opened.put("a", ConfigurationItem(value, value))
            assert await follower.told.receive() == {"a": ConfigurationItem(value, value)}
            nursery.cancel_scope.cancel()


async def test_features_are_as_declared(opened: Opened) -> None:
    assert opened.store.features == frozenset()
