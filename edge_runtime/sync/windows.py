"""When a link may be used: windows of local time. Pure: the moment and what a clock shows then are arguments.

A window belongs to the day on which it opens; one whose end is not after its beginning closes on the next day. What
counts is what a clock on the wall shows, so a window over the change to summer time is an hour shorter, and the clock
may jump: nothing is remembered from one look to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from edge_runtime.config.links import DAY_MINUTES, Window


class Civil(Protocol):
    """What a clock on the wall shows, as `time.struct_time` has it."""

    @property
    def tm_wday(self) -> int: ...
    @property
    def tm_hour(self) -> int: ...
    @property
    def tm_min(self) -> int: ...
    @property
    def tm_sec(self) -> int: ...
    @property
    def tm_gmtoff(self) -> int: ...


# What it shows at a moment: time.localtime.
Local = Callable[[float], Civil]


class Now(NamedTuple):
    """Whether a window is open, and the moment at which that changes next; None for never."""

    open: bool
    changes_at: float | None = None


def look(windows: Sequence[Window], at: float, local: Local) -> Now:
    """No windows are always open."""
    if not windows:
        return Now(True)
    opened = is_open(windows, local(at))
    return Now(opened, _next_change(windows, at, local, opened))


def is_open(windows: Sequence[Window], clock: Civil) -> bool:
    """Whether one of the windows is open when the clock shows this."""
    minute = clock.tm_hour * 60 + clock.tm_min
    return any(_covers(window, clock.tm_wday, minute) for window in windows)


def _covers(window: Window, day: int, minute: int) -> bool:
    if window.begin_min < window.end_min:
        return day in window.days and window.begin_min <= minute < window.end_min
    if day in window.days and minute >= window.begin_min:
        return True
    return (day - 1) % 7 in window.days and minute < window.end_min


def _next_change(windows: Sequence[Window], at: float, local: Local, opened: bool) -> float | None:
    """The first boundary at which it is the other way round, within eight days."""
    clock = local(at)
    midnight = at - clock.tm_hour * 3600 - clock.tm_min * 60 - clock.tm_sec
    minutes = {minute % DAY_MINUTES for window in windows for minute in (window.begin_min, window.end_min)}
    boundaries = sorted(day * 86400 + minute * 60 for day in range(9) for minute in minutes)
    for offset in boundaries:
        moment = midnight + offset
        moment += clock.tm_gmtoff - local(moment).tm_gmtoff
        if moment > at and is_open(windows, local(moment)) != opened:
            return float(int(moment))
    return None
