"""State that follows a remote store: the change journal, the bases, and the inbox of conflicts.

The remote is elsewhere: what it has is told by the ledger, and no crash of the node takes it back.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import trio

from edge_runtime.model.errors import EtagMismatch
from edge_runtime.model.hlc import Clock
from edge_runtime.model.ports import Backoff, SetRequest
from edge_runtime.model.sync import Keys
from edge_runtime.store.conflicts import InboxLimits
from edge_runtime.store.journal import Journal, open_journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.state import Stamps, StateSync, SyncLimits
from edge_runtime.sync.state_plan import StateRoute
from tests.crash.durable.ledger import NOTHING, Book, Lost
from tests.crash.durable.things import Node, Turns

WRITERS = 2
TABLE = "routed"
KEYS = Keys("app||k/")
ROUTE = StateRoute("r", KEYS, "cloud", "k/", "both", "local-wins", poll_s=0.2)
LIMITS = SyncLimits(batch_keys_max=3, retry=Backoff(0.005, 0.02))
_VERSION = 10**10  # a line's number is version * this + 2 * content + whether somebody else wrote it


class Version(NamedTuple):
    """What the remote has of a key. `foreign`: another one than this node wrote it."""

    version: int
    content: int
    foreign: bool

    @property
    def value(self) -> bytes:
        return json.dumps({"far" if self.foreign else "n": self.content}).encode()


class Remote:
    """Somebody else writes there too, so that some saves meet another version than they name."""

    def __init__(self, book: Book, chance: random.Random) -> None:
        self._book = book
        self._chance = chance

    def has(self, key: str) -> Version | None:
        said = self._book.ledger.of(self._book.thing, f"far/{key}").said["has"]
        if not said:
            return None
        version, rest = divmod(max(said), _VERSION)
        return Version(version, rest // 2, bool(rest % 2))

    def _write(self, key: str, version: Version) -> None:
        self._book.note(f"far/{key}", "has", version.version * _VERSION + version.content * 2 + version.foreign)

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, tuple[bytes, str] | None]:
        await trio.lowlevel.checkpoint()
        found = {key: self.has(key) for key in keys}
        return {key: one and (one.value, str(one.version)) for key, one in found.items()}

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        await trio.lowlevel.checkpoint()
        there = self.has(key)
        if there is not None and not there.foreign and self._chance.random() < 0.1:
            there = Version(there.version + 1, there.version + 1, True)
            self._write(key, there)
        if etag != (None if there is None else str(there.version)):
            raise EtagMismatch(f"{key}: there is another version")
        if there is not None and there.foreign:
            self._book.note(f"far/{key}", "over", there.content)
        self._write(key, Version(1 if there is None else there.version + 1, json.loads(value)["n"], False))

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        raise AssertionError("no key is removed")


async def open_routed(node: Node) -> tuple[StateTable, Journal, Stamps]:
    database = await node.databases.get(node.state_file)
    table = StateTable(database, TABLE, f"{TABLE}_metadata")
    await table.prepare(cleaned=False)
    stamps = Stamps(Clock("n"), lambda: int(time.time() * 1000))
    journal = await open_journal(database, table, stamps, time.time, InboxLimits(100_000, 2**26))
    journal.add_route("r", KEYS)
    return table, journal, stamps


class Routed:
    """One writer a key."""

    modules = ("store/journal.py", "store/conflicts.py")
    tables = (f"{TABLE}(_metadata)?", f"edge_(journal|base|conflict)_{TABLE}(_dropped)?")
    files = ()

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        table, journal, stamps = await open_routed(node)
        remote = Remote(book, random.Random(turns.first))
        sync = StateSync(ROUTE, journal, remote, stamps, limits=LIMITS)
        async with trio.open_nursery() as nursery:
            await nursery.start(sync.run)
            async with trio.open_nursery() as writers:
                for writer in range(WRITERS):
                    writers.start_soon(self._write, table, book, turns, str(writer))
            nursery.cancel_scope.cancel()

    async def _write(self, table: StateTable, book: Book, turns: Turns, key: str) -> None:
        for number in turns:
            request = SetRequest(f"{KEYS.prefix}{key}", json.dumps({"n": number}).encode())
            await book.attempt(key, number, partial(table.set, request))

    async def check(self, node: Node, book: Book) -> None:
        _, journal, _ = await open_routed(node)
        remote = Remote(book, random.Random(0))
        entries = await journal.inbox.entries(limit=1_000_000)
        if any(entry.damaged for entry in entries):
            raise Lost("routed: a conflict is damaged")
        losers = {(entry.key.removeprefix(KEYS.prefix), entry.dispute.remote) for entry in entries}
        for key in map(str, range(WRITERS)):
            known = (await journal.look(ROUTE.base_name, [f"{KEYS.prefix}{key}"]))[0]
            value = None if known.local is None else known.local.value
            book.check_register(key, NOTHING if value is None else json.loads(value)["n"])
            there = remote.has(f"k/{key}")
            if known.change is None and value != (there and there.value):
                raise Lost(f"routed {key}: {value!r} here, {there} there, and no change waits")
            for content in book.ledger.of(book.thing, f"far/k/{key}").said["over"]:
                if (key, Version(0, content, True).value) not in losers:
                    raise Lost(f"routed {key}: version {content} of the remote lost, and is in no inbox")
