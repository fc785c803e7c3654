"""state.in-memory: state that lasts as long as the process."""

from __future__ import annotations

import heapq
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import BadMetadata, EtagMismatch, NotSupported, Overloaded
from edge_runtime.model.ports import DeleteRequest, DriverFailure, Item, Query, QueryResult, SetRequest

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

logger = logging.getLogger("dapr.contrib")

_BYTES_MAX: Final = 64 * 1024 * 1024
# What a key costs beside its text and value, roughly: the objects and the place in the dictionary.
_ITEM_BYTES: Final = 300

_Change = SetRequest | DeleteRequest


class MemoryState:
    """A dictionary with etags and expiry. `now` is the wall clock, in seconds."""

    features = frozenset({"ETAG", "TRANSACTIONAL", "TTL", "DELETE_WITH_PREFIX", "KEYS_LIKE"})
    transaction_max: int | None = None

    def __init__(self, bytes_max: int, now: Callable[[], float]) -> None:
        self._items: dict[str, Item] = {}
        self._bytes = 0
        self._bytes_max = bytes_max
        self._now = now
        self._expiries: list[tuple[float, str]] = []  # a heap; a key that was written again may stand here in vain
        self._earlier = trio.Event()

    async def get(self, key: str) -> Item | None:
        """The live item under the key."""
        return self._live(key)

    async def bulk_get(self, keys: Sequence[str]) -> Sequence[tuple[str, Item | None]]:
        """In the order that was asked for."""
        return [(key, self._live(key)) for key in keys]

    async def set(self, request: SetRequest) -> None:
        """Write one item."""
        self._check(request, self._live)
        self._apply(request)

    async def delete(self, request: DeleteRequest) -> None:
        """Remove one item."""
        self._check(request, self._live)
        self._apply(request)

    async def bulk_set(self, requests: Sequence[SetRequest]) -> Sequence[DriverFailure | None]:
        """Each on its own."""
        return [self._attempt(request) for request in requests]

    async def bulk_delete(self, requests: Sequence[DeleteRequest]) -> Sequence[DriverFailure | None]:
        """Each on its own."""
        return [self._attempt(request) for request in requests]

    async def transact(self, operations: Sequence[SetRequest | DeleteRequest]) -> None:
        """All or none, in order: tried on the side first, so that nothing has to be undone."""
        pending: dict[str, Item | None] = {}
        added_bytes = 0

        def seen(key: str) -> Item | None:
            return pending[key] if key in pending else self._live(key)

        for operation in operations:
            before = seen(operation.key)
            self._check(operation, seen, added_bytes)
            after = self._item(operation) if isinstance(operation, SetRequest) else None
            added_bytes += _size(operation.key, after) - _size(operation.key, before)
            pending[operation.key] = after
        for key, item in pending.items():
            self._put(key, item)

    async def query(self, query: Query) -> QueryResult:
        """This store cannot be queried."""
        raise NotSupported("state.in-memory has no queries; use state.sqlite")

    async def keys(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        """Live keys with a prefix, sorted."""
        return self._some_keys(lambda key: key.startswith(prefix), after, limit)

    async def keys_like(self, pattern: str, after: str, limit: int) -> Sequence[str]:
        """Live keys that match an SQL LIKE pattern, sorted."""
        if not pattern:
            raise BadMetadata("a pattern for keys must not be empty")
        matches = re.compile("".join(_like_parts(pattern)), re.DOTALL).fullmatch
        return self._some_keys(lambda key: matches(key) is not None, after, limit)

    async def delete_with_prefix(self, prefix: str) -> int:
        """Remove `prefix||x` for every x, but not `prefix||y||z`; the number of items."""
        if prefix in ("", "||"):
            raise BadMetadata("a prefix for deleting must not be empty")
        start = prefix if prefix.endswith("||") else f"{prefix}||"
        doomed = [key for key in self._items if key.startswith(start) and "||" not in key[len(start) :]]
        for key in doomed:
            self._put(key, None)
        return len(doomed)

    async def purge(self) -> None:
        """Forget what has expired, for ever; asleep while nothing is going to."""
        while True:
            if not self._expiries:
                self._earlier = trio.Event()
                await self._earlier.wait()
                continue
            # At most a second at a time, as the wall clock may jump.
            await trio.sleep(min(max(self._expiries[0][0] - self._now(), 0.0) + 0.001, 1.0))
            self._drop_expired()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _drop_expired(self) -> None:
        now = self._now()
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, key = heapq.heappop(self._expiries)
            item = self._items.get(key)
            if item is not None and item.expires_at == expires_at:
                self._put(key, None)

    def _live(self, key: str) -> Item | None:
        item = self._items.get(key)
        if item is not None and item.expires_at is not None and item.expires_at <= self._now():
            return None
        return item

    def _check(self, change: _Change, seen: Callable[[str], Item | None], added_bytes: int = 0) -> None:
        """Raise what forbids the change: its etag, first-write, or the limit."""
        key = change.key
        if not key:
            raise BadMetadata("missing key")
        found = seen(key)
        if change.etag:
            if found is None or found.etag != change.etag:
                raise EtagMismatch(
                    f"key {key!r}: the stored etag is another one than {change.etag!r}, or there is none"
                )
        elif isinstance(change, SetRequest) and change.first_write and found is not None:
            raise EtagMismatch(f"key {key!r} exists already, and the write was to be the first")
        if isinstance(change, SetRequest):
            size = self._bytes + added_bytes - _size(key, found) + len(change.value) + len(key) + _ITEM_BYTES
            if size > self._bytes_max:
                raise Overloaded(
                    f"state.in-memory holds {self._bytes_max} bytes at most; raise maxBytes, delete keys or set a ttl"
                )

    def _attempt(self, change: _Change) -> Exception | None:
        try:
            self._check(change, self._live)
        except (EtagMismatch, BadMetadata, Overloaded) as error:
            return error
        self._apply(change)
        return None

    def _apply(self, change: _Change) -> None:
        self._put(change.key, self._item(change) if isinstance(change, SetRequest) else None)

    def _item(self, request: SetRequest) -> Item:
        ttl_s = request.ttl_s
        expires_at = self._now() + ttl_s if ttl_s is not None and ttl_s > 0 else None
        return Item(request.value, str(uuid.uuid4()), expires_at)

    def _put(self, key: str, item: Item | None) -> None:
        before = self._items.pop(key, None)
        self._bytes += _size(key, item) - _size(key, before)
        if item is None:
            return
        self._items[key] = item
        if item.expires_at is not None:
            heapq.heappush(self._expiries, (item.expires_at, key))
            self._earlier.set()
            if len(self._expiries) > 2 * len(self._items) + 1000:
                self._forget_stale_expiries()

    def _forget_stale_expiries(self) -> None:
        self._expiries = [(item.expires_at, key) for key, item in self._items.items() if item.expires_at is not None]
        heapq.heapify(self._expiries)

    def _some_keys(self, fits: Callable[[str], bool], after: str, limit: int) -> list[str]:
        found = (key for key in self._items if key > after and fits(key) and self._live(key) is not None)
        return heapq.nsmallest(limit, found)


@asynccontextmanager
async def open_memory_state(
    context: ComponentContext, now: Callable[[], float] = time.time
) -> AsyncIterator[MemoryState]:
    """A store that lasts as long as the block it is opened for."""
    fields = Fields(context.metadata, ("maxBytes",), context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    store = MemoryState(fields.size_bytes("maxBytes", _BYTES_MAX, minimum=1), now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.purge)
        yield store
        nursery.cancel_scope.cancel()


def _size(key: str, item: Item | None) -> int:
    return 0 if item is None else len(item.value) + len(key) + _ITEM_BYTES


def _like_parts(pattern: str) -> Iterator[str]:
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            yield ".*"
        elif character == "_":
            yield "."
        else:
            yield re.escape(next(characters, "\\") if character == "\\" else character)
