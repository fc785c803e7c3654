"""Runs in a child process: an app writes, a route sends to a remote in another file; every answered write is said.

The remote is a second SQLite file, so that it outlives the child: what it has taken it keeps.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

import trio

from edge_runtime.model.hlc import Clock
from edge_runtime.model.ports import Backoff, DeleteRequest, SetRequest
from edge_runtime.model.sync import Keys
from edge_runtime.store.connection import location
from edge_runtime.store.database import Database, open_database
from edge_runtime.store.journal import Journal, open_journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.state import Stamps, StateSync, SyncLimits
from edge_runtime.sync.state_plan import StateRoute

KEYS = Keys("app||k/")
WRITERS = 4


class FileRemote:
    """A remote store in a file, as a link shows it."""

    def __init__(self, table: StateTable) -> None:
        self.table = table

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, tuple[bytes, str] | None]:
        found = {}
        for key in keys:
            item = await self.table.get(key)
            found[key] = None if item is None else (item.value, item.etag)
        return found

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        await self.table.set(SetRequest(key, value, etag, first_write))

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        await self.table.delete(DeleteRequest(key, etag))


async def open_node(here: Database, there: Database) -> tuple[StateTable, FileRemote, Journal, StateSync]:
    table, remote = StateTable(here), StateTable(there)
    await table.prepare(cleaned=False)
    await remote.prepare(cleaned=False)
    stamps = Stamps(Clock("n"), lambda: int(time.time() * 1000))
    journal = await open_journal(here, table, stamps, time.time)
    journal.add_route("r", KEYS)
    route = StateRoute("r", KEYS, "cloud", "k/", "both", "merge", poll_s=0.2)
    limits = SyncLimits(batch_keys_max=3, retry=Backoff(0.01, 0.1))
    return table, FileRemote(remote), journal, StateSync(route, journal, FileRemote(remote), stamps, limits=limits)


async def write(table: StateTable, writer: int, first: int) -> None:
    """Numbers that only go up; every seventh time the key is removed."""
    key = f"{KEYS.prefix}{writer}"
    for number in range(first, 1_000_000):
        if number % 7:
            await table.set(SetRequest(key, b'{"n":%d}' % number))
        else:
            await table.delete(DeleteRequest(key))
        os.write(1, b"%d %d\n" % (writer, number))


async def main(folder: str, first: int) -> None:
    async with (
        open_database(location(f"{folder}/here.db")) as here,
        open_database(location(f"{folder}/there.db")) as there,
    ):
        table, _, _, sync = await open_node(here, there)
        async with trio.open_nursery() as nursery:
            await nursery.start(sync.run)
            for writer in range(WRITERS):
                nursery.start_soon(write, table, writer, first)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
