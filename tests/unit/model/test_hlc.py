"""Stamps that never go back, whatever the wall clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.model.hlc import (
    COUNTER_MAX,
    DRIFT_MAX_MS,
    MS_MAX,
    SET_FROM_MS,
    UNSET_BELIEVES_MS,
    Clock,
    Drift,
    Stamp,
    parse,
    unpack,
)

NOW = SET_FROM_MS + 1_000_000
STAMPS = st.builds(Stamp, st.integers(0, MS_MAX), st.integers(0, COUNTER_MAX), st.text("0123456789abcdef", max_size=32))


@given(walls=st.lists(st.integers(-(2**50), 2**50), min_size=2))
def test_stamps_rise_always(walls: list[int]) -> None:
    clock = Clock("n")
    stamps = [clock.now(wall) for wall in walls]
    assert stamps == sorted(set(stamps))


def test_wall_time_is_followed() -> None:
    clock = Clock("n")
    assert clock.now(NOW) == Stamp(NOW, 0, "n")
    assert clock.now(NOW) == Stamp(NOW, 1, "n")
    assert clock.now(NOW + 5) == Stamp(NOW + 5, 0, "n")
    assert clock.last == Stamp(NOW + 5, 0, "n")


def test_a_boot_in_1970_goes_on() -> None:
    clock = Clock("n", Stamp(NOW, 7))
    assert clock.now(3_000) == Stamp(NOW, 8, "n")
    assert clock.now(NOW + 50) == Stamp(NOW + 50, 0, "n")


def test_a_full_counter_runs_over() -> None:
    clock = Clock("n", Stamp(NOW, COUNTER_MAX))
    assert clock.now(NOW) == Stamp(NOW + 1, 0, "n")


def test_an_answer_is_later_than_its_question() -> None:
    clock = Clock("n", Stamp(NOW, 0))
    asked = Stamp(NOW + 500, 3, "other")
    assert clock.receive(asked, NOW + 1) > asked
    assert clock.receive(Stamp(NOW, 0, "old"), NOW + 1) == Stamp(NOW + 500, 5, "n")


@pytest.mark.parametrize("far", [NOW + DRIFT_MAX_MS + 1, MS_MAX])
def test_far_stamps_are_refused(far: int) -> None:
    clock = Clock("n", Stamp(NOW, 0))
    with pytest.raises(Drift, match="ahead of this node"):
        clock.receive(Stamp(far, 0, "other"), NOW)
    assert clock.last == Stamp(NOW, 0, "n")


def test_a_clock_that_is_not_set_believes_others() -> None:
    clock = Clock("n")
    assert clock.receive(Stamp(NOW, 0, "other"), 5_000) == Stamp(NOW, 1, "n")
    with pytest.raises(Drift):
        clock.receive(Stamp(UNSET_BELIEVES_MS + 1, 0, "other"), 5_000)


@given(first=STAMPS, second=STAMPS)
def test_text_sorts_as_stamps_do(first: Stamp, second: Stamp) -> None:
    assert (str(first) < str(second)) == (first < second)
    assert parse(str(first)) == first
    assert unpack(first.pack(), first.node) == first
    assert first.pack() < 2**63


@pytest.mark.parametrize("text", ["", "12", "zzzzzzzzzzzzzzzz", "ffffffffffff0000n", "٣" * 16, "-00000000000000a"])
def test_other_text_is_no_stamp(text: str) -> None:
    with pytest.raises(ValueError, match=r"stamp|past the end|invalid literal"):
        parse(text)
