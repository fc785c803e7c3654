"""What a route is done with and the disk still has: sent, given up or dropped, removed together after a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge_runtime.store.outbox import Burial, Head, Removal, RouteStore, entry_size


class Leavings:
    """Nothing in here is sent again, unless the process ends before it is removed."""

    def __init__(self, store: RouteStore) -> None:
        self._store = store
        self._sent: list[int] = []
        self._buried: list[Burial] = []
        self._dropped: dict[str, list[Head]] = {}
        self.said: dict[int, Mapping[str, Any]] = {}  # what came of those that were sent, as far as that is kept
        self.said_bytes = 0  # about
        self.gone: set[int] = set()  # all of them, and what makes room for an entry that is on its way to the disk

    def __len__(self) -> int:
        return len(self.gone)

    def __contains__(self, head: Head) -> bool:
        return head.id in self.gone

    def sent(self, sequence: int, said: Mapping[str, Any] | None = None) -> None:
        """Delivered; `said` is what came of it."""
        self.gone.add(sequence)
        self._sent.append(sequence)
        if said is not None:
            self.said[sequence] = said
            self.said_bytes += entry_size("", said)

    def bury(self, burial: Burial) -> None:
        """Given up."""
        self.gone.add(burial.id)
        self._buried.append(burial)

    def drop(self, reason: str, heads: Sequence[Head]) -> None:
        """Dropped; the ledger is told with the removal."""
        self.gone.update(head.id for head in heads)
        if heads:
            self._dropped.setdefault(reason, []).extend(heads)

    def back(self, heads: Iterable[Head]) -> None:
        """Not gone after all, or removed already."""
        self.gone.difference_update(head.id for head in heads)

    async def remove(self, attempts: Sequence[tuple[int, int]], dead_bytes_max: int) -> list[Head] | None:
        """Remove what there is, in one transaction; dead letters that had to make room. None: there was nothing."""
        removal = Removal(
            self._sent,
            self._buried,
            self._dropped,
            attempts,
            {sequence: self.said[sequence] for sequence in self._sent if sequence in self.said},
        )
        if not (removal.sent or removal.buried or removal.dropped):
            return None
        self._sent, self._buried, self._dropped = [], [], {}
        try:
            trimmed = await self._store.remove(removal, dead_bytes_max)
        except BaseException:
            self._sent += removal.sent
            self._buried += removal.buried
            for reason, heads in removal.dropped.items():
                self.drop(reason, heads)
            raise
        for sequence in removal.said:
            self.said_bytes -= entry_size("", self.said.pop(sequence))
        self.gone.difference_update(removal.sent)
        self.gone.difference_update(burial.id for burial in removal.buried)
        for heads in removal.dropped.values():
            self.back(heads)
        return trimmed
