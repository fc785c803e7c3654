"""The `Date` header: made once a second, whatever the traffic."""

from __future__ import annotations

import time
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HttpDate:
    """The time as HTTP writes it."""

    __slots__ = ("_second", "_value")

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def now(self) -> bytes:
        """The value of this second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._value = _written(second)
        return self._value


def _written(at: int) -> bytes:
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(at)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT".encode()
