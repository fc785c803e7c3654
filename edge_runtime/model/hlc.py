"""A hybrid logical clock: stamps that rise, follow the wall clock when it can be followed, and sort as text.

A stamp is the highest wall time seen so far in milliseconds, a counter for what happened within it, and the node that
made it, for ties. A board that boots in 1970 goes on from the last stamp that it kept; a wall clock that jumps forward
is followed, one that jumps back is waited for. Stamps of others move the clock forward so that an answer is later than
its question, but only so far: one node with a wrong clock must not take the others along.

A wall clock that was wrong by years would leave stamps ahead for years. So the clock goes back to the wall clock, once
that lies further behind than drift explains and either somebody vouches for it or it has gone on so for an hour. The
node's name in later stamps then has an ending of its own: no stamp is ever given twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

COUNTER_BITS: Final = 16
COUNTER_MAX: Final = (1 << COUNTER_BITS) - 1
# In 63 bits beside the counter, and the year 6429: what lies past it is no time.
MS_MAX: Final = (1 << 47) - 1
# A wall clock before 2024 has not been set yet, so it cannot judge the stamps of others.
SET_FROM_MS: Final = 1_704_067_200_000
# With a clock that is not set, nothing past 2100 is believed.
UNSET_BELIEVES_MS: Final = 4_102_444_800_000
DRIFT_MAX_MS: Final = 60_000
# A wall clock for which nobody vouches is believed to be right, and the stamps wrong, after so long.
PATIENCE_MS: Final = 3_600_000

_MS_DIGITS: Final = 12
_COUNTER_DIGITS: Final = 4


class Drift(ValueError):
    """Another node's stamp lies too far ahead; the clock has not moved."""


class Stamp(NamedTuple):
    """One moment of one node. Compares as its three parts do."""

    ms: int
    counter: int
    node: str = ""

    def __str__(self) -> str:
        """Sorts as text as it sorts as a stamp."""
        return f"{self.ms:0{_MS_DIGITS}x}{self.counter:0{_COUNTER_DIGITS}x}{self.node}"

    def pack(self) -> int:
        """Without its node, in 63 bits."""
        return self.ms << COUNTER_BITS | self.counter


def parse(text: str) -> Stamp:
    """What `str` wrote. Raises ValueError."""
    digits = _MS_DIGITS + _COUNTER_DIGITS
    if len(text) < digits or not text.isascii() or not text[:digits].isalnum():
        raise ValueError(f"{text!r} is no stamp; expected {digits} hexadecimal digits and a node")
    stamp = Stamp(int(text[:_MS_DIGITS], 16), int(text[_MS_DIGITS:digits], 16), text[digits:])
    if stamp.ms > MS_MAX:
        raise ValueError(f"{text!r} lies past the end of time")
    return stamp


def unpack(number: int, node: str = "") -> Stamp:
    """What `pack` made."""
    return Stamp(number >> COUNTER_BITS, number & COUNTER_MAX, node)


def nobody_knows() -> bool:
    return False


class Clock:
    """One node's clock. `last` is the highest stamp known from before; `wall_ms` is what the wall clock says.

    `is_right` says whether somebody vouches for the wall clock; it is asked only when stamps lie ahead of it.
    """

    __slots__ = ("_behind_from_ms", "_counter", "_is_right", "_ms", "_name", "_returns", "drift_max_ms", "node")

    def __init__(
        self,
        node: str,
        last: Stamp = Stamp(0, 0),  # noqa: B008
        drift_max_ms: int = DRIFT_MAX_MS,
        is_right: Callable[[], bool] = nobody_knows,
    ) -> None:
        self.node = node
        self.drift_max_ms = drift_max_ms
        self._name = node
        self._is_right = is_right
        self._returns = 0
        self._behind_from_ms: int | None = None
        self._ms = last.ms
        self._counter = last.counter

    @property
    def last(self) -> Stamp:
        """The latest stamp that was given or received."""
        return Stamp(self._ms, self._counter, self._name)

    def now(self, wall_ms: int) -> Stamp:
        """A stamp later than every one before, unless the clock has gone back with it."""
        self._look_back(wall_ms)
        if self._ms < wall_ms <= MS_MAX:
            self._ms, self._counter = wall_ms, 0
        else:
            self._count()
        return Stamp(self._ms, self._counter, self._name)

    def go_on_from(self, own: Stamp) -> None:
        """Later stamps are later than this one, which this node gave or believed before."""
        if (own.ms, own.counter) > (self._ms, self._counter):
            self._ms, self._counter = own.ms, own.counter

    def receive(self, remote: Stamp, wall_ms: int) -> Stamp:
        """A stamp later than `remote` too. Raises Drift when that is more than `drift_max_ms` ahead of all we know."""
        self._look_back(wall_ms)
        known_ms = max(self._ms, wall_ms) + self.drift_max_ms
        bound_ms = known_ms if wall_ms >= SET_FROM_MS else max(known_ms, UNSET_BELIEVES_MS)
        if remote.ms > bound_ms or remote.ms >= MS_MAX or not 0 <= remote.counter <= COUNTER_MAX:
            raise Drift(f"the stamp {remote} is {remote.ms - max(self._ms, wall_ms)} ms ahead of this node")
        if (remote.ms, remote.counter) > (self._ms, self._counter):
            self._ms, self._counter = remote.ms, remote.counter
        return self.now(wall_ms)

    def _look_back(self, wall_ms: int) -> None:
        """Go back to the wall clock when it is right, and what was stamped wrong."""
        if wall_ms < SET_FROM_MS or self._ms - wall_ms <= self.drift_max_ms:
            self._behind_from_ms = None
            return
        if self._behind_from_ms is None or wall_ms < self._behind_from_ms:
            self._behind_from_ms = wall_ms
        if wall_ms - self._behind_from_ms >= PATIENCE_MS or self._is_right():
            self._returns += 1
            self._name = f"{self.node}.{wall_ms:x}.{self._returns}"
            self._ms, self._counter = wall_ms - 1, COUNTER_MAX
            self._behind_from_ms = None

    def _count(self) -> None:
        if self._counter < COUNTER_MAX:
            self._counter += 1
        else:
            self._ms, self._counter = self._ms + 1, 0
