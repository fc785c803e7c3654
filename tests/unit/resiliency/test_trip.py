"""Trip expressions, simple ones and those that need the evaluator."""

from __future__ import annotations

import sys

import pytest

from edge_runtime.model.errors import ConfigError
from edge_runtime.resiliency.trip import Counts, compile_trip, default_trip


@pytest.mark.parametrize(
    ("text", "counts", "expected"),
    [
        ("consecutiveFailures > 5", Counts(consecutive_failures=6), True),
        ("consecutiveFailures > 5", Counts(consecutive_failures=5), False),
        ("consecutiveFailures>=5", Counts(consecutive_failures=5), True),
        ("totalFailures == 2 && requests > 2", Counts(requests=3, total_failures=2), True),
        ("totalFailures == 2 && requests > 3", Counts(requests=3, total_failures=2), False),
        ("totalFailures > 9 || requests != 3 || totalSuccesses < 1", Counts(requests=3), True),
        ("totalFailures > 9 || requests > 1 && consecutiveSuccesses <= 0", Counts(requests=3), True),
    ],
)
def test_simple_expressions_decide(text: str, counts: Counts, expected: bool) -> None:
    assert compile_trip(text)(counts) is expected


def test_default_trips_at_six() -> None:
    assert not default_trip(Counts(consecutive_failures=5))
    assert default_trip(Counts(consecutive_failures=6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "counts", "expected"),
    [
        ("requests > 3 && double(totalFailures) / double(requests) > 0.5", Counts(requests=4, total_failures=3), True),
        ("(totalFailures > 1 || requests > 9) && requests > 3", Counts(requests=3, total_failures=3), False),
        ("totalFailures / totalSuccesses > 1", Counts(total_failures=3), False),  # division by zero
        ("totalFailures", Counts(total_failures=3), False),  # no boolean
        ("unknown > 1", Counts(), False),
    ],
)
def test_cel_expressions_decide(text: str, counts: Counts, expected: bool) -> None:
    assert compile_trip(text)(counts) is expected


@pytest.mark.slow
def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no CEL expression.*consecutiveFailures > 5"):
        compile_trip("consecutiveFailures >")


def test_simple_expression_loads_no_evaluator() -> None:
    before = "celpy" in sys.modules
    compile_trip("consecutiveFailures > 5 && requests > 1")
    assert ("celpy" in sys.modules) is before
