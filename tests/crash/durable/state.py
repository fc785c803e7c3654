"""State of a component: saves, removals, transactions, etags and times to live."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.sqlite import SqliteState, open_sqlite_state
from edge_runtime.model.ports import DeleteRequest, SetRequest
from tests.crash.durable.ledger import NOTHING, Book, Lost
from tests.crash.durable.things import Node, Turns

REMOVED_EVERY = 7  # every seventh number is a removal
TTL_S = 100 * 365 * 86400  # also seen from a clock that is ten years ahead of one in 1970
PAD = b"x" * 3000


def open_store(node: Node) -> AbstractAsyncContextManager[SqliteState]:
    metadata = {"connectionString": f"{node.state_file}{node.pragmas}", "busyTimeout": "30s"}
    context = ComponentContext("state", "state.sqlite", "v1", metadata, "app", "", node.databases, node.folder)
    return open_sqlite_state(context)


def value_of(number: int, key: str = "") -> bytes:
    """With content over several pages for some keys, so that a torn page shows."""
    return b'{"n":%d,"pad":"%s"}' % (number, PAD[: 3000 if key.startswith("big") else number % 40])


def number_of(value: bytes, key: str = "") -> int:
    number = int(value[5 : value.index(b",")])
    if value != value_of(number, key):
        raise Lost(f"state {key} holds half a value: {value[:40]!r}")
    return number


def removes(number: int) -> bool:
    return number % REMOVED_EVERY == 0


class State:
    """One writer a key."""

    modules = ("store/state.py",)
    tables = ("state", "metadata")
    files = ()

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        async with open_store(node) as store, trio.open_nursery() as nursery:
            for key in ("one", "two", "big"):
                nursery.start_soon(self._single, store, book, turns, key)
            nursery.start_soon(self._pair, store, book, turns)
            nursery.start_soon(self._etag, store, book, turns)
            nursery.start_soon(self._ttl, store, book, turns)

    async def _single(self, store: SqliteState, book: Book, turns: Turns, key: str) -> None:
        for number in turns:
            if removes(number):
                await book.attempt(key, number, partial(store.delete, DeleteRequest(key)))
            else:
                await book.attempt(key, number, partial(store.set, SetRequest(key, value_of(number, key))))

    async def _pair(self, store: SqliteState, book: Book, turns: Turns) -> None:
        for number in turns:
            pair = [SetRequest(key, value_of(number)) for key in ("left", "right")]
            await book.attempt("pair", number, partial(store.transact, [*pair, DeleteRequest("none")]))

    async def _etag(self, store: SqliteState, book: Book, turns: Turns) -> None:
        """Each write names the version before."""
        for number in turns:
            item = await store.get("etag")
            request = SetRequest("etag", value_of(number), item and item.etag, first_write=True)
            await book.attempt("etag", number, partial(store.set, request))

    async def _ttl(self, store: SqliteState, book: Book, turns: Turns) -> None:
        for number in turns:
            request = SetRequest("ttl", value_of(number), ttl_s=TTL_S)
            await book.attempt("ttl", number, partial(store.set, request))

    async def check(self, node: Node, book: Book) -> None:
        async with open_store(node) as store:
            await self._check(store, book)

    async def _check(self, store: SqliteState, book: Book) -> None:
        left, right = [await self._number(store, key) for key in ("left", "right")]
        if left != right:
            raise Lost(f"state: half a transaction, {left} and {right}")
        book.check_register("pair", left)
        for key in ("one", "two", "big"):
            found = await self._number(store, key)
            allowed = book.ledger.of("state", key).possible
            removed = [number for number in allowed if removes(number) or number == NOTHING]
            book.check_register(key, removed[0] if found == NOTHING and removed else found)
        for key in ("etag", "ttl"):
            book.check_register(key, await self._number(store, key))
        item = await store.get("ttl")
        if item is not None and item.expires_at is None:
            raise Lost("state ttl has lost when it expires")

    async def _number(self, store: SqliteState, key: str) -> int:
        item = await store.get(key)
        return NOTHING if item is None else number_of(item.value, key)
