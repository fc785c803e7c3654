"""The payloads of entries that are about to be sent, read many at a time; of the others nothing is in memory."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.store.outbox import Content, DamagedRecord, Head, RouteStore, open_entry

Found = tuple[Head, Content]


class Payloads:
    """At most about `bytes_max` of one route."""

    def __init__(self, store: RouteStore, bytes_max: int) -> None:
        self._store = store
        self._bytes_max = bytes_max
        self._bytes = 0
        self._found: dict[int, Found] = {}

    def load(self, heads: Sequence[Head]) -> None:
        """As many as there is room for; the others are read when their turn comes."""
        if self._bytes * 2 > self._bytes_max:
            self._found.clear()  # of keys that fail meanwhile, some may never be asked for
            self._bytes = 0
        wanted: list[Head] = []
        room = self._bytes_max - self._bytes
        for head in heads:
            room -= head.size
            if room < 0:
                break
            wanted.append(head)
        if wanted:
            self._read(wanted)

    def _read(self, heads: Sequence[Head]) -> None:
        """What is damaged is left out: it is found again, and reported, when its turn comes."""
        try:
            records = self._store.records([head.id for head in heads])
        except DamagedRecord:
            return
        for head in heads:
            record = records.get(head.id)
            content = None if record is None or head.id in self._found else _open(head, record)
            if content is not None:
                self._found[head.id] = head, content
                self._bytes += head.size

    def forget(self, sequence: int) -> Found | None:
        """What was loaded of an entry, and is no more."""
        found = self._found.pop(sequence, None)
        if found is not None:
            self._bytes -= found[0].size
        return found

    def take(self, sequence: int) -> Found | None:
        """What to send; None when it is damaged, or not there."""
        found = self.forget(sequence)
        if found is not None:
            return found
        heads = self._store.read(sequence, sequence + 1, 1)
        try:
            record = self._store.records((sequence,)).get(sequence)
        except DamagedRecord:
            return None
        content = None if record is None or not heads else _open(heads[0], record)
        return None if content is None else (heads[0], content)


def _open(head: Head, record: bytes) -> Content | None:
    try:
        return open_entry(head, record)
    except DamagedRecord:
        return None
