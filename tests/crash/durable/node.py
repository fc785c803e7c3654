"""A node's durable things in one process: put under load, or looked at and held against a ledger."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import StoreLimits, open_databases
from edge_runtime.store.writer import Retry
from edge_runtime.sync.forward import OutboxLimits, open_outbox
from tests.crash.durable.ledger import Ledger, Lost, Say
from tests.crash.durable.things import Node, Turns, books, things

STORE = StoreLimits(idle_s=0.005, retry=Retry(first_s=0.0, most_s=0.01))
OUTBOX = OutboxLimits(flush_after_s=0.002, flush_max=8, rest_s=0.001, retry_s=0.001)
DATABASES = ("node.db", "state.db")


@asynccontextmanager
async def open_node(folder: str, pragmas: str = "") -> AsyncIterator[Node]:
    async with (
        open_databases(STORE) as databases,
        open_outbox(databases, folder, Metrics(), OUTBOX) as outbox,
    ):
        yield Node(folder, databases, outbox, pragmas)


async def load(
    folder: str,
    ledger: Ledger,
    say: Say,
    turns: Turns,
    *,
    pragmas: str = "",
    names: Iterable[str] | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Everything at once, until the turns are over or the process is no more."""
    loaded, told = things(), books(ledger, say)
    async with open_node(folder, pragmas) as node:
        meanwhile()
        async with trio.open_nursery() as nursery:
            for name in loaded if names is None else names:
                nursery.start_soon(loaded[name].load, node, told[name], turns)


async def check(folder: str, ledger: Ledger, say: Say | None = None) -> None:
    """Open, verify every page, and hold everything against the ledger. Raises `Lost`."""
    async with open_node(folder) as node:
        for name, thing in things().items():
            await thing.check(node, books(ledger, say)[name])
    for name in DATABASES:
        verify(os.path.join(folder, name))


def verify(path: str) -> None:
    if not os.path.exists(path):
        return
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()
    if found != [("ok",)]:
        raise Lost(f"{path}: {found[0][0]}")
