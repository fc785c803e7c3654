"""Takes in what cannot be sent now, and sends it when it can: one task a route, which sleeps until something is due.

    append ──► disk ──► window (plan) ──► up to in_flight_max senders ──► sent: removed from disk, many at a time

What is sent and not yet removed is sent again after a crash, under the same id. Nothing but a window of what lies on
disk is in memory, and of the window only as many payloads as `payload_bytes_max` allows.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.model.ports import Entry, LocalCalls, RouteSettings, Send
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.connection import location
from edge_runtime.store.database import Databases
from edge_runtime.store.log_clock import boot_id, up_ms
from edge_runtime.store.outbox import open_outbox_store
from edge_runtime.sync.look import Look
from edge_runtime.sync.plan import Turns
from edge_runtime.sync.route import OpenRoute, RouteEnd
from edge_runtime.sync.shared import Numbers, OutboxLimits, Pace, RouteState, Shared

__all__ = ["Outbox", "OutboxLimits", "RouteEnd", "RouteState", "open_outbox"]

NODE_DATABASE: Final = "node.db"
_NEVER_S: Final = 1e9


class Outbox(Look):
    """The routes of one file: `model.ports.Outbox`, and what the operator's commands ask."""

    _routes: dict[str, OpenRoute]

    def __init__(self, shared: Shared, routes: dict[str, OpenRoute], nursery: trio.Nursery) -> None:
        super().__init__(shared.store, routes)
        self._shared = shared
        self._nursery = nursery
        self._opening = trio.Lock()

    @asynccontextmanager
    async def open_route(self, settings: RouteSettings, send: Send) -> AsyncIterator[RouteEnd]:
        """The route, sending through `send` until the block is left. What waits then stays on disk."""
        async with self._opening:
            route = await self._opened(settings.name) or await self._open(settings)
            if send is not _nobody or not route.ends:
                await route.store.keep_fates(settings.fates)
                route.configure(settings)
            end = RouteEnd(route, send)
            route.ends.append(end)
        try:
            yield end
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._shared.limits.close_timeout_s):
                await self._leave(route, end)

    async def _opened(self, name: str) -> OpenRoute | None:
        """The route if it is open. One that a slow disk still keeps from closing is waited for."""
        route = self._routes.get(name)
        if route is None or not route.scope.cancel_called:
            return route
        await route.closed.wait()
        del self._routes[name]
        return None

    async def _open(self, settings: RouteSettings) -> OpenRoute:
        route = OpenRoute(await self._shared.store.open_route(settings.name), settings, self._shared)
        self._routes[settings.name] = route
        await self._nursery.start(route.run)
        return route

    async def _leave(self, route: OpenRoute, end: RouteEnd) -> None:
        async with self._opening:
            try:
                await end.leave()
            finally:
                route.ends.remove(end)
            if route.ends:
                return
            route.scope.cancel()
            await route.closed.wait()
            self._routes.pop(route.name, None)
            self._shared.numbers.hide(route.name)

    # --- for the operator

    async def retry(self, route: str, sequences: Sequence[int] | None = None) -> int:
        """Let dead letters be sent again; how many. None is all of them."""
        async with self._borrow(route) as opened:
            return await opened.retry(sequences)

    async def drop(self, route: str, sequences: Sequence[int] | None = None) -> int:
        """Drop entries and dead letters; how many. None is all of them."""
        async with self._borrow(route) as opened:
            return await opened.drop(sequences)

    @asynccontextmanager
    async def _borrow(self, name: str) -> AsyncIterator[OpenRoute]:
        """A route that may be open or not; nothing is sent because of it, and nothing too old for it."""
        opened = self._routes.get(name)
        if opened is not None:
            yield opened
            return
        if self._shared.store.look(name) is None:
            known = ", ".join(self._shared.store.names()) or "none"
            raise DriverError(f"the outbox has no route {name!r}; there is {known}")
        async with self.open_route(RouteSettings(name, age_max_s=_NEVER_S), _nobody):
            yield self._routes[name]


async def _nobody(_: Entry) -> None:
    raise Unreachable("nobody sends on this route")


@asynccontextmanager
async def open_outbox(
    databases: Databases,
    state_dir: str,
    metrics: Metrics,
    limits: OutboxLimits = OutboxLimits(),  # noqa: B008
    *,
    clock_ms: Callable[[], int] = up_ms,
    wall: Callable[[], float] = time.time,
    boot: Callable[[], str] = boot_id,
    is_right: Callable[[], bool] | None = None,
    chance: Callable[[], float] = random.random,
    calls: LocalCalls = LocalCalls(),  # noqa: B008 - nobody calls
) -> AsyncIterator[Outbox]:
    """The node's outbox. `clock_ms` is how long the machine is up in this `boot`; `is_right` vouches for `wall`.

    Sends let `calls` go first.
    """
    async with databases.lease(location(os.path.join(state_dir, NODE_DATABASE))) as database:
        store = await open_outbox_store(database, clock_ms, is_right, wall=wall, boot=boot)
        routes: dict[str, OpenRoute] = {}
        shared = Shared(store, limits, Turns(limits.slots), Numbers(metrics), routes, chance, Pace(calls))
        metrics.before_render(shared.show)
        async with trio.open_nursery() as nursery:
            yield Outbox(shared, routes, nursery)
            nursery.cancel_scope.cancel()
