"""An outbox for tests: on a real file, with a clock that can be moved and an other end that does as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from edge_runtime.model.ports import Entry, RouteSettings
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import Databases, open_databases
from edge_runtime.store.log_clock import up_ms
from edge_runtime.sync.forward import Outbox, OutboxLimits, open_outbox

LIMITS = OutboxLimits(flush_after_s=0.0, rest_s=0.01, retry_s=0.01)


class MovedClock:
    """The time that the machine is up, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return up_ms() + self.ahead_ms


class OtherEnd:
    """Takes entries; for those whose payload is in `failures` it fails so, as often as it is said."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.failures: dict[Any, list[Exception]] = {}
        self.tried: list[Any] = []
        self.gate: trio.Event | None = None  # while it is not set, sending takes its time
        self.busy = 0
        self._changed = trio.Event()

    async def __call__(self, entry: Entry) -> None:
        self.tried.append(entry.payload)
        self.busy += 1
        self._changed.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            failures = self.failures.get(entry.payload) if isinstance(entry.payload, bytes) else None
            if failures:
                raise failures.pop(0)
            self.entries.append(entry)
        finally:
            self.busy -= 1
            self._changed.set()

    @property
    def payloads(self) -> list[Any]:
        return [entry.payload for entry in self.entries]

    async def wait_for(self, count: int) -> None:
        """Until so many were delivered."""
        while len(self.entries) < count:
            await self._change()

    async def wait_tried(self, count: int) -> None:
        """Until so many sends have begun."""
        while len(self.tried) < count:
            await self._change()

    async def _change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()


class OutboxWorld:
    """What a test holds."""

    def __init__(self, outbox: Outbox, databases: Databases, metrics: Metrics, clock: MovedClock, folder: Path) -> None:
        self.outbox = outbox
        self.databases = databases
        self.metrics = metrics
        self.clock = clock
        self.path = str(folder / "node.db")

    @asynccontextmanager
    async def route(self, end: OtherEnd, name: str = "cloud", **settings: Any) -> AsyncIterator[Any]:
        async with self.outbox.open_route(RouteSettings(name, **settings), end) as route:
            yield route

    async def sql(self, statement: str, *args: Any) -> list[tuple[Any, ...]]:
        """Past the outbox, as damage would come."""
        database = await self.databases.get(self.path)
        return await database.write(lambda connection: connection.execute(statement, args).fetchall())


@asynccontextmanager
async def open_world(folder: Path, limits: OutboxLimits = LIMITS) -> AsyncIterator[OutboxWorld]:
    """One life of a process; open it again for the next."""
    clock, metrics = MovedClock(), Metrics()
    async with open_databases() as databases:
        async with open_outbox(databases, str(folder), metrics, limits, clock_ms=clock) as outbox:
            yield OutboxWorld(outbox, databases, metrics, clock, folder)
