"""Configuration items that are written here, and those that a link has brought."""

from __future__ import annotations

from functools import partial

from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.store.configuration import ConfigurationTable
from edge_runtime.store.configuration_mirror import ConfigurationMirror
from tests.crash.durable.ledger import NOTHING, Book, Lost
from tests.crash.durable.things import Node, Turns


async def open_table(node: Node) -> ConfigurationTable:
    table = ConfigurationTable(await node.databases.get(node.state_file))
    await table.prepare()
    return table


class Configuration:
    """One item that changes."""

    modules = ("store/configuration.py",)
    tables = ("configuration",)
    files = ()

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        table = await open_table(node)
        for number in turns:
            item = ConfigurationItem(str(number), metadata={"n": str(number)})
            await book.attempt("limit", number, partial(table.put, "limit", item))

    async def check(self, node: Node, book: Book) -> None:
        items = await (await open_table(node)).read(["limit"])
        found = int(items["limit"].item.value) if items else NOTHING
        if items and items["limit"].item.metadata != {"n": str(found)}:
            raise Lost(f"configuration: half an item, {items['limit']}")
        book.check_register("limit", found)


class Mirror:
    """Two items that change together; every third turn one of them is gone at the remote."""

    modules = ("store/configuration_mirror.py",)
    tables = ("configuration_mirror",)
    files = ()

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        mirror = ConfigurationMirror(await open_table(node), "cloud")
        await mirror.prepare()
        for number in turns:
            item = ConfigurationItem(str(number), "1")
            items = {"far1": item} if number % 3 == 0 else {"far1": item, "far2": item}
            await book.attempt("far", number, partial(mirror.take, items, None))

    async def check(self, node: Node, book: Book) -> None:
        items = await (await open_table(node)).read(["far1", "far2"])
        found = int(items["far1"].item.value) if "far1" in items else NOTHING
        second = int(items["far2"].item.value) if "far2" in items else NOTHING
        if second != (NOTHING if found % 3 == 0 else found):
            raise Lost(f"mirror: half a turn, {found} and {second}")
        book.check_register("far", found)
