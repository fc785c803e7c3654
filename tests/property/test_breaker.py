"""The breaker under any order of calls, reports, withdrawals and waits."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.model.errors import CircuitOpen
from edge_runtime.resiliency.breaker import Breaker, BreakerSettings, Phase
from edge_runtime.resiliency.trip import compile_trip

pytestmark = pytest.mark.slow
TRIP_AT = 3
OPEN_S = 10.0


class BreakerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(
            "cb", BreakerSettings(2, 60.0, OPEN_S, compile_trip(f"consecutiveFailures >= {TRIP_AT}"))
        )
        self.now = 0.0
        self.under_way: list[tuple[int, Phase]] = []
        self.opened_at = 0.0

    def _settled(self, before: Phase) -> None:
        if self.breaker.phase is Phase.OPEN and before is not Phase.OPEN:
            self.opened_at = self.now

    @rule()
    def enter(self) -> None:
        before = self.breaker.phase
        try:
            generation = self.breaker.enter(self.now)
        except CircuitOpen:
            assert before is not Phase.CLOSED
            if self.breaker.phase is Phase.OPEN:
                assert self.now < self.opened_at + OPEN_S
            return
        assert before is not Phase.OPEN or self.now >= self.opened_at + OPEN_S
        self.under_way.append((generation, self.breaker.phase))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), succeeded=st.booleans())
    def leave(self, data: st.DataObject, succeeded: bool) -> None:
        generation, _ = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before = self.breaker.phase
        self.breaker.leave(generation, succeeded, self.now)
        self._settled(before)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        generation, _ = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.breaker.forget(generation)

    @rule(seconds=st.floats(0, 70))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_add_up(self) -> None:
        memory = self.breaker._memory
        counts = memory.counts
        waiting = sum(generation == memory.generation for generation, _ in self.under_way)
        assert counts.requests == waiting + counts.total_successes + counts.total_failures
        assert counts.consecutive_failures <= counts.total_failures
        if memory.phase is Phase.CLOSED:
            assert counts.consecutive_failures < TRIP_AT


TestBreaker = BreakerMachine.TestCase
