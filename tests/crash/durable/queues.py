"""Routes of the outbox: events that leave when they are sent, and calls of which it is kept what became of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.model.ports import Backoff, Entry, FateLimits, RouteSettings
from edge_runtime.store.fates import read_fates
from edge_runtime.store.outbox_tables import PLACE_BITS, PLACE_MAX, head_of, open_entry
from tests.crash.durable.ledger import Book, Lost
from tests.crash.durable.things import Node, Turns

WRITERS = 2
RETRY = Backoff(first_s=0.001, most_s=0.004)
_COLUMNS = "e.id, size, at, attempts, key, hlc, epoch, priority, record"


class Rejected(DriverError):
    """For good: it becomes a dead letter."""

    permanent = True


class Queue:
    """Some entries are refused for now, some for good, and now and then the other end is away."""

    modules: Sequence[str] = ("store/outbox_tables.py", "store/outbox_ledger.py")
    tables: Sequence[str] = ("outbox_route", "outbox_entry", "outbox_dead", "outbox_drop")
    files = ()
    settings = RouteSettings("cloud", retry=RETRY, in_flight_max=4)

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        chance = random.Random(turns.first)

        async def send(entry: Entry) -> dict[str, Any] | None:
            await trio.lowlevel.checkpoint()
            fate = chance.random()
            if fate < 0.05:
                raise Unreachable("the cable is out")
            if fate < 0.2:
                raise DriverError("not now")
            if fate < 0.25:
                raise Rejected("never")
            return self.sent(book, entry)

        async with node.outbox.open_route(self.settings, send) as route:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._up, route, node, nursery.cancel_scope)
                async with trio.open_nursery() as writers:
                    for writer in range(WRITERS):
                        writers.start_soon(self._append, route, book, turns, f"k{writer}")
                nursery.cancel_scope.cancel()

    def sent(self, book: Book, entry: Entry) -> dict[str, Any] | None:
        """The other end has it: here it may be gone from now on."""
        assert isinstance(entry.payload, bytes)
        book.note(entry.key, "gone", int(entry.payload))
        return None

    async def _up(self, route: Any, node: Node, _: trio.CancelScope) -> None:
        while True:
            route.up()
            await trio.sleep(0.002)
            try:
                await node.outbox.retry(self.settings.name)
            except DriverError:
                pass  # the load itself says what was refused

    async def _append(self, route: Any, book: Book, turns: Turns, key: str) -> None:
        for number in turns:
            await book.attempt(key, number, partial(route.append, key, b"%d" % number))

    async def check(self, node: Node, book: Book) -> None:
        database = await node.databases.get(node.node_file)
        found: dict[str, list[int]] = defaultdict(list)
        for table in ("outbox_entry", "outbox_dead"):
            rows = database.read(
                f"SELECT {_COLUMNS} FROM {table} e JOIN outbox_route r ON r.id = e.id >> 40 WHERE r.name = ?",
                (self.settings.name,),
            )
            for row in rows:
                payload = open_entry(head_of(row), row[8]).payload
                assert isinstance(payload, bytes)
                found[bytes(row[4]).decode()].append(int(payload))
        for key in {*book.ledger.keys(book.thing), *found}:
            self.check_key(database, book, key, sorted(found[key]))

    def check_key(self, database: Any, book: Book, key: str, found: list[int]) -> None:
        book.check_entries(key, found)


class Calls(Queue):
    """As events, but each that was accepted can be asked for: it waits, is dead, or has a fate."""

    modules = ("store/fates.py",)
    tables = ("outbox_fate",)
    settings = RouteSettings("calls", retry=RETRY, in_flight_max=4, fates=FateLimits(2**26, 86400.0))

    def sent(self, book: Book, entry: Entry) -> dict[str, Any] | None:
        assert isinstance(entry.payload, bytes)
        return {"number": int(entry.payload)}

    def check_key(self, database: Any, book: Book, key: str, found: list[int]) -> None:
        routes = database.read("SELECT id FROM outbox_route WHERE name = 'calls'")
        base = routes[0][0] << PLACE_BITS if routes else 0
        ended = []
        for fate in read_fates(database.read, base, base + PLACE_MAX, 0, 1_000_000):
            if fate.said is None:
                raise Lost(f"calls: fate {fate.id} says nothing")
            if fate.key == key:
                ended.append(int(fate.said["number"]))
        super().check_key(database, book, key, sorted(found + ended))
