"""What the outbox holds, for people: of a node that runs, or of a file that is only read.

Nothing here changes anything, and nothing reads more than it was asked for: routes may have a million entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_runtime.store.outbox import Content, DamagedRecord, DeadLetter, Drop, Fate, Head, OutboxStore, open_entry
from edge_runtime.sync.shared import RouteState

if TYPE_CHECKING:
    from edge_runtime.sync.route import OpenRoute

_READ_AT_ONCE: Final = 64


class Trouble(NamedTuple):
    """How often sending an entry has failed, and what was said last; the text lasts as long as the process."""

    attempts: int
    last_error: str


class Look:
    """The routes of one file. `routes` are those that are open; of the others only the file tells."""

    def __init__(self, store: OutboxStore, routes: Mapping[str, OpenRoute] | None = None) -> None:
        self._store = store
        self._routes: Mapping[str, OpenRoute] = {} if routes is None else routes

    @property
    def node(self) -> str:
        """Who this node is, as the ids of entries have it."""
        return self._store.identity.node

    def now(self) -> int:
        """The clock that entries' times are of, in milliseconds."""
        return self._store.now()

    def names(self) -> list[str]:
        """Every route that the file has, open or not."""
        return self._store.names()

    def states(self) -> list[RouteState]:
        """The routes that are open."""
        return [route.state() for route in self._routes.values()]

    def base(self, route: str) -> int:
        """Every sequence of the route lies above; 0 when there is no such route."""
        store = self._store.look(route)
        return 0 if store is None else store.base

    def is_open(self, route: str) -> bool:
        """Somebody sends on it in this process."""
        return route in self._routes

    def state(self, route: str) -> RouteState:
        """A route that the file has, as it stands. One that is not open is not up, without a reason."""
        opened = self._routes.get(route)
        if opened is not None:
            return opened.state()
        store = self._store.look(route)
        if store is None:
            return RouteState(route, False, "", 0, 0, 0, 0.0, 0)
        standing = store.standing()
        age_ms = 0 if standing.oldest_at is None else self.now() - standing.oldest_at
        return RouteState(
            route, False, "", standing.entries, standing.bytes, 0, max(age_ms, 0) / 1000, standing.dead_entries
        )

    def entries(self, route: str, after: int = 0, limit: int = 100) -> list[Head]:
        """What waits, the oldest first, from behind `after` on."""
        store, opened = self._store.look(route), self._routes.get(route)
        found: list[Head] = []
        if store is None:
            return found
        start = max(store.base, after + 1)
        while len(found) < limit:
            heads = store.read(start, store.top, max(limit - len(found), _READ_AT_ONCE))
            if not heads:
                break
            start = heads[-1].id + 1
            found += heads if opened is None else [head for head in heads if not opened.is_done_with(head)]
        return found[:limit]

    def troubles(self, route: str) -> dict[int, Trouble]:
        """Of the entries that were tried by this process in vain, by sequence."""
        opened = self._routes.get(route)
        return {} if opened is None else {entry: Trouble(*said) for entry, said in opened.troubles().items()}

    def contents(self, route: str, heads: Sequence[Head]) -> dict[int, Content | None]:
        """What these entries carry; None for one that is damaged. One that has been sent meanwhile is left out."""
        store = self._store.look(route)
        found: dict[int, Content | None] = {}
        if store is None:
            return found
        for head in heads:
            try:
                for entry, record in store.records([head.id]).items():
                    found[entry] = open_entry(head, record)
            except DamagedRecord:
                found[head.id] = None
        return found

    def dead_letters(self, route: str, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """What was given up, with the reasons."""
        store = self._store.look(route)
        return [] if store is None else store.dead_letters(after, limit)

    def is_sending(self, route: str, sequence: int) -> bool:
        """The entry is on its way at this moment."""
        opened = self._routes.get(route)
        return opened is not None and opened.is_sending(sequence)

    def held(self, route: str, after: int = 0, limit: int = 100) -> list[Head]:
        """What the disk has, also of what is only waiting to be removed from it."""
        store = self._store.look(route)
        return [] if store is None else store.read(max(store.base, after + 1), store.top, limit)

    def said(self, route: str, sequence: int) -> Mapping[str, Any] | None:
        """What came of an entry that was sent, until its removal is on disk."""
        opened = self._routes.get(route)
        return None if opened is None else opened.said(sequence)

    def fates(self, route: str, after: int = 0, limit: int = 100) -> list[Fate]:
        """What became of entries from behind `after` on, of a route that keeps that."""
        store = self._store.look(route)
        return [] if store is None else store.fates(after + 1, limit)

    def ledger(self, route: str | None = None, limit: int = 1000) -> list[Drop]:
        """What was dropped, the newest lines, the oldest of them first."""
        return self._store.ledger(route, limit)

    def dropped(self, route: str) -> dict[str, tuple[int, int]]:
        """(entries, bytes) that a route has lost in its life, by reason."""
        store = self._store.look(route)
        return {} if store is None else store.dropped()
