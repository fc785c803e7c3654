"""The table of a `configuration.sqlite` component, and how its readers hear of writes by other processes.

Each write gives its row a new revision, never one that was used before; an item without a version of its own shows it.
Whoever writes rings the bells beside the file (`log_wakes`), and readers compare what they saw with what is there: so a
write costs nobody anything who does not follow the file, and an item that came and went in between is not told.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from edge_runtime.model.errors import BadMetadata, DriverError
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.store.database import Database, Row
from edge_runtime.store.log_wakes import Bells
from edge_runtime.store.migrations import ByName, Step, has_table, migrate

TABLE: Final = "configuration"
VALUE_BYTES_MAX: Final = 2**20
_KEYS_MAX: Final = 500  # in one statement
_FOLDER: Final = "configuration"

_read_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode


class Entry(NamedTuple):
    """An item, and a mark that is another one after each change."""

    item: ConfigurationItem
    mark: int


class ConfigurationTable:
    """Reads and writes of one table."""

    def __init__(self, database: Database, table: str = TABLE) -> None:
        self.database = database
        self.name = table
        self._columns = f"SELECT key, value, version, metadata, revision FROM {table}"

    @property
    def path(self) -> str:
        return self.database.path

    async def prepare(self) -> None:
        """Make the table when it is not there."""
        if not has_table(self.database.read, self.name):
            await migrate(self.database, [Step(f"configuration table {self.name}", self._create)], ByName())

    def _create(self, connection: sqlite3.Connection) -> None:
        # AUTOINCREMENT: the number of a row that was deleted is not given again.
        connection.execute(
            f"CREATE TABLE {self.name} (revision INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,"
            " value TEXT NOT NULL, version TEXT, metadata TEXT)"
        )

    # --- reads --------------------------------------------------------------------------------------------------------

    async def read(self, keys: Sequence[str] = ()) -> dict[str, Entry]:
        """The entries of these keys that are there, or all of them."""
        if not keys:
            return self._entries(await self.database.read_in_thread(f"{self._columns} ORDER BY key"))
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), _KEYS_MAX):
            some = keys[start : start + _KEYS_MAX]
            marks = ",".join("?" * len(some))
            found |= self._entries(await self.database.fetch(f"{self._columns} WHERE key IN ({marks})", some))
        return found

    def _entries(self, rows: Sequence[Row]) -> dict[str, Entry]:
        return {str(row[0]): Entry(self._item(row), hash(row)) for row in rows}

    def _item(self, row: Row) -> ConfigurationItem:
        _, value, version, metadata, revision = row
        return ConfigurationItem(
            str(value), str(revision if version is None else version), self._metadata(row[0], metadata)
        )

    def _metadata(self, key: str, text: str | None) -> Mapping[str, str]:
        if not text:
            return {}
        try:
            return _read_metadata(text)
        except msgspec.MsgspecError as error:
            raise DriverError(f"store file {self.path}: the metadata of {key!r} cannot be read: {error}") from None

    def data_version(self) -> int:
        """Another number after every change of the file, whoever made it."""
        return int(self.database.read("PRAGMA data_version")[0][0])

    # --- writes -------------------------------------------------------------------------------------------------------

    async def put(self, key: str, item: ConfigurationItem) -> int:
        """Set an item; its revision. Without a version of its own the revision is its version."""
        if not key:
            raise BadMetadata("a configuration item needs a key")
        if len(item.value.encode()) > VALUE_BYTES_MAX:
            raise BadMetadata(f"the value of {key!r} is larger than {VALUE_BYTES_MAX} bytes")
        metadata = msgspec.json.encode(item.metadata).decode() if item.metadata else None
        row = (key, item.value, item.version or None, metadata)
        revision = await self.database.write(partial(self._put, row), size_bytes=len(item.value) + 100)
        ring(self.path)
        return revision

    def _put(self, row: Row, connection: sqlite3.Connection) -> int:
        cursor = connection.execute(
            f"REPLACE INTO {self.name} (key, value, version, metadata) VALUES (?, ?, ?, ?)", row
        )
        return cursor.lastrowid or 0

    async def delete(self, key: str) -> bool:
        """Whether there was such an item."""
        deleted = await self.database.write(partial(self._delete, key))
        if deleted:
            ring(self.path)
        return deleted

    def _delete(self, key: str, connection: sqlite3.Connection) -> bool:
        return connection.execute(f"DELETE FROM {self.name} WHERE key = ?", (key,)).rowcount > 0


def bells(path: str) -> Bells:
    """What wakes those who follow the file."""
    return Bells(path, _FOLDER)


def ring(path: str) -> None:
    """Wake whoever follows the file, in this process or another one."""
    if not os.path.isdir(os.path.join(f"{path}-{_FOLDER}", "bells")):
        return  # nobody has ever followed it
    rung = bells(path)
    try:
        rung.ring()
    finally:
        rung.close()
