"""The conflicts of one app's state stores as its operator sees them, and the changes that a remote refuses for good.

The documents are those of the HTTP API, and of `edge-runtime conflicts` when it reads the file itself. A file may be
shared by several apps: each sees the keys that it could have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from edge_runtime.model.errors import BadMetadata, DriverError, EdgeError, Kind

if TYPE_CHECKING:
    from edge_runtime.blocks.state import State
    from edge_runtime.store.conflicts import Entry
    from edge_runtime.store.journal import Journal

Side = Literal["local", "remote", "base"]
SIDES: Final[Sequence[Side]] = ("local", "remote", "base")
LIMIT_MAX: Final = 1000
# A page ends when its versions have so many bytes; one entry it always has.
PAGE_BYTES: Final = 2**20


class StoreConflicts(NamedTuple):
    """What one state store has. `journal` is None as long as no route has followed its keys.

    `prefix` stands before an app's keys in the store; None shows keys as they are stored, and all of them.
    """

    store: str
    journal: Journal | None
    prefix: str | None

    async def summary(self) -> dict[str, Any]:
        """How many there are."""
        entries = unseen = size = dropped = refused = 0
        if self.journal is not None:
            entries, unseen, size, dropped = await self.journal.inbox.standing(self.prefix)
            refused = await self.journal.refused_count(self.prefix)
        numbers = {"conflicts": entries, "unresolved": unseen, "bytes": size, "dropped": dropped, "refused": refused}
        return {"store": self.store, **numbers}

    async def page(self, after: int, limit: int, *, resolved: bool | None, versions: bool) -> dict[str, Any]:
        """In the order in which they came."""
        found: list[Entry] = []
        if self.journal is not None:
            found = await self.journal.inbox.entries(after, limit + 1, resolved=resolved, prefix=self.prefix)
        kept = _cut([entry.size_bytes for entry in found], limit, versions)
        rows = [self._entry(entry, versions) for entry in found[:kept]]
        return {"store": self.store, "conflicts": rows, "next": found[kept - 1].id if len(found) > kept else None}

    async def entry(self, entry_id: int) -> dict[str, Any]:
        """One of them, with its versions. Raises EdgeError."""
        return self._entry(await self._find(entry_id), versions=True)

    async def resolve(self, ids: Sequence[int] | None, use: Side | None) -> int:
        """Mark them as looked at, and with `use` write that version back; how many. None is all that are open."""
        if ids is None:
            return await self._resolve_all(use)
        for entry_id in ids:
            await self._find(entry_id)
        return await self._resolve(ids, use)

    async def refused(self, after: str, limit: int) -> dict[str, Any]:
        """The keys whose newest change the remote will not take, sorted."""
        from edge_runtime.sync.ask_app import moment

        found = []
        if self.journal is not None:
            start = (self.prefix or "") + after if after else ""
            found = await self.journal.refused(start, limit + 1, self.prefix)
        rows = [{"key": self._key(one.key), "reason": one.reason, "at": moment(one.stamp)} for one in found[:limit]]
        return {"store": self.store, "refused": rows, "next": rows[-1]["key"] if len(found) > limit else None}

    async def retry(self, keys: Sequence[str] | None) -> int:
        """Let them be tried again; how many. None is all of them."""
        if self.journal is None:
            return 0
        stored = None if keys is None else [(self.prefix or "") + key for key in keys]
        return await self.journal.retry_refused(stored, self.prefix)

    async def _find(self, entry_id: int) -> Entry:
        entry = None if self.journal is None else await self.journal.inbox.get(entry_id, self.prefix)
        if entry is None:
            text = f"conflict {entry_id} of {self.store!r} is not found; list the conflicts to see what there is"
            raise EdgeError(Kind.EDGE_CONFLICT_NOT_FOUND, text)
        return entry

    async def _resolve_all(self, use: Side | None) -> int:
        count, after = 0, 0
        while self.journal is not None:
            found = await self.journal.inbox.entries(after, 100, resolved=False, prefix=self.prefix)
            if not found:
                break
            after = found[-1].id
            count += await self._resolve([entry.id for entry in found if use is None or _has(entry, use)], use)
        return count

    async def _resolve(self, ids: Sequence[int], use: Side | None) -> int:
        assert self.journal is not None
        if use is None:
            return await self.journal.inbox.resolve(ids)
        for entry_id in ids:
            await self.journal.inbox.restore(entry_id, use)
        return len(ids)

    def _key(self, stored: str) -> str:
        return stored.removeprefix(self.prefix or "")

    def _entry(self, entry: Entry, versions: bool) -> dict[str, Any]:
        from edge_runtime.sync.ask_app import version_document

        dispute = entry.dispute
        row = {
            "id": entry.id,
            "key": self._key(entry.key),
            "at": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds"),
            "policy": dispute.policy,
            "outcome": dispute.outcome,
            "losers": list(dispute.losers),
            "paths": list(dispute.paths),
            "resolved": entry.resolved,
            "size": entry.size_bytes,
        }
        if entry.damaged:
            row["damaged"] = True
        elif versions:
            row["base"] = None if dispute.base is None else version_document(dispute.base)
            row["local"] = version_document(dispute.local, dispute.local_stamp)
            row["remote"] = version_document(dispute.remote, dispute.remote_stamp)
        return row


def _has(entry: Entry, use: Side) -> bool:
    """Is there such a version to restore?"""
    return not entry.damaged and (use != "base" or entry.dispute.base is not None)


def _cut(sizes: Sequence[int], limit: int, versions: bool) -> int:
    """How many of them make the page."""
    total = 0
    for count, size in enumerate(sizes[:limit]):
        total += size
        if versions and total > PAGE_BYTES and count:
            return count
    return min(len(sizes), limit)


class AppConflicts:
    """What one app may see and change: the state stores of these names."""

    def __init__(self, state: State, names: Sequence[str]) -> None:
        self._state = state
        self._names = names

    async def stores(self) -> dict[str, Any]:
        """Each store that can have any."""
        with _failures("reading"):
            return {"stores": [await self.store(name).summary() for name in self._names]}

    def store(self, name: str) -> StoreConflicts:
        """Raises EdgeError."""
        guarded = self._state.require(name)
        if name not in self._names:
            text = f"{name!r} has no conflicts: only keys of a state.sqlite store can be followed"
            raise EdgeError(Kind.EDGE_CONFLICT_NOT_FOUND, text)
        driver: Any = guarded.store
        return StoreConflicts(name, driver.find_journal(), guarded.prefix)

    async def page(self, name: str, after: int, limit: int, **which: Any) -> dict[str, Any]:
        with _failures("reading"):
            return await self.store(name).page(after, limit, **which)

    async def entry(self, name: str, entry_id: int) -> dict[str, Any]:
        with _failures("reading"):
            return await self.store(name).entry(entry_id)

    async def resolve(self, name: str, ids: Sequence[int] | None, use: Side | None) -> int:
        with _failures("changing"):
            return await self.store(name).resolve(ids, use)

    async def refused(self, name: str, after: str, limit: int) -> Mapping[str, Any]:
        with _failures("reading"):
            return await self.store(name).refused(after, limit)

    async def retry(self, name: str, keys: Sequence[str] | None) -> int:
        with _failures("changing"):
            return await self.store(name).retry(keys)


@contextmanager
def _failures(doing: str) -> Iterator[None]:
    try:
        yield
    except BadMetadata as error:
        raise EdgeError(Kind.BAD_REQUEST, str(error)) from error
    except DriverError as error:
        raise EdgeError(Kind.EDGE_CONFLICTS, f"failed {doing} the conflicts: {error}") from error
