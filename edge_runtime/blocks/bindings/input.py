"""Input bindings while they run: a task each, from the driver to the app and back.

They begin when the app is well and end when it is not: handlers that run finish, the driver gets a moment to act on
what became of them, and then it is cancelled. An event that comes in between is neither taken nor refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import trio

from edge_runtime.blocks.bindings.app import BindingApp, Event
from edge_runtime.blocks.bindings.binding import BoundBinding
from edge_runtime.blocks.bindings.output import Policies
from edge_runtime.model.errors import DriverError, leaves
from edge_runtime.model.ports import InputBinding
from edge_runtime.net.lifetimes import hold_nursery
from edge_runtime.observability.metrics import Metrics

logger: Final = logging.getLogger("dapr.runtime.processor.binding")

SETTLE_S: Final = 0.4
DRAIN_LIMIT_S: Final = 30.0
BACK_OFF_FIRST_S: Final = 0.5
BACK_OFF_FACTOR: Final = 1.5
BACK_OFF_MAX_S: Final = 60.0


class InputBindings:
    """The input bindings of one app, until its files are read again."""

    def __init__(
        self,
        bindings: Iterable[BoundBinding],
        app: BindingApp | None,
        policies: Policies,
        metrics: Metrics,
        namespace: str = "",
    ) -> None:
        """Without an app (one that has no port) nothing is read."""
        self._tools = _Tools(policies, metrics, namespace)
        self._app = app
        self._bindings = [bound for bound in bindings if bound.input is not None] if app is not None else []
        self._running: list[_Reading] = []
        self._paused = False
        self._wake = trio.Event()

    def pause(self) -> None:
        """The app is unhealthy."""
        self._paused = True
        self._wake.set()

    def resume(self) -> None:
        """The app is healthy again, and is asked anew what it takes."""
        self._paused = False
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until cancelled; then let running handlers finish, within the drain limit."""
        task_status.started()
        if not self._bindings:
            return
        life = trio.CancelScope(shield=True)  # handlers outlast the cancellation of this task
        async with trio.open_nursery() as outer:
            with trio.CancelScope(shield=True):
                nursery = await outer.start(hold_nursery, life)
            try:
                while True:
                    self._wake = trio.Event()
                    if self._paused:
                        await self._stop()
                    elif not self._running:
                        self._start(nursery)
                    await self._wake.wait()
            finally:
                with trio.CancelScope(shield=True):  # bounded by the drain limit within
                    await self._stop()
                life.cancel()

    def _start(self, nursery: trio.Nursery) -> None:
        assert self._app is not None
        for bound in self._bindings:
            reading = _Reading(bound, self._app, self._tools)
            self._running.append(reading)
            nursery.start_soon(reading.run)

    async def _stop(self) -> None:
        """All at once. What runs is forgotten only then: cancelled on the way, `run` still has to stop it."""
        for reading in self._running:
            reading.close()
        busy = any(reading.busy for reading in self._running)
        with trio.move_on_after(DRAIN_LIMIT_S):
            for reading in self._running:
                await reading.idle()
        if busy:
            await trio.sleep(SETTLE_S)
        for reading in self._running:
            reading.scope.cancel()
        for reading in self._running:
            await reading.ended.wait()
        self._running.clear()


class _Tools:
    """What the bindings of one app share."""

    def __init__(self, policies: Policies, metrics: Metrics, namespace: str) -> None:
        labels = ("component", "namespace", "success")
        self.policies = policies
        self.namespace = namespace
        self.count = metrics.counter("component_input_binding_count", *labels)
        self.latency = metrics.histogram("component_input_binding_latencies", *labels)


class _Reading:
    """One binding and its task, which tries again for ever."""

    def __init__(self, bound: BoundBinding, app: BindingApp, tools: _Tools) -> None:
        self._bound = bound
        self._app = app
        self._tools = tools
        self._policy = tools.policies.for_component(bound.name, "Binding", "Inbound")
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self._delay_s = BACK_OFF_FIRST_S
        self._closed = False
        self._handlers = 0
        self._idle = trio.Event()

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            with self.scope:
                await self._read_for_ever()
        finally:
            self.ended.set()

    async def _read_for_ever(self) -> None:
        while True:
            # A supervised service: whatever a driver raises, the binding is read again.
            reason = "its driver has ended"
            try:
                if not await self._wanted():
                    return
                await self._read()
            except* Exception as errors:
                first = leaves(errors)[0]
                reason = str(first) if isinstance(first, DriverError) else repr(first)
            logger.error("input binding %s: %s; next attempt in %.1f s", self._bound.name, reason, self._delay_s)
            await trio.sleep(self._delay_s)
            self._delay_s = min(self._delay_s * BACK_OFF_FACTOR, BACK_OFF_MAX_S)

    async def _wanted(self) -> bool:
        bound = self._bound
        if bound.explicit or await self._app.takes(bound.name, bound.route):
            return True
        logger.info("app has not subscribed to binding %s.", bound.name)
        return False

    async def _read(self) -> None:
        driver: InputBinding | None = self._bound.input
        assert driver is not None
        await driver.read(self._handle, task_status=self)

    def started(self, value: Any = None) -> None:
        """The driver's word that events can arrive; this object is its `task_status`."""
        self._delay_s = BACK_OFF_FIRST_S
        logger.info("reading input binding %s for the app's route %s", self._bound.name, self._bound.route)

    # --- events -------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self._handlers > 0

    def close(self) -> None:
        """Let nothing new in."""
        self._closed = True
        if not self._handlers:
            self._idle.set()

    async def idle(self) -> None:
        await self._idle.wait()

    async def _handle(self, data: bytes, metadata: Mapping[str, str]) -> bytes | None:
        if self._closed:
            await trio.sleep_forever()  # the driver is about to be cancelled
        self._handlers += 1
        try:
            return await self._deliver(Event(self._bound.name, self._bound.route, data, metadata))
        finally:
            self._handlers -= 1
            if self._closed and not self._handlers:
                self._idle.set()

    async def _deliver(self, event: Event) -> bytes:
        started = time.monotonic()
        success = "false"
        try:
            if self._policy.active:
                strict = self._policy.retries
                answer = await self._policy.run(lambda: self._app.deliver(event, strict=strict))
            else:
                answer = await self._app.deliver(event, strict=False)
            success = "true"
            return answer
        except DriverError as error:
            logger.error("error invoking app for binding %s: %s", event.binding, error)
            raise
        finally:
            labels = (event.binding, self._tools.namespace, success)
            self._tools.count.add(labels)
            elapsed_ms = int((time.monotonic() - started) * 1000)
            if elapsed_ms > 0:
                self._tools.latency.observe(elapsed_ms, labels)
