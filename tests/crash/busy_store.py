"""Runs in a child process: writes state without end, and says each write that was answered on a line of its own."""

from __future__ import annotations

import os
import sys

import trio

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.sqlite import open_sqlite_state
from edge_runtime.model.ports import DeleteRequest, SetRequest
from edge_runtime.store.database import open_databases

WRITERS = 4


async def main(folder: str, name: str) -> None:
    async with open_databases() as databases:
        metadata = {"connectionString": "state.db", "busyTimeout": "30s"}
        context = ComponentContext(name, "state.sqlite", "v1", metadata, name, "", databases, folder, folder)
        async with open_sqlite_state(context) as store:

            async def write(writer: int) -> None:
                key = f"{name}{writer}"
                for number in range(1_000_000):
                    pair = [SetRequest(key, b"%d" % number), SetRequest(f"{key}twin", b"%d" % number)]
                    await store.transact([*pair, DeleteRequest(f"{key}none")])
                    os.write(1, b"%s %d\n" % (key.encode(), number))

            async with trio.open_nursery() as nursery:
                for writer in range(WRITERS):
                    nursery.start_soon(write, writer)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
