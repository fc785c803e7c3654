"""The circuit breaker: a table of states, a planner that takes `now`, and the small object that remembers.

Every entry into a state, and every passing of the interval while closed, starts a new generation with fresh counts.
What an operation reports counts only while its own generation lasts: a slow failure from before must not reopen it.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from edge_runtime.model.errors import CircuitOpen
from edge_runtime.resiliency.trip import Counts, Trip, default_trip


class Phase(enum.Enum):
    """The values are the words of the metric `resiliency_cb_state`."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Happening(enum.Enum):
    """What moves a breaker from one phase to another."""

    TRIPPED = 1
    RESTED = 2
    PROBE_FAILED = 3
    PROBES_SUCCEEDED = 4


TRANSITIONS: Final = {
    (Phase.CLOSED, Happening.TRIPPED): Phase.OPEN,
    (Phase.OPEN, Happening.RESTED): Phase.HALF_OPEN,
    (Phase.HALF_OPEN, Happening.PROBE_FAILED): Phase.OPEN,
    (Phase.HALF_OPEN, Happening.PROBES_SUCCEEDED): Phase.CLOSED,
}


class BreakerSettings(NamedTuple):
    """`probes_max` operations at a time while half-open; `interval_s` 0 keeps the counts for ever while closed."""

    probes_max: int = 1
    interval_s: float = 0.0
    open_s: float = 60.0
    trip: Trip = default_trip


class Memory(NamedTuple):
    """All that a breaker knows. `ends_at` is when the generation ends by itself, None for never."""

    phase: Phase = Phase.CLOSED
    generation: int = 0
    ends_at: float | None = None
    counts: Counts = Counts()


def fresh(settings: BreakerSettings, now: float) -> Memory:
    """A closed breaker that has seen nothing."""
    return _enter(settings, Memory(), Phase.CLOSED, now)


def passed_time(settings: BreakerSettings, memory: Memory, now: float) -> Memory:
    """What the clock alone has changed: an interval is over, or an open breaker has rested."""
    if memory.ends_at is None or now < memory.ends_at:
        return memory
    if memory.phase is Phase.OPEN:
        return _move(settings, memory, Happening.RESTED, now)
    return _enter(settings, memory, memory.phase, now)


def admit(settings: BreakerSettings, memory: Memory, now: float) -> tuple[Memory, str]:
    """The memory with one more operation under way, and an empty text; or why there is none."""
    memory = passed_time(settings, memory, now)
    if memory.phase is Phase.OPEN:
        return memory, "circuit breaker is open"
    if memory.phase is Phase.HALF_OPEN and memory.counts.requests >= settings.probes_max:
        return memory, "too many requests"
    counts = memory.counts
    return memory._replace(counts=counts._replace(requests=counts.requests + 1)), ""


def report(settings: BreakerSettings, memory: Memory, generation: int, succeeded: bool, now: float) -> Memory:
    """The memory after an operation of `generation` has ended."""
    memory = passed_time(settings, memory, now)
    if memory.generation != generation:
        return memory
    counts = _counted(memory.counts, succeeded)
    memory = memory._replace(counts=counts)
    if memory.phase is Phase.CLOSED:
        if not succeeded and settings.trip(counts):
            return _move(settings, memory, Happening.TRIPPED, now)
    elif not succeeded:
        return _move(settings, memory, Happening.PROBE_FAILED, now)
    elif counts.consecutive_successes >= settings.probes_max:
        return _move(settings, memory, Happening.PROBES_SUCCEEDED, now)
    return memory


def withdraw(memory: Memory, generation: int) -> Memory:
    """The memory as if an operation of `generation` had not been: its caller went away before it ended."""
    if memory.generation != generation:
        return memory
    counts = memory.counts
    return memory._replace(counts=counts._replace(requests=counts.requests - 1))


def _counted(counts: Counts, succeeded: bool) -> Counts:
    if succeeded:
        return Counts(
            counts.requests, counts.total_successes + 1, counts.total_failures, counts.consecutive_successes + 1, 0
        )
    return Counts(
        counts.requests, counts.total_successes, counts.total_failures + 1, 0, counts.consecutive_failures + 1
    )


def _move(settings: BreakerSettings, memory: Memory, happening: Happening, now: float) -> Memory:
    return _enter(settings, memory, TRANSITIONS[memory.phase, happening], now)


def _enter(settings: BreakerSettings, memory: Memory, phase: Phase, now: float) -> Memory:
    length_s = {Phase.CLOSED: settings.interval_s, Phase.OPEN: settings.open_s, Phase.HALF_OPEN: 0.0}[phase]
    return Memory(phase, memory.generation + 1, now + length_s if length_s > 0 else None, Counts())


class Breaker:
    """One breaker, shared by every policy that guards the same target. Its first interval begins with its first use."""

    __slots__ = ("_memory", "name", "settings")

    def __init__(self, name: str, settings: BreakerSettings) -> None:
        self.name = name
        self.settings = settings
        self._memory = Memory()

    @property
    def phase(self) -> Phase:
        return self._memory.phase

    def enter(self, now: float) -> int:
        """The generation to report with. Raises CircuitOpen."""
        if not self._memory.generation:
            self._memory = fresh(self.settings, now)
        self._memory, refusal = admit(self.settings, self._memory, now)
        if refusal:
            raise CircuitOpen(refusal)
        return self._memory.generation

    def leave(self, generation: int, succeeded: bool, now: float) -> None:
        self._memory = report(self.settings, self._memory, generation, succeeded, now)

    def forget(self, generation: int) -> None:
        self._memory = withdraw(self._memory, generation)
