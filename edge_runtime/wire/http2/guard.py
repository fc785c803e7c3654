"""Counts what a peer may do in good faith now and then, and no good client does all the time.

Each count begins anew with every interval, so a limit is a rate that allows bursts. Nothing here knows a clock: `now`
is an argument.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from edge_runtime.wire.http2.codes import ENHANCE_YOUR_CALM, ConnectionFault

_STRIKES_MAX: Final = 2  # pings that come too early, in a row, before the connection is ended


class GuardLimits(NamedTuple):
    """How often within `interval_s`. More ends the connection with ENHANCE_YOUR_CALM."""

    interval_s: float = 10.0
    resets_max: int = 1000  # streams reset before they had an answer, and streams whose request was malformed
    settings_max: int = 100
    pings_max: int = 1000  # not counted: the first after headers or data of ours
    useless_frames_max: int = 10000  # empty DATA, PRIORITY, unknown types, frames for streams that are over; …
    useless_frames_per_stream: int = 8  # … and so many more for each stream that is opened
    ping_min_interval_s: float = 0.0  # 0: no rule


class Rate:
    """One count."""

    __slots__ = ("_count", "_interval_s", "_most", "_since", "_what")

    def __init__(self, what: str, most: int, interval_s: float) -> None:
        self._what = what
        self._most = most
        self._interval_s = interval_s
        self._since = float("-inf")
        self._count = 0

    def hit(self, now: float) -> None:
        """One more. Raises `ConnectionFault` when it is too many."""
        if now - self._since >= self._interval_s:
            self._since = now
            self._count = 0
        self._count += 1
        if self._count > self._most:
            raise ConnectionFault(ENHANCE_YOUR_CALM, self._what)

    def allow(self, more: int) -> None:
        """Something useful was done, behind which so many may follow."""
        self._count -= more


class Guard:
    """The counts of one connection."""

    __slots__ = (
        "_last_ping_at", "_ping_min_interval_s", "_pings", "_strikes", "_useless_per_stream", "resets", "settings",
        "useless",
    )  # fmt: skip

    def __init__(self, limits: GuardLimits) -> None:
        interval_s = limits.interval_s
        self.resets = Rate("too_many_resets", limits.resets_max, interval_s)
        self.settings = Rate("too_many_settings", limits.settings_max, interval_s)
        self.useless = Rate("too_many_useless_frames", limits.useless_frames_max, interval_s)
        self._pings = Rate("too_many_pings", limits.pings_max, interval_s)
        self._useless_per_stream = limits.useless_frames_per_stream
        self._ping_min_interval_s = limits.ping_min_interval_s
        self._last_ping_at = float("-inf")
        self._strikes = 0

    def stream(self) -> None:
        """A stream is opened, whose end may cross some frames."""
        self.useless.allow(self._useless_per_stream)

    def ping(self, now: float, sent_since: bool) -> None:
        """The peer pings; `sent_since`: since its last one, we have sent headers or data, so that it may well ask.

        A ping that comes too early is a strike. The third strike in a row is one too many.
        """
        too_early = now - self._last_ping_at < self._ping_min_interval_s
        self._last_ping_at = now
        if sent_since:  # clients measure the way with a ping for each burst of data
            self._strikes = 0
            return
        self._pings.hit(now)
        if too_early:
            self._strikes += 1
            if self._strikes > _STRIKES_MAX:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too_many_pings")
