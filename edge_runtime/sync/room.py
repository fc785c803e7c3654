"""What has to go when a route is full and something new comes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from edge_runtime.model.ports import RouteSettings
from edge_runtime.store.outbox import Head, RouteStore

# Dropped beyond what is needed, if small enough: else at the limit every append would have to drop.
_SPARE: Final = 256  # a 256th of the limit
_AT_ONCE: Final = 64

_Read = Callable[[int], Sequence[Head]]


def make_room(
    store: RouteStore, settings: RouteSettings, needed: int, priority: int, may_go: Callable[[Head], bool]
) -> list[Head] | None:
    """Entries of at least `needed` bytes that may go for one of `priority`; None when they are too few."""
    heads: list[Head] = []
    for read in _sources(store, settings, priority):
        needed = _choose(heads, read, store.base, needed, settings.bytes_max // _SPARE, may_go)
        if needed <= 0:
            return heads
    return None


def _sources(store: RouteStore, settings: RouteSettings, priority: int) -> Sequence[_Read]:
    """Where to look, in this order: at all entries, or at one priority after the other up to the new entry's."""
    if settings.when_full == "refuse":
        return ()
    if settings.when_full == "drop-oldest":
        return (lambda start: store.read(start, store.top, _AT_ONCE),)

    def lowest(rank: int) -> _Read:
        own = None if rank == settings.priority else rank
        return lambda start: store.lowest(own, start, _AT_ONCE)

    return [lowest(rank) for rank in range(priority + 1)]


def _choose(heads: list[Head], read: _Read, start: int, needed: int, spare: int, may_go: Callable[[Head], bool]) -> int:
    """Add the oldest that may go; how many bytes are needed still."""
    while True:
        found = read(start)
        for head in found:
            if needed <= 0 and (head.size - needed > spare or len(heads) >= _AT_ONCE):
                return needed
            if may_go(head):
                heads.append(head)
                needed -= head.size
        if len(found) < _AT_ONCE or needed <= 0:
            return needed
        start = found[-1].id + 1
