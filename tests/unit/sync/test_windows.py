"""Windows of local time: across midnight, over changes of the clock, with no memory."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from edge_runtime.config.links import ALL_DAYS, Window, parse_days, parse_minute
from edge_runtime.sync.windows import Now, look

BERLIN = ZoneInfo("Europe/Berlin")


def local(at: float) -> time.struct_time:
    """What a clock in Berlin shows; this machine's zone is of no interest."""
    moment = datetime.fromtimestamp(at, BERLIN)
    offset = moment.utcoffset()
    assert offset is not None
    fields = (*moment.timetuple()[:9], "CET", int(offset.total_seconds()))
    return time.struct_time(fields)


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def window(days: str, begin: str, end: str) -> Window:
    return Window(parse_days(days), parse_minute(begin), parse_minute(end))


def see(moment: str, *windows: Window) -> tuple[bool, str]:
    now = look(windows, at(moment), local)
    changes = "" if now.changes_at is None else datetime.fromtimestamp(now.changes_at, BERLIN).strftime("%a %H:%M")
    return now.open, changes


# 2026-06-01 is a Monday.
NIGHTS = window("mon-fri", "22:00", "05:00")


def test_none_is_always_open() -> None:
    assert look((), 0.0, local) == Now(True)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-06-01T04:59:59", (False, "Mon 22:00")),  # Sunday has no window
        ("2026-06-01T21:59:59", (False, "Mon 22:00")),
        ("2026-06-01T22:00:00", (True, "Tue 05:00")),
        ("2026-06-02T00:00:00", (True, "Tue 05:00")),
        ("2026-06-02T05:00:00", (False, "Tue 22:00")),
        ("2026-06-06T04:00:00", (True, "Sat 05:00")),  # Friday's
        ("2026-06-06T05:00:00", (False, "Mon 22:00")),
    ],
)
def test_a_window_goes_over_midnight(moment: str, expected: tuple[bool, str]) -> None:
    assert see(moment, NIGHTS) == expected


def test_windows_that_touch_are_one() -> None:
    windows = window("daily", "20:00", "24:00"), window("daily", "00:00", "06:00")
    assert see("2026-06-01T23:30:00", *windows) == (True, "Tue 06:00")


def test_all_the_time_never_changes() -> None:
    assert look([Window(ALL_DAYS, 0, 1440)], at("2026-06-01T12:00:00"), local) == Now(True, None)


def test_a_weekly_window_is_a_week_away() -> None:
    assert see("2026-06-01T06:00:00", window("mon", "05:00", "06:00")) == (False, "Mon 05:00")


def test_summer_time_skips_an_hour() -> None:
    night = window("daily", "01:00", "04:00")  # on 29 March 2026 02:00 is followed by 03:00
    begin = look([night], at("2026-03-29T01:30:00"), local)
    assert begin.open
    assert begin.changes_at == at("2026-03-29T04:00:00") == at("2026-03-29T01:30:00") + 1.5 * 3600


def test_a_beginning_that_never_was_is_passed_over() -> None:
    half = window("daily", "02:30", "03:30")
    assert not look([half], at("2026-03-29T01:59:00"), local).open
    assert look([half], at("2026-03-29T03:00:00"), local).open


def test_winter_time_repeats_an_hour() -> None:
    half = window("daily", "02:30", "02:45")  # on 25 October 2026 03:00 is followed by 02:00
    assert look([half], at("2026-10-25T02:35:00"), local).open
    assert look([half], at("2026-10-25T02:35:00", fold=1), local).open
    between = look([half], at("2026-10-25T02:50:00"), local)
    assert not between.open


def test_a_jump_of_the_clock_is_nothing_special() -> None:
    assert see("1970-01-01T03:00:00", NIGHTS) == (True, "Thu 05:00")
    assert see("2026-06-01T12:00:00", NIGHTS) == (False, "Mon 22:00")
