"""Time, and what is to happen at some time: a clock for trio that goes on at once when nobody has anything to do.

What the world does (messages under way, faults, an app's next publish) are functions in an agenda, called by the clock
itself: no task has to wait for them, so that a seed costs milliseconds. What runs is decided by the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

import trio

# Instants at which something happens, of one run: one that has more goes round in circles.
INSTANTS_MAX: Final = 3_000_000
_IDLE_MAX: Final = 100
_LOOK_S: Final = 1e-7


class Stage(trio.abc.Clock, trio.abc.Instrument):
    """One run's clock and agenda, and what went wrong so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = 0.0
        self.failure: BaseException | None = None
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._instants = 0
        self._idle = 0
        self._scope = trio.CancelScope()
        self._steps = 0
        self._at_step: Callable[[], object] | None = None

    # --- the agenda

    def after(self, delay_s: float, act: Callable[[], object]) -> None:
        """Call it then. It must not wait; what it raises ends the run."""
        heappush(self._agenda, (self.now + delay_s, next(self._order), act))

    def fail(self, what: str) -> None:
        """An invariant is broken. May be called from anywhere; the first one counts."""
        self._failed(AssertionError(f"at {self.now:.3f} s: {what}"))

    def _failed(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self._scope.cancel()

    # --- trio.abc.Clock

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        # Who sleeps for less than a float can tell would look at the clock for ever, if it stood still meanwhile.
        self.now += _LOOK_S
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked when no task can go on: the next instant is now."""
        agenda = self._agenda
        self._instants += 1
        instant = min(deadline, agenda[0][0]) if agenda else deadline
        if instant == float("inf"):
            return self._nothing_to_come()
        self._idle = 0
        if self._instants > INSTANTS_MAX:
            self._failed(AssertionError("things never end"))
            return 0.0
        self.now = max(self.now, instant)
        try:
            while agenda and agenda[0][0] <= self.now:
                heappop(agenda)[2]()
        except BaseException as error:
            self._failed(error)
        return 0.0

    def _nothing_to_come(self) -> float:
        """Trio itself may have something still that comes through its wakeup socket."""
        self._idle += 1
        if self._idle > _IDLE_MAX:
            self._failed(AssertionError("nothing will ever happen again"))
        return 0.0

    # --- trio.abc.Instrument

    def at_step(self, steps: int, act: Callable[[], object]) -> None:
        """Call it between two steps of whatever tasks run, so many steps from now: at any await."""
        if self._at_step is None:
            trio.lowlevel.add_instrument(self)
        self._steps, self._at_step = steps, act

    def disarm(self) -> None:
        """Do not call it any more."""
        if self._at_step is not None:
            trio.lowlevel.remove_instrument(self)
            self._at_step = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps -= 1
        if self._steps <= 0 and self._at_step is not None:
            act, self._at_step = self._at_step, None
            trio.lowlevel.remove_instrument(self)
            act()

    # --- running

    async def _main(self, main: Callable[[], Awaitable[None]]) -> None:
        with self._scope:
            await main()

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """The same seed always does the same."""
        inner: Any = trio._core._run
        before = inner._ALLOW_DETERMINISTIC_SCHEDULING
        inner._ALLOW_DETERMINISTIC_SCHEDULING = True
        inner._r.seed(self.seed)
        random.seed(self.seed)
        try:
            trio.run(self._main, main, clock=self)
        finally:
            inner._ALLOW_DETERMINISTIC_SCHEDULING = before
        if self.failure is not None:
            raise self.failure
