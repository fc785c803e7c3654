"""Bytes a second and a day, with the time as an argument."""

from __future__ import annotations

from edge_runtime.sync.budget import DAY_S, Budget


def test_no_limits_never_wait() -> None:
    budget = Budget(0, 0)
    budget.charge(10**12, 0.0)
    assert budget.wait_s(0.0) == 0
    assert budget.day_left(0.0) is None


def test_a_second_pays_a_debt() -> None:
    budget = Budget(1000, 0)
    assert budget.wait_s(0.0) == 0
    budget.charge(3000, 0.0)
    assert budget.wait_s(0.0) == 2.001
    assert 0 < budget.wait_s(2.0) <= 0.001
    assert budget.wait_s(2.001) == 0


def test_idle_time_saves_one_second_at_most() -> None:
    budget = Budget(1000, 0)
    budget.charge(1, 0.0)
    budget.charge(1000, 500.0)
    assert budget.wait_s(500.0) > 0


def test_what_is_reserved_counts() -> None:
    budget = Budget(1000, 0)
    budget.reserved = 1000
    assert budget.wait_s(0.0) == 0.001
    budget.reserved = 999
    assert budget.wait_s(0.0) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = Budget(1000, 0)
    budget.charge(1000, 100.0)
    assert budget.wait_s(50.0) == 0.001


def test_a_day_ends_after_its_hours() -> None:
    budget = Budget(0, 100)
    assert (budget.day_left(5.0), budget.resets_in_s(5.0)) == (100, 0.0)
    budget.charge(40, 10.0)
    assert (budget.day_left(20.0), budget.resets_in_s(20.0)) == (60, DAY_S - 10)
    budget.charge(70, 20.0)
    assert budget.wait_s(20.0) == float("inf")
    assert budget.wait_s(10.0 + DAY_S) == 0
    assert budget.spent == 0


def test_a_restart_goes_on_with_the_day() -> None:
    budget = Budget(0, 100)
    budget.restore(90, 3600.0, 5.0)
    assert (budget.day_left(5.0), budget.resets_in_s(5.0)) == (10, DAY_S - 3600)
    budget = Budget(0, 100)
    budget.restore(90, DAY_S, 5.0)
    assert budget.day_left(5.0) == 100


def test_the_mean_holds_over_an_hour() -> None:
    budget, now, sent = Budget(5000, 0), 0.0, 0
    while now < 3600:
        now += budget.wait_s(now)
        budget.charge(12_345, now)
        sent += 12_345
    assert sent <= now * 5000 + 5000 + 12_345
    assert sent >= 3600 * 5000 * 0.99


def test_what_no_day_has_room_for_is_known() -> None:
    assert Budget(0, 0).fits(10**12)
    budget = Budget(0, 100_000)
    assert budget.fits(100_000 - 16384)
    assert not budget.fits(100_000 - 16383)
    assert Budget(0, 1000).fits(750)
