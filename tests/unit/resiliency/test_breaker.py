"""The breaker's planner, decided without a clock."""

from __future__ import annotations

import pytest

from edge_runtime.model.errors import CircuitOpen
from edge_runtime.resiliency.breaker import Breaker, BreakerSettings, Phase
from edge_runtime.resiliency.trip import compile_trip

SETTINGS = BreakerSettings(open_s=10.0, trip=compile_trip("consecutiveFailures >= 2"))


def fail(breaker: Breaker, now: float) -> None:
    breaker.leave(breaker.enter(now), False, now)


def succeed(breaker: Breaker, now: float) -> None:
    breaker.leave(breaker.enter(now), True, now)


def tripped(settings: BreakerSettings = SETTINGS) -> Breaker:
    breaker = Breaker("cb", settings)
    fail(breaker, 0)
    fail(breaker, 0)
    assert breaker.phase is Phase.OPEN
    return breaker


def test_failures_in_a_row_trip() -> None:
    breaker = tripped()
    with pytest.raises(CircuitOpen, match="circuit breaker is open"):
        breaker.enter(9.9)


def test_success_breaks_the_row() -> None:
    breaker = Breaker("cb", SETTINGS)
    fail(breaker, 0)
    succeed(breaker, 0)
    fail(breaker, 0)
    assert breaker.phase is Phase.CLOSED


def test_rest_makes_half_open() -> None:
    breaker = tripped()
    breaker.enter(10)
    assert breaker.phase is Phase.HALF_OPEN


def test_half_open_admits_few() -> None:
    breaker = tripped()
    breaker.enter(10)
    with pytest.raises(CircuitOpen, match="too many requests"):
        breaker.enter(10)


def test_good_probe_closes() -> None:
    breaker = tripped()
    succeed(breaker, 10)
    assert breaker.phase is Phase.CLOSED


def test_bad_probe_opens_again() -> None:
    breaker = tripped()
    fail(breaker, 10)
    assert breaker.phase is Phase.OPEN
    with pytest.raises(CircuitOpen):
        breaker.enter(19)


def test_all_probes_must_succeed() -> None:
    breaker = tripped(SETTINGS._replace(probes_max=2))
    first, second = breaker.enter(10), breaker.enter(10)
    breaker.leave(first, True, 10)
    assert breaker.phase is Phase.HALF_OPEN
    breaker.leave(second, True, 10)
    assert breaker.phase is Phase.CLOSED


def test_withdrawn_probe_frees_its_place() -> None:
    breaker = tripped()
    breaker.forget(breaker.enter(10))
    succeed(breaker, 10)
    assert breaker.phase is Phase.CLOSED


def test_interval_forgets_failures() -> None:
    breaker = Breaker("cb", SETTINGS._replace(interval_s=5.0))
    fail(breaker, 0)
    fail(breaker, 5)
    assert breaker.phase is Phase.CLOSED
    fail(breaker, 6)
    assert breaker.phase is Phase.OPEN


def test_late_report_counts_nothing() -> None:
    breaker = Breaker("cb", SETTINGS)
    late = breaker.enter(0)
    fail(breaker, 0)
    fail(breaker, 0)
    succeed(breaker, 10)
    breaker.leave(late, False, 10)
    fail(breaker, 10)
    assert breaker.phase is Phase.CLOSED


def test_late_withdrawal_counts_nothing() -> None:
    breaker = Breaker("cb", SETTINGS)
    late = breaker.enter(0)
    fail(breaker, 0)
    fail(breaker, 0)
    breaker.forget(late)
    assert breaker.phase is Phase.OPEN
