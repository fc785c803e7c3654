"""What the routes of one outbox have in common: limits, metrics, turns, and how a route is told of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import trio

from edge_runtime.model.errors import BadMetadata
from edge_runtime.model.ports import LocalCalls
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.outbox import Head, OutboxStore
from edge_runtime.sync.plan import Turns

_TURNS: Final = 3  # a turn without work costs some 15 µs
_CALL_S: Final = 0.002  # what a local call is given to itself from its beginning on
_PATIENCE_S: Final = 0.006
# A send costs half a millisecond in three or four steps. Begun so far apart, they leave most of the time to calls, and
# no two of them stand before the same one.
_APART_S: Final = 0.003
_CALLED_LATELY_S: Final = 0.1  # who only asks now and then does not slow a backlog down


class OutboxLimits(NamedTuple):
    """Of all routes together: `slots` sends at once. What was sent is removed after `flush_after_s`, or `flush_max`.

    Nothing more is sent while `unflushed_max` could not be removed. Space is given back after `rest_s` of quiet.
    """

    slots: int = 64
    flush_after_s: float = 0.1
    flush_max: int = 256
    unflushed_max: int = 4096
    payload_bytes_max: int = 256 * 1024
    rest_s: float = 1.0
    retry_s: float = 1.0
    close_timeout_s: float = 5.0


class RouteState(NamedTuple):
    """A route as it stands."""

    name: str
    up: bool
    reason: str
    entries: int
    bytes: int
    in_flight: int
    oldest_age_s: float
    dead_entries: int


def report(state: RouteState, dropped: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A route in the words of the HTTP API; `dropped` has (entries, bytes) by reason."""
    return {
        "entries": state.entries,
        "bytes": state.bytes,
        "inFlight": state.in_flight,
        "oldestAgeSeconds": round(state.oldest_age_s, 3) if state.entries else None,
        "deadLetters": state.dead_entries,
        "dropped": {reason: {"entries": count, "bytes": size} for reason, (count, size) in dropped.items()},
    }


class EntryTooLarge(BadMetadata):
    """A single entry is over the route's whole limit."""


class Numbers:
    """The metrics of all routes."""

    def __init__(self, metrics: Metrics) -> None:
        self.forwarded = metrics.counter("edge_outbox_forwarded_total", "route")
        self.failed = metrics.counter("edge_outbox_failed_attempts_total", "route")
        self.refused = metrics.counter("edge_outbox_refused_total", "route")
        self.dropped = metrics.counter("edge_outbox_dropped_total", "route", "reason")
        self.dropped_bytes = metrics.counter("edge_outbox_dropped_bytes_total", "route", "reason")
        self.entries = metrics.gauge("edge_outbox_entries", "route")
        self.bytes = metrics.gauge("edge_outbox_bytes", "route")
        self.oldest = metrics.gauge("edge_outbox_oldest_age_seconds", "route")
        self.dead = metrics.gauge("edge_outbox_dead_letters", "route")
        self.up = metrics.gauge("edge_outbox_link_up", "route")

    def count_drops(self, route: str, reason: str, heads: Sequence[Head]) -> None:
        if heads:
            self.dropped.add((route, reason), len(heads))
            self.dropped_bytes.add((route, reason), sum(head.size for head in heads))

    def show(self, route: Sharing) -> None:
        """For gauges, when somebody looks."""
        state, labels = route.state(), (route.name,)
        self.entries.set(state.entries, labels)
        self.bytes.set(state.bytes, labels)
        self.oldest.set(state.oldest_age_s, labels)
        self.dead.set(state.dead_entries, labels)
        self.up.set(state.up, labels)

    def hide(self, route: str) -> None:
        """It is open no more: nobody knows whether its other end can be reached."""
        for gauge in (self.entries, self.bytes, self.oldest, self.dead, self.up):
            gauge.values.pop((route,), None)


class Sharing(Protocol):
    """A route, as far as the others are concerned with it."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    def state(self) -> RouteState: ...
    def wake(self) -> None: ...


class Pace:
    """Lets one send begin at a time, with turns of the event loop between two of them, and local calls first.

    However many answers of the other end come at once, a local call waits for one or two sends and not for all of
    them. As long as the last call was less than `_CALLED_LATELY_S` ago, sends begin `_APART_S` apart, and one more
    `_CALL_S` after each call; but whatever calls come, a send begins every `_APART_S + _PATIENCE_S`.
    """

    def __init__(self, calls: LocalCalls) -> None:
        self._calls = calls
        self._seen = calls.begun
        self._called_at = self._began_at = float("-inf")
        self._lock = trio.Lock()

    async def wait(self) -> None:
        """Until the next send may begin."""
        async with self._lock:
            for _ in range(_TURNS):
                await trio.lowlevel.checkpoint()
            patience_s = _PATIENCE_S
            if self._called():
                await trio.sleep(_CALL_S)
                patience_s -= _CALL_S
            if trio.current_time() - self._called_at < _CALLED_LATELY_S:
                await trio.sleep_until(self._began_at + _APART_S)
                while patience_s > 0 and self._called():
                    await trio.sleep(_CALL_S)
                    patience_s -= _CALL_S
            self._began_at = trio.current_time()

    def _called(self) -> bool:
        """Whether a call has begun since this was asked last."""
        if self._seen == self._calls.begun:
            return False
        self._seen = self._calls.begun
        self._called_at = trio.current_time()
        return True


class Shared(NamedTuple):
    """What the routes of one outbox have in common."""

    store: OutboxStore
    limits: OutboxLimits
    turns: Turns
    numbers: Numbers
    routes: Mapping[str, Sharing]
    chance: Callable[[], float]
    pace: Pace

    def show(self) -> None:
        """Before the metrics are read."""
        for route in self.routes.values():
            self.numbers.show(route)

    def wake(self, route_id: int | None) -> None:
        """It is the route's turn."""
        for route in self.routes.values():
            if route.id == route_id:
                route.wake()
