"""What a route sends next, decided without a clock, a disk or a task.

Entries of one key are sent one after the other, many keys at a time. The plan holds a window of what lies on disk, the
oldest first. A key that fails waits, and so does a key of which the window holds its share: what comes behind it is
passed over (`skipped_from` says from where on), so that however much waits for one key, the others are found. When
such a key has room again its entries are read once more from there. Waiting keys hold nothing but their first entry.

What becomes of a key is in `NEXT`, one row a state and event. Times are milliseconds; chance is an argument.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from edge_runtime.model.ports import Backoff

SCAN_MAX: Final = 4096  # places that one reading of the disk may pass
READ_MAX: Final = 32  # entries that it may find; some 20 µs each, in which no local call is served
KEYS_MAX: Final = 1024  # keys that are held at once; with so many waiting, what lies behind them waits too
WINDOW: Final = 512  # shared out among the keys that can be in flight at once


class State(enum.Enum):
    """Of a key."""

    READY = enum.auto()  # its first entry may be sent
    FLYING = enum.auto()  # it is being sent
    WAITING = enum.auto()  # it failed, and its pause is not over


class Event(enum.Enum):
    """What happens to the first entry of a key."""

    TAKEN = enum.auto()
    DELIVERED = enum.auto()
    REJECTED = enum.auto()  # refused for good
    FAILED = enum.auto()
    EXHAUSTED = enum.auto()  # failed for the last time that is allowed
    UNREACHABLE = enum.auto()
    RELEASED = enum.auto()  # the sending was broken off
    DUE = enum.auto()  # the pause is over
    DROPPED = enum.auto()


class Verdict(enum.Enum):
    """What is to be done with the entry."""

    KEEP = enum.auto()
    REMOVE = enum.auto()
    BURY = enum.auto()  # among the dead letters


class Step(NamedTuple):
    """The state that follows, and the verdict. An entry that is not kept makes room for the next of its key."""

    state: State
    verdict: Verdict = Verdict.KEEP


NEXT: Final[Mapping[tuple[State, Event], Step]] = {
    (State.READY, Event.TAKEN): Step(State.FLYING),
    (State.READY, Event.DROPPED): Step(State.READY, Verdict.REMOVE),
    (State.WAITING, Event.DUE): Step(State.READY),
    (State.WAITING, Event.DROPPED): Step(State.READY, Verdict.REMOVE),
    (State.FLYING, Event.DELIVERED): Step(State.READY, Verdict.REMOVE),
    (State.FLYING, Event.REJECTED): Step(State.READY, Verdict.BURY),
    (State.FLYING, Event.EXHAUSTED): Step(State.READY, Verdict.BURY),
    (State.FLYING, Event.FAILED): Step(State.WAITING),
    (State.FLYING, Event.UNREACHABLE): Step(State.READY),
    (State.FLYING, Event.RELEASED): Step(State.READY),
}


class Item(NamedTuple):
    """An entry as the plan knows it. `at` is when it was taken in, on the clock that `now` is read from."""

    sequence: int
    key: str
    size: int
    at: int
    attempts: int = 0


class Read(NamedTuple):
    """Wanted from disk: up to `limit` entries from `start` to before `stop`, of `key`, or of all keys but `without`."""

    start: int
    stop: int
    limit: int
    key: str | None
    without: Sequence[str]


class PlanLimits(NamedTuple):
    """What of a route is in hand at once. `age_max_ms`: nothing older is sent. `attempts_max` None: tried for ever."""

    in_flight_max: int = 16
    in_flight_bytes_max: int = 4 * 2**20
    age_max_ms: int = 7 * 86_400_000
    attempts_max: int | None = None
    retry: Backoff = Backoff()
    keys_max: int = KEYS_MAX

    @property
    def key_window_max(self) -> int:
        """The share of one key."""
        return min(max(WINDOW // self.in_flight_max, 2), 32)

    @property
    def window_max(self) -> int:
        """Filled up when half of it is free: slow keys, all that can be in flight, take less than the other half."""
        return 2 * (self.in_flight_max + 1) * self.key_window_max


def pause_ms(attempts: int, retry: Backoff, chance: float) -> int:
    """The pause after the `attempts`-th failure. `chance` is a number from 0 to 1."""
    pause_s: float = min(retry.most_s, retry.first_s * 2.0 ** min(attempts - 1, 60))
    return round(pause_s * (1 - retry.jitter + 2 * retry.jitter * chance) * 1000)


class _Key:
    """One key's entries in the window, the first of which is the one that counts."""

    __slots__ = ("attempts", "due", "queue", "skipped_from", "state")

    def __init__(self) -> None:
        self.state = State.READY
        self.queue: deque[Item] = deque()
        self.skipped_from: int | None = None  # its entries from there on are on disk, not in the queue
        self.attempts = 0
        self.due = 0


