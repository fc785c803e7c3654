"""The node's outbox, opened with the first route that somebody asks for: a node without one loads nothing of it."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.model.ports import LocalCalls, Route, RouteSettings, Send
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.connection import location
from edge_runtime.store.database import Databases

if TYPE_CHECKING:
    from edge_runtime.sync.forward import Outbox, RouteState

log: Final = logging.getLogger("dapr.runtime.outbox")

_RETRY_S: Final = 10.0


class NodeOutbox:
    """`model.ports.Outbox` for every driver of the node."""

    def __init__(
        self, databases: Databases, state_dir: str, metrics: Metrics, calls: LocalCalls, nursery: trio.Nursery
    ) -> None:
        self._databases = databases
        self._calls = calls
        self._state_dir = state_dir
        self._metrics = metrics
        self._nursery = nursery
        self._opening = trio.Lock()
        self._opened: Outbox | None = None

    @asynccontextmanager
    async def open_route(self, settings: RouteSettings, send: Send) -> AsyncIterator[Route]:
        """The route, sending through `send` until the block is left."""
        outbox = await self.get()
        async with outbox.open_route(settings, send) as route:
            yield route

    async def get(self) -> Outbox:
        """The outbox itself, open until the node ends."""
        async with self._opening:
            if self._opened is None:
                self._opened = await self._nursery.start(self._serve)
            return self._opened

    @property
    def node(self) -> str:
        """Who this node is. Raises `StoreUnavailable` as long as the outbox cannot be opened."""
        if self._opened is None:
            raise StoreUnavailable("the outbox is not open, so this node does not know its own events")
        return self._opened.node

    async def keep_trying(self) -> None:
        """Open it, when that failed: until it succeeds."""
        while self._opened is None:
            await trio.sleep(_RETRY_S)
            try:
                await self.get()
            except DriverError as error:
                log.debug("the outbox cannot be opened: %s", error)

    def states(self) -> list[RouteState]:
        """The routes that are open."""
        return [] if self._opened is None else self._opened.states()

    async def look(self) -> Outbox | None:
        """The outbox when there is one, open or on disk: none is made for who only looks."""
        if self._opened is None and not await self._is_on_disk():
            return None
        return await self.get()

    async def _is_on_disk(self) -> bool:
        from edge_runtime.store.outbox import has_outbox
        from edge_runtime.sync.forward import NODE_DATABASE

        path = os.path.join(self._state_dir, NODE_DATABASE)
        if not os.path.exists(path):  # noqa: ASYNC240 - one look at a local file
            return False
        async with self._databases.lease(location(path)) as database:
            return has_outbox(database)

    async def _serve(self, *, task_status: trio.TaskStatus[Outbox]) -> None:
        from edge_runtime.sync.forward import open_outbox

        async with open_outbox(self._databases, self._state_dir, self._metrics, calls=self._calls) as outbox:
            task_status.started(outbox)
            await trio.sleep_forever()
