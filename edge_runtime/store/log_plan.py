"""What one consumer group does next, decided without a clock, a file or a task.

A group's place in the log is one number and a short list: every offset below `next` has been taken from the log, and
those of them that are not done yet are `in_hand`, each with the times it was delivered. So what may be forgotten is
everything below the smallest one in hand, an acknowledgement out of order costs nothing, and one bad message keeps
nothing else back. Messages that share a key (all of them, when the group is strict) form a queue: only its head is
ready, and the rest waits until the head is done.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush

STRICT_KEY = ""


class Plan:
    """The offsets that one group has in hand. `in_hand_max` bounds them; at the bound nothing new is taken."""

    __slots__ = ("_again", "_key_of", "_keys", "_ready", "in_hand", "in_hand_max", "next", "strict", "taken")

    def __init__(self, next_offset: int, *, strict: bool, in_hand_max: int) -> None:
        self.next = next_offset
        self.strict = strict
        self.in_hand_max = in_hand_max
        self.in_hand: dict[int, int] = {}  # offset -> times delivered
        self.taken: set[int] = set()  # being handled now
        self._ready: list[int] = []  # a heap: the lowest offset goes first
        self._again: list[tuple[float, int]] = []  # a heap of (due, offset)
        self._keys: dict[str, deque[int]] = {}  # the queue of each key that is busy, head first
        self._key_of: dict[int, str] = {}

    @property
    def cursor(self) -> int:
        """Every offset below is done."""
        return min(self.in_hand, default=self.next)

    @property
    def room(self) -> bool:
        """May another message be taken from the log? A strict group takes one at a time."""
        return not self.in_hand if self.strict else len(self.in_hand) < self.in_hand_max

    def offer(self, offset: int, key: str | None, attempts: int = 0) -> None:
        """Take `offset` from the log; offsets come in rising order. Offsets left out are treated as done."""
        if offset >= self.next:
            self.next = offset + 1
        self.in_hand[offset] = attempts
        if self.strict:
            key = STRICT_KEY
        if key is not None:
            self._key_of[offset] = key
            queue = self._keys.get(key)
            if queue is not None:
                queue.append(offset)
                return
            self._keys[key] = deque((offset,))
        heappush(self._ready, offset)

    def skip_to(self, offset: int) -> None:
        """The log no longer has what is below `offset`, or the group does not want it."""
        self.next = max(self.next, offset)

    def take(self, now: float) -> int | None:
        """The offset to deliver next, or None. What is due again goes before what is new."""
        if self._again and self._again[0][0] <= now:
            offset = heappop(self._again)[1]
        elif self._ready:
            offset = heappop(self._ready)
        else:
            return None
        self.in_hand[offset] += 1
        self.taken.add(offset)
        return offset

    def done(self, offset: int) -> None:
        """Delivered and acknowledged, or given up."""
        self.taken.discard(offset)
        del self.in_hand[offset]
        key = self._key_of.pop(offset, None)
        if key is not None:
            queue = self._keys[key]
            queue.popleft()
            if queue:
                heappush(self._ready, queue[0])
            else:
                del self._keys[key]

    def again(self, offset: int, due: float) -> None:
        """Delivered and refused; comes back at `due`. Its key stays busy."""
        self.taken.discard(offset)
        heappush(self._again, (due, offset))

    def release(self, offset: int) -> None:
        """Delivery was broken off: ready for whoever asks next."""
        self.taken.discard(offset)
        heappush(self._ready, offset)

    def has_work(self, now: float) -> bool:
        """Would `take` give something?"""
        return bool(self._ready) or bool(self._again and self._again[0][0] <= now)

    def next_due(self) -> float | None:
        """When the first refused message comes back."""
        return self._again[0][0] if self._again else None


def encode_in_hand(in_hand: Iterable[tuple[int, int]], next_offset: int) -> bytes | None:
    """(offset, attempts) pairs as steps from each to the next; None when there are none, to keep the row small."""
    steps: list[int] = []
    last = next_offset
    for offset, attempts in sorted(in_hand, reverse=True):
        steps += (last - offset, attempts)
        last = offset
    return json.dumps(steps, separators=(",", ":")).encode() if steps else None


def decode_in_hand(text: bytes | None, next_offset: int) -> list[tuple[int, int]]:
    """What `encode_in_hand` wrote, lowest offset first. Raises ValueError."""
    if text is None:
        return []
    steps = json.loads(text)
    if not isinstance(steps, list) or len(steps) % 2 or not all(type(step) is int and step >= 0 for step in steps):
        raise ValueError("expected a list of whole numbers in pairs")
    pairs = []
    offset = next_offset
    for step, attempts in zip(steps[::2], steps[1::2], strict=True):
        offset -= step
        pairs.append((offset, attempts))
    return pairs[::-1]


def redeliver_after_s(attempt: int, first_s: float, most_s: float, jitter: float) -> float:
    """The pause after the `attempt`-th failed delivery: doubling, at most `most_s`, give or take a fifth.

    `jitter` is a number from 0 to 1.
    """
    pause_s: float = min(most_s, first_s * 2 ** min(attempt - 1, 30))
    return pause_s * (0.8 + 0.4 * jitter)
