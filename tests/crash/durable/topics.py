"""The durable log: publishes, and a group that refuses some deliveries, with its place in the log."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

from edge_runtime.components.registry import ComponentContext, resolve
from edge_runtime.model.ports import Message, Outcome
from edge_runtime.store.database import Database
from edge_runtime.store.log_plan import decode_in_hand
from edge_runtime.store.log_tables import PLACE_BITS, group_checksum
from edge_runtime.store.log_view import peek
from tests.crash.durable.ledger import Book, Lost
from tests.crash.durable.things import Node, Turns

WRITERS = 2
FAST = {"ackFlushInterval": "2ms", "redeliverInterval": "2ms", "concurrency": "4"}


def open_broker(node: Node) -> AbstractAsyncContextManager[Any]:
    context = ComponentContext("pubsub", "pubsub.sqlite", "v1", FAST, "app", "", node.databases, node.folder)
    opened: AbstractAsyncContextManager[Any] = resolve("pubsub.sqlite")(context)
    return opened


class Topics:
    """Several publishers and one group."""

    modules = ("store/log_tables.py",)
    tables = ("log_.*",)
    files = ()

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        async with open_broker(node) as broker:
            await self._load(broker, book, turns)

    async def _load(self, broker: Any, book: Book, turns: Turns) -> None:
        async def handle(message: Message) -> Outcome:
            await trio.lowlevel.checkpoint()
            if int(message.metadata["n"]) % 7 == 0 and message.attempt == 1:
                return Outcome.NACK
            book.note(message.data.decode(), "done", int(message.metadata["n"]))
            return Outcome.ACK

        async def publish(key: str) -> None:
            for number in turns:
                metadata = {"n": str(number), "partitionKey": key}
                await book.attempt(key, number, partial(broker.publish, "orders", key.encode(), metadata))

        async with trio.open_nursery() as nursery:
            await nursery.start(broker.subscribe, "orders", "app", {}, handle)
            async with trio.open_nursery() as writers:
                for writer in range(WRITERS):
                    writers.start_soon(publish, f"w{writer}")
            nursery.cancel_scope.cancel()

    async def check(self, node: Node, book: Book) -> None:
        async with open_broker(node):
            await self._check(await node.databases.get(node.node_file), book)

    async def _check(self, database: Database, book: Book) -> None:
        records = peek(database, "pubsub", "orders", limit=1_000_000)
        if any(record.damaged for record in records):
            raise Lost("topics: a damaged record")
        for key in book.ledger.keys("topics"):
            found = [int(record.metadata["n"]) for record in records if record.data.decode() == key]
            book.check_entries(key, found)
        done = self._done(database)
        for record in records:
            account = book.ledger.of("topics", record.data.decode())
            if record.offset in done and int(record.metadata["n"]) not in account.said["done"]:
                raise Lost(f"topics: the group has done {record.offset} without its having been acknowledged")

    def _done(self, database: Database) -> set[int]:
        done: set[int] = set()
        for next_place, in_hand, crc in database.read("SELECT next, in_hand, crc FROM log_group"):
            if group_checksum(next_place, in_hand) != crc:
                raise Lost("topics: the group's place is damaged")
            busy = {place for place, _ in decode_in_hand(in_hand, next_place)}
            done |= set(range(1, next_place & ((1 << PLACE_BITS) - 1))) - busy
        return done
