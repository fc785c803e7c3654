"""configuration.sqlite: settings in an SQLite file, written by `edge-runtime config` or by any program that has SQLite.

Nothing is written here but the table once. While somebody follows the file, a bell beside it tells of writes by the
command line at once; other programs ring no bell, so a look at the file's version number finds what they wrote.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import ConfigurationHandler, ConfigurationItem
from edge_runtime.store.configuration import TABLE, ConfigurationTable, bells
from edge_runtime.store.connection import Location, parse_connection_string

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext
    from edge_runtime.store.configuration_mirror import ConfigurationMirror
    from edge_runtime.store.log_wakes import Bells

logger: Final = logging.getLogger("dapr.contrib")

_FIELDS: Final = (
    "connectionString",
    "url",
    "busyTimeout",
    "disableWAL",
    "tableName",
    "pollInterval",
    "openOnUse",
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_]+")
_POLL_S: Final = 5.0
_POLL_WITHOUT_BELL_S: Final = 1.0
_DELETED: Final = ConfigurationItem("")


class _Settings(NamedTuple):
    where: Location
    table: str
    poll_s: float
    on_use: bool


class SqliteConfiguration:
    """The store behind one component."""

    features: frozenset[str] = frozenset()

    def __init__(self, context: ComponentContext, settings: _Settings, stack: AsyncExitStack) -> None:
        self._databases = context.databases
        self._name = context.name
        self._settings = settings
        self._stack = stack
        self._opening = trio.Lock()
        self._table: ConfigurationTable | None = None
        self._changes = _Changes(context.name, settings)
        self.changes = self._changes.serve

    async def open(self) -> ConfigurationTable:
        """The file with its table, opened by whoever comes first."""
        async with self._opening:
            if self._table is None:
                database = await self._stack.enter_async_context(self._databases.lease(self._settings.where))
                table = ConfigurationTable(database, self._settings.table)
                if not self._settings.where.read_only:
                    await table.prepare()
                self._table = table
        return self._table

    @property
    def place(self) -> tuple[str, str]:
        """Its file and its table."""
        return self._settings.where.path, self._settings.table

    async def mirror(self, route: str) -> ConfigurationMirror:
        """What a cloud link's route brings into the table."""
        from edge_runtime.store.configuration_mirror import ConfigurationMirror

        table = await self.open()
        mirror = ConfigurationMirror(table, route)
        await mirror.prepare()
        return mirror

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> Mapping[str, ConfigurationItem]:
        table = self._table or await self.open()
        return {key: entry.item for key, entry in (await table.read(keys)).items()}

    async def subscribe(
        self, keys: Sequence[str], metadata: Mapping[str, str], handler: ConfigurationHandler, *, task_status: Any
    ) -> None:
        """Tell what is another item than before; an item that is gone has an empty value."""
        table = self._table or await self.open()
        async with self._changes.followed(table):
            at = self._changes.number
            seen = {key: entry.mark for key, entry in (await table.read(keys)).items()}
            task_status.started()
            while True:
                at = await self._changes.after(at)
                entries = await table.read(keys)
                changed = {key: entry.item for key, entry in entries.items() if seen.get(key) != entry.mark}
                changed |= {key: _DELETED for key in seen if key not in entries}
                seen = {key: entry.mark for key, entry in entries.items()}
                if changed:
                    await handler(changed)


class _Changes:
    """Counts the changes of the file while somebody follows it. One task listens, for all who do."""

    def __init__(self, name: str, settings: _Settings) -> None:
        self._name = name
        self._settings = settings
        self._followers = 0
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._changed = trio.Event()
        self.number = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def followed(self, table: ConfigurationTable) -> AsyncIterator[None]:
        """While the block lasts, every later change has a higher number."""
        assert self._nursery is not None
        self._followers += 1
        if self._followers == 1:
            self._scope = trio.CancelScope()
            bell = self._hang_bell(table.path)
            self._nursery.start_soon(self._listen, table, table.data_version(), bell, self._scope)
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._scope.cancel()

    async def after(self, number: int) -> int:
        """Wait for a change after that one; the number of the last."""
        while self.number == number:
            await self._changed.wait()
        return self.number

    def _hang_bell(self, path: str) -> Bells | None:
        try:
            bell = bells(path)
            bell.hang()
        except OSError as error:
            logger.warning("component %s: changes of %s are looked for from time to time: %s", self._name, path, error)
            return None
        return bell

    async def _listen(
        self, table: ConfigurationTable, version: int, bell: Bells | None, scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                while True:
                    await self._until_due(bell)
                    try:
                        found = table.data_version()
                    except DriverError as error:
                        logger.warning("component %s: %s", self._name, error)
                        continue
                    if found != version:
                        version = found
                        self.number += 1
                        self._changed.set()
                        self._changed = trio.Event()
        finally:
            if bell is not None:
                bell.close()

    async def _until_due(self, bell: Bells | None) -> None:
        if bell is None:
            await trio.sleep(_POLL_WITHOUT_BELL_S)
        elif self._settings.poll_s <= 0:
            await bell.hear()
        else:
            with trio.move_on_after(self._settings.poll_s):
                await bell.hear()


@asynccontextmanager
async def open_sqlite_configuration(context: ComponentContext) -> AsyncIterator[SqliteConfiguration]:
    """The store over the component's file, opened now or, with `openOnUse`, by the first who asks for something."""
    settings = _settings(context)
    async with AsyncExitStack() as stack:
        store = SqliteConfiguration(context, settings, stack)
        if not settings.on_use:
            await store.open()
        async with store.changes():
            yield store


def _settings(context: ComponentContext) -> _Settings:
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    text = fields.text("connectionString", aliases=("url",))
    where = parse_connection_string(
        text,
        context.directory,
        wal=not fields.flag("disableWAL"),
        busy_timeout_s=max(fields.duration_s("busyTimeout", 2.0), 0.0),
    )
    if where.memory:
        raise fields.error("connectionString", text, "a file; in memory nobody could ever set anything")
    table = fields.text("tableName", TABLE)
    if _IDENTIFIER.fullmatch(table) is None:
        raise fields.error("tableName", table, "letters, digits and _ only")
    return _Settings(where, table, fields.duration_s("pollInterval", _POLL_S), fields.flag("openOnUse"))
