"""The node as a service: what the service manager hears of it, and the look at itself that feeds the watchdog.

    starting ──► READY=1 ──► STATUS on change, WATCHDOG=1 after each check ──► STOPPING=1
                    ▲   └─ SIGHUP ──► RELOADING=1 ─┘ once every app has gone over to its files, or kept the old

Fed is only what works: the event loop came in time, and the writer thread of every file has answered. A full or
read-only disk starves nothing: the node still serves reads, and a restart would not mend it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.net.systemd import Manager

if TYPE_CHECKING:
    from edge_runtime.runtime.node import Node

log: Final = logging.getLogger("dapr.runtime.service")

NODE_DATABASE: Final = "node.db"
# How often the status is looked at where no watchdog says so.
LOOK_S: Final = 20.0
# A start may go on for so long when it can show that the loop runs: a migration of a big file on an SD card.
START_MAX_S: Final = 1800.0
EXTEND_EVERY_S: Final = 10.0
EXTEND_BY_S: Final = 60.0
# What a stop may take over the graceful seconds of the apps; and the longest that is asked for at all.
STOP_MARGIN_S: Final = 20.0
STOP_MAX_S: Final = 3600.0
# A store whose fault a restart may mend (an I/O error, no memory) is left to its own retries for so long.
UNWELL_MAX_S: Final = 900.0


class Service:
    """One node and its manager."""

    def __init__(self, node: Node, manager: Manager, nursery: trio.Nursery) -> None:
        self._node = node
        self._manager = manager
        self._nursery = nursery
        self._starting = trio.CancelScope()
        self._said = ""
        self._unwell_at: float | None = None
        self._reloading = False
        self._beat_s = LOOK_S if manager.watchdog_s is None else manager.watchdog_s / 3

    async def open_store(self) -> None:
        """The node's own file, so that READY says that it can be used. Raises ConfigError."""
        try:
            await self._node.databases.get(os.path.join(self._node.state_dir, NODE_DATABASE))
        except DriverError as error:
            raise ConfigError(str(error)) from None

    async def extend_start(self) -> None:
        """While the start goes on, ask for more time: the loop runs, so something is being done."""
        with self._starting, trio.move_on_after(START_MAX_S):
            while True:
                await trio.sleep(EXTEND_EVERY_S)
                self._manager.tell(f"EXTEND_TIMEOUT_USEC={EXTEND_BY_S * 1e6:.0f}", "STATUS=starting")

    def ready(self) -> None:
        """Every listener is bound. From here on status and watchdog are kept."""
        self._starting.cancel()
        self._said = self.status()
        self._manager.tell("READY=1", f"STATUS={self._said}")
        self._node.on_reload = self._reload
        self._nursery.start_soon(self._follow)
        self._nursery.start_soon(self._watch)

    # --- status -------------------------------------------------------------------------------------------------------

    def status(self) -> str:
        """One line for `systemctl status`."""
        node = self._node
        count = len(node.apps)
        parts = [f"{count} app{'' if count == 1 else 's'}"]
        for name, state in node.links.standings() if node.links is not None else ():
            parts.append(f"link {name} {state.name}" + (f" ({state.reason})" if state.reason else ""))
        waiting = [route for route in node.outbox.states() if route.entries]
        if waiting:
            parts.append(f"{sum(route.entries for route in waiting)} entries wait to be sent")
        parts += node.databases.unhealthy
        return "; ".join(parts)

    def _tell_status(self) -> None:
        status = self.status()
        if status != self._said and not self._node.stopping:
            self._said = status
            self._manager.tell(f"STATUS={status}")

    async def _follow(self) -> None:
        """Apps and links come and go; at the end, say so."""
        while not self._node.stopping:
            self._tell_status()
            await self._node.changed()
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={self._stop_s() * 1e6:.0f}", "STATUS=stopping")

    def _stop_s(self) -> float:
        longest_s = 0.0
        for app in self._node.apps.values():
            flags = app.settings.flags
            graceful_s = STOP_MAX_S if flags.graceful_shutdown_s is None else flags.graceful_shutdown_s
            longest_s = max(longest_s, graceful_s + max(flags.dapr_block_shutdown_duration or 0.0, 0.0))
        return min(longest_s + STOP_MARGIN_S, STOP_MAX_S)

    # --- reload -------------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        if not self._reloading:
            self._reloading = True
            self._nursery.start_soon(self._see_reload_through)

    async def _see_reload_through(self) -> None:
        self._manager.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        while busy := [app for app in self._node.apps.values() if not app.settled.is_set()]:
            await busy[0].until_settled()
        self._reloading = False
        self._manager.tell("READY=1")

    # --- watchdog -----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        pause_s = self._beat_s
        while True:
            due = trio.current_time() + pause_s
            await trio.sleep_until(due)
            self._tell_status()
            problem = await self.problem(due)
            if not problem and self._manager.watchdog_s is not None:
                self._manager.tell("WATCHDOG=1")
            elif problem:
                log.error("The watchdog is not fed: %s", problem)
            pause_s = self._beat_s / 10 if problem else self._beat_s

    async def problem(self, due: float) -> str:
        """Why the node cannot be called well; empty when it can. `due` is when the loop should have come here.

        Writes nothing: a writer answers by running an empty job, after what was given to it before.
        """
        late_s = trio.current_time() - due
        if late_s > self._beat_s:
            return f"the event loop came {late_s:.1f} s late"
        for database in self._node.databases.opened:
            with trio.move_on_after(self._beat_s) as limit:
                await database.answer()
            if limit.cancelled_caught:
                return f"store file {database.path}: its writer has not answered for {self._beat_s:.0f} s"
        return self._long_unwell()

    def _long_unwell(self) -> str:
        reasons = [database.reason for database in self._node.databases.opened if database.restart_may_mend]
        if not reasons:
            self._unwell_at = None
            return ""
        now = trio.current_time()
        if self._unwell_at is None:
            self._unwell_at = now
        unwell_s = now - self._unwell_at
        return f"for {unwell_s:.0f} s: {reasons[0]}" if unwell_s > UNWELL_MAX_S else ""


@asynccontextmanager
async def open_service(node: Node, manager: Manager) -> AsyncIterator[Service]:
    """The node as a service, from its start on until the block is left. Raises ConfigError without a usable store."""
    async with trio.open_nursery() as nursery:
        service = Service(node, manager, nursery)
        nursery.start_soon(service.extend_start)
        await service.open_store()
        yield service
        nursery.cancel_scope.cancel()
