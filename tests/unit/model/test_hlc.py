"""Stamps that rise, whatever the wall clock does, and come back from a year that never was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.model.hlc import (
    COUNTER_MAX,
    DRIFT_MAX_MS,
    MS_MAX,
    PATIENCE_MS,
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


YEAR_MS = 365 * 86_400_000
# Years that a clock may say: unset, right, wrong by days, and past what 32 bits hold.
WALLS = st.one_of(
    st.integers(-(2**50), 2**50),
    st.sampled_from([0, NOW, NOW + 86_400_000, NOW - 5 * 86_400_000, 2**31 * 1000, 2**32 * 1000, NOW + 100 * YEAR_MS]),
)


@given(walls=st.lists(WALLS, min_size=2))
def test_stamps_rise_while_nobody_vouches_for_the_clock(walls: list[int]) -> None:
    clock = Clock("n")
    back = min(walls)
    stamps = [clock.now(min(wall, back + PATIENCE_MS - 1) if wall >= SET_FROM_MS else wall) for wall in walls]
    assert stamps == sorted(set(stamps))


@given(steps=st.lists(st.tuples(WALLS, st.booleans()), min_size=2), last=st.integers(0, MS_MAX))
def test_no_stamp_is_given_twice(steps: list[tuple[int, bool]], last: int) -> None:
    right = [False]
    clock = Clock("n", Stamp(last, 3), is_right=lambda: right[0])
    stamps = []
    for wall, right[0] in steps:
        before = clock.last
        stamps.append(clock.now(wall))
        assert stamps[-1] > before or stamps[-1].ms == wall, "back to the wall clock, or on"
        assert parse(str(stamps[-1])) == stamps[-1]
    assert len(set(stamps)) == len(stamps)
    assert len(set(map(str, stamps))) == len(stamps)


@pytest.mark.parametrize("year", [2**31 * 1000 + 5, NOW + 12 * YEAR_MS, NOW + 2 * DRIFT_MAX_MS])
def test_a_clock_that_was_wrong_is_left_when_somebody_vouches(year: int) -> None:
    asked = []

    def is_right() -> bool:
        asked.append(True)
        return True

    clock = Clock("n", is_right=is_right)
    assert clock.now(NOW) == Stamp(NOW, 0, "n")
    wrong = clock.now(year)
    assert wrong == Stamp(year, 0, "n")
    assert not asked, "only a suspicion costs a question"
    back = clock.now(NOW + 10)
    assert (back.ms, back.counter) == (NOW + 10, 0)
    assert back.node.startswith("n.")
    assert clock.now(NOW + 10) > back
    assert clock.now(NOW + 11).node == back.node
    assert len(asked) == 1


def test_a_clock_is_believed_after_an_hour() -> None:
    clock = Clock("n", Stamp(NOW + YEAR_MS, 0))
    assert clock.now(NOW).ms == NOW + YEAR_MS
    assert clock.now(NOW + PATIENCE_MS - 1).ms == NOW + YEAR_MS
    assert clock.now(NOW + PATIENCE_MS).ms == NOW + PATIENCE_MS


def test_the_hour_begins_again_when_the_clock_goes_back() -> None:
    clock = Clock("n", Stamp(NOW + YEAR_MS, 0))
    clock.now(NOW + 1000)
    clock.now(NOW)
    assert clock.now(NOW + PATIENCE_MS - 1).ms == NOW + YEAR_MS
    clock.now(NOW + YEAR_MS + 5)  # it was the other one that was wrong
    clock.now(NOW + PATIENCE_MS)
    assert clock.now(NOW + PATIENCE_MS + 5).ms == NOW + YEAR_MS + 5


@pytest.mark.parametrize("wall", [0, 3_000, SET_FROM_MS - 1])
def test_an_unset_clock_is_never_gone_back_to(wall: int) -> None:
    clock = Clock("n", Stamp(NOW, 0), is_right=lambda: True)
    assert clock.now(wall) == Stamp(NOW, 1, "n")


def test_a_little_drift_is_waited_for() -> None:
    clock = Clock("n", Stamp(NOW + DRIFT_MAX_MS, 0), is_right=lambda: True)
    assert clock.now(NOW) == Stamp(NOW + DRIFT_MAX_MS, 1, "n")


def test_others_are_judged_by_the_clock_that_is_right() -> None:
    clock = Clock("n", Stamp(NOW + YEAR_MS, 0), is_right=lambda: True)
    with pytest.raises(Drift):
        clock.receive(Stamp(NOW + YEAR_MS - 1, 0, "other"), NOW)
    assert clock.receive(Stamp(NOW + 5, 0, "other"), NOW).ms == NOW + 5


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


def test_own_stamps_are_gone_on_from_whatever_the_wall_says() -> None:
    clock = Clock("n")
    clock.go_on_from(Stamp(5_000, 7))
    clock.go_on_from(Stamp(4_000, 9))
    assert clock.now(1_000) == Stamp(5_000, 8, "n")