class Plan:
    """One route. `cursor` is how far the disk has been read, `tail` the last entry that lies there."""

    __slots__ = (
        "_flying_bytes",
        "_held",
        "_hungry",
        "_keys",
        "_paused",
        "_ready",
        "_up",
        "_waiting",
        "cursor",
        "expired",
        "flying",
        "limits",
        "tail",
    )

    def __init__(self, start: int, tail: int, limits: PlanLimits) -> None:
        self.limits = limits
        self.cursor = start
        self.tail = tail
        self.flying: dict[int, Item] = {}
        self.expired: list[Item] = []  # found too old; whoever looks takes them out
        self._keys: dict[str, _Key] = {}
        self._ready: list[tuple[int, str]] = []  # heaps; what no longer holds is passed over when it comes up
        self._waiting: list[tuple[int, int, str]] = []
        self._hungry: dict[str, None] = {}  # keys with nothing in their queue and something on disk
        self._paused: dict[str, int] = {}  # keys of which nothing is taken, by how many ask for that
        self._held = 0  # entries of keys that do not wait
        self._flying_bytes = 0
        self._up = False

    # --- the route

    @property
    def is_up(self) -> bool:
        return self._up

    def up(self) -> None:
        """Its other end can be reached."""
        self._up = True

    def down(self) -> None:
        """Nothing is taken until `up`; what is in flight ends as it ends."""
        self._up = False

    # --- reading

    def next_read(self) -> Read | None:
        """What to read from disk now, or None when the window is full, or all is known."""
        room = self.limits.window_max - self._held
        if room <= 0:
            return None
        for name in self._hungry:
            start = self._keys[name].skipped_from
            assert start is not None
            return Read(start, self.cursor, min(room, self.limits.key_window_max), name, ())
        if not self._may_scan():
            return None
        without = [name for name, key in self._keys.items() if key.skipped_from is not None]
        return Read(self.cursor, min(self.cursor + SCAN_MAX, self.tail + 1), min(room, READ_MAX), None, without)

    @property
    def is_empty(self) -> bool:
        """Nothing is held, and nothing is left to read."""
        return not self._keys and not self.flying and self.cursor > self.tail

    @property
    def low(self) -> bool:
        """Is there something to read, and room for it?"""
        return self._held < self.limits.window_max and (bool(self._hungry) or self._may_scan())

    def _may_scan(self) -> bool:
        limits = self.limits
        return self.cursor <= self.tail and self._held * 2 <= limits.window_max and len(self._keys) < limits.keys_max

    def loaded(self, read: Read, items: Sequence[Item], gone: Container[int] = ()) -> list[Item]:
        """The answer to `read`, in order; fewer than its limit are all that there were. What the window has of them.

        `gone` are done with, though the disk still has them. Nothing may have happened since `next_read`.
        """
        behind = items[-1].sequence + 1 if len(items) >= read.limit else read.stop
        found = [item for item in items if item.sequence not in gone and item.sequence not in self.flying]
        if read.key is None:
            self.cursor = behind
            return [item for item in found if self._offer(item)]
        del self._hungry[read.key]
        key = self._keys[read.key]
        key.skipped_from = behind if behind < read.stop else None
        for item in found:
            self._enqueue(key, item)
        self._settle(read.key, key)
        return found

    def _offer(self, item: Item) -> bool:
        key = self._keys.get(item.key)
        if key is None:
            key = self._keys[item.key] = _Key()
        if key.skipped_from is not None:
            return False
        if key.state is State.WAITING or len(key.queue) >= self.limits.key_window_max:
            key.skipped_from = item.sequence
            return False
        self._enqueue(key, item)
        return True

    def _enqueue(self, key: _Key, item: Item) -> None:
        key.queue.append(item)
        self._held += 1
        if len(key.queue) == 1:
            key.attempts = item.attempts
            heappush(self._ready, (item.sequence, item.key))

    # --- sending

    def take(self, now: int) -> Item | None:
        """The entry to send next, or None. The oldest of those that may go is first."""
        self._wake(now)
        limits = self.limits
        while self._up and len(self.flying) < limits.in_flight_max and (found := self._first_ready()) is not None:
            item, key = found
            if self.flying and self._flying_bytes + item.size > limits.in_flight_bytes_max:
                return None
            heappop(self._ready)
            if item.at + limits.age_max_ms > now:
                self._apply(item.key, key, Event.TAKEN)
                self._flying_bytes += item.size
                item = item._replace(attempts=key.attempts)
                self.flying[item.sequence] = item
                return item
            self.expired.append(item)
            self._apply(item.key, key, Event.DROPPED)
        return None

    def has_work(self, now: int) -> bool:
        """Would `take` find something?"""
        self._wake(now)
        return self._up and len(self.flying) < self.limits.in_flight_max and self._first_ready() is not None

    def finish(self, item: Item, event: Event, now: int, chance: float) -> Verdict:
        """What was taken has ended so."""
        del self.flying[item.sequence]
        self._flying_bytes -= item.size
        key = self._keys[item.key]
        if event is Event.FAILED:
            key.attempts += 1
            if self.limits.attempts_max is not None and key.attempts >= self.limits.attempts_max:
                event = Event.EXHAUSTED
            else:
                key.due = now + pause_ms(key.attempts, self.limits.retry, chance)
        elif event is Event.UNREACHABLE:
            self._up = False
        return self._apply(item.key, key, event)

    def next_due(self) -> int | None:
        """When the first pause is over."""
        return self._waiting[0][0] if self._waiting else None

    def hurry(self) -> None:
        """No pause is waited for any longer."""
        waiting = [(sequence, name) for due, sequence, name in self._waiting if self._waits(name, due, sequence)]
        self._waiting = [(0, sequence, name) for sequence, name in waiting]
        heapify(self._waiting)
        for _, name in waiting:
            self._keys[name].due = 0

    def attempts(self) -> list[tuple[int, int]]:
        """(sequence, failed attempts) of the entries that have some."""
        return [(key.queue[0].sequence, key.attempts) for key in self._keys.values() if key.attempts and key.queue]

    # --- changes from outside

    def forget(self, items: Iterable[Item]) -> None:
        """They are on disk no more, and none of them is in flight."""
        for item in items:
            key = self._keys.get(item.key)
            if key is None or not key.queue:
                continue
            if key.queue[0].sequence == item.sequence:
                self._apply(item.key, key, Event.DROPPED)
            else:
                before = len(key.queue)
                key.queue = deque(other for other in key.queue if other.sequence != item.sequence)
                self._held -= before - len(key.queue)

    def pause(self, names: Iterable[str]) -> None:
        """Take nothing of these keys until `go_on`: what was forgotten of them may have to come back, and go first."""
        for name in names:
            self._paused[name] = self._paused.get(name, 0) + 1

    def go_on(self, names: Iterable[str]) -> None:
        """That is known now."""
        for name in names:
            self._paused[name] -= 1
            if not self._paused[name]:
                del self._paused[name]
                key = self._keys.get(name)
                if key is not None and key.state is State.READY and key.queue:
                    heappush(self._ready, (key.queue[0].sequence, name))

    def put_back(self, sequence: int, name: str) -> None:
        """An entry lies on disk again that was gone: it and what is behind it are to be read again."""
        if sequence >= self.cursor:
            return
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = _Key()
        elif key.queue and key.state is not State.FLYING and key.queue[0].sequence > sequence:
            self._evict(key, 0)
            key.state = State.READY
        else:
            self._evict(key, 1)
        start = sequence
        if key.queue and key.queue[0].sequence < sequence:
            start = key.queue[0].sequence + 1
        key.skipped_from = start if key.skipped_from is None else min(start, key.skipped_from)
        self._settle(name, key)

    # --- within

    def _wake(self, now: int) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            due, sequence, name = heappop(self._waiting)
            if self._waits(name, due, sequence):
                self._apply(name, self._keys[name], Event.DUE)

    def _waits(self, name: str, due: int, sequence: int) -> bool:
        """Whether what stands in the heap still holds."""
        key = self._keys.get(name)
        return key is not None and key.state is State.WAITING and key.due == due and key.queue[0].sequence == sequence

    def _first_ready(self) -> tuple[Item, _Key] | None:
        while self._ready:
            sequence, name = self._ready[0]
            key = self._keys.get(name)
            is_first = key is not None and bool(key.queue) and key.queue[0].sequence == sequence
            if is_first and key is not None and key.state is State.READY and name not in self._paused:
                return key.queue[0], key
            heappop(self._ready)
        return None

    def _apply(self, name: str, key: _Key, event: Event) -> Verdict:
        """The row of `NEXT`, and what it means for the window."""
        before = key.state
        key.state, verdict = NEXT[before, event]
        if before is State.WAITING:
            self._held += 1
        if verdict is not Verdict.KEEP:
            key.queue.popleft()
            self._held -= 1
            key.attempts = key.queue[0].attempts if key.queue else 0
        elif key.skipped_from is not None and key.skipped_from < key.queue[0].sequence:
            # An older one came back while this one was in flight: it goes first.
            key.state = State.READY
            self._evict(key, 0)
        if key.state is State.WAITING:
            self._evict(key, 1)
            self._held -= 1
            heappush(self._waiting, (key.due, key.queue[0].sequence, name))
        elif key.state is State.READY:
            self._settle(name, key)
        return verdict

    def _evict(self, key: _Key, keep: int) -> None:
        """Leave on disk what is behind the first `keep` entries of the key."""
        waits = key.state is State.WAITING
        while len(key.queue) > keep:
            last = key.queue.pop().sequence
            key.skipped_from = last if key.skipped_from is None else min(last, key.skipped_from)
            if not (waits and not key.queue and keep == 0):
                self._held -= 1

    def _settle(self, name: str, key: _Key) -> None:
        """A key whose entries have changed: ready, to be read again, or gone."""
        if key.queue:
            if key.state is State.READY:
                heappush(self._ready, (key.queue[0].sequence, name))
        elif key.skipped_from is not None:
            self._hungry[name] = None
        else:
            del self._keys[name]
            self._hungry.pop(name, None)


