"""How many bytes may cross a link: so many a second, and so many a day. Pure: `now` is an argument.

Bytes are charged as they flow, so that a large message may overdraw the second's share; the next one then waits until
the debt is paid, and the mean holds. A day is 24 hours from the first byte on: no clock that jumps makes it shorter.
"""

from __future__ import annotations

from typing import Final

DAY_S: Final = 86400.0
_CONNECTION_BYTES: Final = 16384  # what a day needs beside a message: handshakes with certificates, heads, answers


class Budget:
    """0 means no limit. `reserved` is what is about to be sent and not charged yet."""

    def __init__(self, per_second: int, per_day: int) -> None:
        self._per_second = per_second
        self._per_day = per_day
        self._tokens = float(per_second)
        self._filled_at: float | None = None
        self._day_began: float | None = None
        self.spent = 0  # in this day
        self.reserved = 0

    def restore(self, spent: int, day_age_s: float, now: float) -> None:
        """Go on with a day that began before this process did."""
        if spent and day_age_s < DAY_S:
            self.spent = spent
            self._day_began = now - day_age_s

    def charge(self, count: int, now: float) -> None:
        """`count` bytes have crossed."""
        if self._per_second:
            self._fill(now)
            self._tokens -= count
        self._turn_day(now)
        if self._day_began is None:
            self._day_began = now
        self.spent += count

    def wait_s(self, now: float) -> float:
        """How long to wait before the next message may be sent; infinite when the day's share is spent."""
        if self.day_left(now) == 0:
            return float("inf")
        if not self._per_second:
            return 0.0
        self._fill(now)
        missing = self.reserved - self._tokens
        return 0.0 if missing < 0 else (missing + 1) / self._per_second

    def day_left(self, now: float) -> int | None:
        """The bytes that are left of the day; None when days have no limit."""
        if not self._per_day:
            return None
        self._turn_day(now)
        return max(self._per_day - self.spent, 0)

    def fits(self, size: int) -> bool:
        """Whether a message of `size` can cross within one day, when the whole day is for it alone."""
        return not self._per_day or size + min(_CONNECTION_BYTES, self._per_day // 4) <= self._per_day

    def resets_in_s(self, now: float) -> float:
        """How long until the day is over; 0 when none has begun."""
        self._turn_day(now)
        return 0.0 if self._day_began is None else self._day_began + DAY_S - now

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            gained = max(now - self._filled_at, 0.0) * self._per_second
            self._tokens = min(self._tokens + gained, float(self._per_second))
        self._filled_at = now

    def _turn_day(self, now: float) -> None:
        if self._day_began is not None and now >= self._day_began + DAY_S:
            self._day_began = None
            self.spent = 0
