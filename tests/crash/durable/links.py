"""The small files of links, and who the node is."""

from __future__ import annotations

import os
import sqlite3
import time
from functools import partial

import trio

from edge_runtime.store.identity import read_identity
from edge_runtime.sync.link_files import FOLDER, DayFile, PauseMark
from tests.crash.durable.ledger import Book, Lost
from tests.crash.durable.things import Node, Turns


class Pauses:
    """A link that is paused with every odd number."""

    modules = ()
    tables = ()
    files = (r"links/.*\.paused",)

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        mark = PauseMark(node.folder, "cloud")
        for number in turns:
            await book.attempt("cloud", number, partial(mark.set, number % 2 == 1))
            await trio.sleep(0.001)

    async def check(self, node: Node, book: Book) -> None:
        paused = PauseMark(node.folder, "cloud").is_set()
        possible = book.ledger.of("pauses", "cloud").possible
        matching = [number for number in possible if (number % 2 == 1) == paused]
        if not matching:
            raise Lost(f"pauses: the link is {'paused' if paused else 'not paused'}, after {sorted(possible)}")
        book.check_register("cloud", max(matching))


class Days:
    """What a link has spent of its day: no less than was written down last, so that no day is spent twice."""

    modules = ()
    tables = ()
    files = (r"links/.*\.json(\.new)?",)

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        day = DayFile(os.path.join(node.folder, FOLDER, "cloud.json"), time.time)
        for number in turns:
            book.note("cloud", "try", number)
            await trio.to_thread.run_sync(day.save, number, 100.0)
            if day.load()[0] == number:  # a disk that fails is a warning only
                book.note("cloud", "saved", number)
            await trio.sleep(0.002)

    async def check(self, node: Node, book: Book) -> None:
        spent, _ = DayFile(os.path.join(node.folder, FOLDER, "cloud.json"), time.time).load()
        account = book.ledger.of("days", "cloud")
        least = max(account.said["saved"], default=0)
        if spent < least or spent not in account.open | {0}:
            raise Lost(f"days: {spent} are spent, after {least} were written")


class Identity:
    """The node's name is for good, once anything has gone out under it."""

    modules = ("store/identity.py",)
    tables = ("node_identity",)
    files = (r"node\.db-run",)

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        database = await node.databases.get(node.node_file)
        identity = read_identity(database, 0)
        book.note("node", "name", int(identity.node, 16))

    async def check(self, node: Node, book: Book) -> None:
        database = await node.databases.get(node.node_file)
        names = book.ledger.of("identity", "node").said["name"]
        if names - {int(read_identity(database, 0).node, 16)}:
            raise Lost("identity: the node has another name than before")


def tables_of(path: str) -> list[str]:
    """What a database file has."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return [name for (name,) in found]