class Turns:
    """Whose turn it is when several routes want to send and `slots` are all there are.

    The highest priority goes first, the longest wait among equals; every `FAIR_EVERY`-th turn goes to whoever has
    waited longest, so that a busy route of high priority does not stop the others.
    """

    FAIR_EVERY: Final = 8

    __slots__ = ("_free", "_given", "_granted", "_waiting")

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: dict[int, int] = {}  # route -> priority, in the order of asking
        self._granted: dict[int, int] = {}
        self._given = 0

    @property
    def contended(self) -> bool:
        """Does somebody wait?"""
        return bool(self._waiting)

    def ask(self, route: int, priority: int) -> bool:
        """True: send one. False: `give_back` will name the route some time."""
        granted = self._granted.pop(route, 0)
        if granted:
            if granted > 1:
                self._granted[route] = granted - 1
            return True
        if self._free and not self._waiting:
            self._free -= 1
            return True
        self._waiting.setdefault(route, priority)
        return False

    def give_back(self) -> int | None:
        """One was sent. The route whose turn it is now, if any."""
        if not self._waiting:
            self._free += 1
            return None
        self._given += 1
        if self._given % self.FAIR_EVERY == 0:
            route = next(iter(self._waiting))
        else:
            route = max(self._waiting, key=self._waiting.__getitem__)
        del self._waiting[route]
        self._granted[route] = self._granted.get(route, 0) + 1
        return route

    def pass_on(self, route: int, priority: int) -> int | None:
        """The route has sent one and wants to go on. None: it may. Else it waits, and this is whose turn it is."""
        self._waiting.setdefault(route, priority)
        winner = self.give_back()
        if winner == route:
            self.ask(route, priority)
            return None
        return winner

    def withdraw(self, route: int) -> list[int]:
        """The route wants nothing any more; the routes that get what was granted to it."""
        self._waiting.pop(route, None)
        granted = self._granted.pop(route, 0)
        return [winner for winner in (self.give_back() for _ in range(granted)) if winner is not None]
