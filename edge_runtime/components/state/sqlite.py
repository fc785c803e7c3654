"""state.sqlite: durable state in an SQLite file that Dapr's own driver can open as well."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import DeleteRequest, DriverFailure, Item, Query, QueryResult, SetRequest
from edge_runtime.store.connection import Location, parse_connection_string
from edge_runtime.store.state import StateTable

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext
    from edge_runtime.store.journal import Journal

logger = logging.getLogger("dapr.contrib")

_FIELDS: Final = (
    "connectionString",
    "url",
    "timeout",
    "timeoutInSeconds",
    "busyTimeout",
    "disableWAL",
    "tableName",
    "metadataTableName",
    "cleanupInterval",
    "cleanupIntervalInSeconds",
    "actorStateStore",
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_]+")


class _Settings(NamedTuple):
    where: Location
    timeout_s: float
    table: str
    metadata_table: str
    cleanup_interval_s: float


class SqliteState:
    """The store behind one component."""

    features = frozenset({"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "QUERY_API"})
    transaction_max: int | None = None

    def __init__(self, table: StateTable, timeout_s: float) -> None:
        self._table = table
        self._timeout_s = timeout_s
        # One call less on the way of every request.
        self.get = table.get
        self.set = table.set
        self.delete = table.delete
        self.transact = table.all_or_none

    async def bulk_get(self, keys: Sequence[str]) -> Sequence[tuple[str, Item | None]]:
        """In the order that was asked for."""
        found: list[tuple[str, Item | None]] = []
        for count, key in enumerate(keys):
            if count % 100 == 99:  # others get their turn
                await trio.lowlevel.checkpoint()
            found.append((key, await self._table.get(key)))
        return found

    async def bulk_set(self, requests: Sequence[SetRequest]) -> Sequence[DriverFailure | None]:
        """Each on its own, all in one commit."""
        return await self._table.each(requests)

    async def bulk_delete(self, requests: Sequence[DeleteRequest]) -> Sequence[DriverFailure | None]:
        """Each on its own, all in one commit."""
        return await self._table.each(requests)

    async def query(self, query: Query) -> QueryResult:
        """Stopped after the component's `timeout`."""
        with trio.move_on_after(self._timeout_s):
            return await self._table.query(query)
        raise DriverError(f"the query took longer than {self._timeout_s:g}s; narrow its filter or raise timeout")

    async def keys(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        """Live keys with a prefix, sorted."""
        return await self._table.keys(prefix, after, limit)

    async def open_journal(self, stamp: Callable[[], str], now: Callable[[], float] = time.time) -> Journal:
        """The journal of changes beside the table, for routes that synchronize it; made when first asked for."""
        from edge_runtime.store.journal import open_journal

        return await open_journal(self._table.database, self._table, stamp, now)

    def find_journal(self, now: Callable[[], float] = time.time) -> Journal | None:
        """The journal when there is one, at work or on disk: none is made for who only looks."""
        from edge_runtime.store.journal import find_journal

        return find_journal(self._table.database, self._table, now)

    async def keys_like(self, pattern: str, after: str, limit: int) -> Sequence[str]:
        """Live keys that match an SQL LIKE pattern, sorted."""
        return await self._table.keys_like(pattern, after, limit)


@asynccontextmanager
async def open_sqlite_state(
    context: ComponentContext, now: Callable[[], float] = time.time
) -> AsyncIterator[SqliteState]:
    """The file of the component, with its table; closed when nothing else uses it."""
    settings = _settings(context)
    async with context.databases.lease(settings.where) as database:
        table = StateTable(database, settings.table, settings.metadata_table, now)
        if not settings.where.read_only:
            await table.prepare(cleaned=settings.cleanup_interval_s > 0)
        async with trio.open_nursery() as nursery:
            if settings.cleanup_interval_s > 0:
                nursery.start_soon(_clean_for_ever, context.name, table, settings.cleanup_interval_s)
            yield SqliteState(table, settings.timeout_s)
            nursery.cancel_scope.cancel()


async def _clean_for_ever(name: str, table: StateTable, interval_s: float) -> None:
    while True:
        await trio.sleep(interval_s)
        try:
            removed = await table.clean(interval_s)
        except DriverError as error:
            logger.warning("component %s: expired rows could not be removed: %s", name, error)
        else:
            if removed:
                logger.debug("component %s: removed %d expired rows", name, removed)


def _settings(context: ComponentContext) -> _Settings:
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    timeout_s = fields.duration_s("timeout", 20.0, ("timeoutInSeconds",), minimum_s=1.0)
    where = parse_connection_string(
        fields.text("connectionString", aliases=("url",)),
        context.directory,
        wal=not fields.flag("disableWAL"),
        busy_timeout_s=max(fields.duration_s("busyTimeout", 2.0), 0.0),
    )
    return _Settings(
        where,
        timeout_s,
        _identifier(fields, "tableName", "state"),
        _identifier(fields, "metadataTableName", "metadata"),
        max(fields.duration_s("cleanupInterval", 0.0, ("cleanupIntervalInSeconds",)), 0.0),
    )


def _identifier(fields: Fields, name: str, default: str) -> str:
    value = fields.text(name, default)
    if _IDENTIFIER.fullmatch(value) is None:
        raise fields.error(name, value, "letters, digits and _ only")
    return value
