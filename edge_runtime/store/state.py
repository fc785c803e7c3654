"""The table of a `state.sqlite` component, column for column as Dapr's own driver has it.

Times are the text of SQLite's CURRENT_TIMESTAMP (UTC, whole seconds), so that both drivers compare them alike. JSON is
stored as it came, everything else as base64 with `is_binary`. An expired row is there for nobody but cleanup, and for a
delete that names its etag.
"""

from __future__ import annotations

import binascii
import math
import sqlite3
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edge_runtime.model.errors import BadMetadata, DriverError, EtagMismatch
from edge_runtime.model.ports import DeleteRequest, Item, Query, QueryResult, SetRequest
from edge_runtime.store.database import Database
from edge_runtime.store.migrations import ByCount, Step, has_table, migrate
from edge_runtime.store.query import compile_query, json_at, next_token

if TYPE_CHECKING:
    from edge_runtime.store.journal import Journal

_CLEANUP_ROWS: Final = 500
# Rough bytes of a row beside key and value, for the write queue's limit.
_ROW_BYTES: Final = 120
# The last second that the text form can hold.
_LATEST_S: Final = 253402300799

_is_json = msgspec.json.Decoder(msgspec.Raw).decode

# A statement with its arguments, and the error when it changes nothing.
Change = tuple[str, tuple[Any, ...], str]
# What the journal adds to a change that did change something.
Note = tuple[str, tuple[Any, ...]]


class Tap:
    """What every user of one table shares: the journal of its changes, while a route asks for one."""

    __slots__ = ("journal",)

    def __init__(self) -> None:
        self.journal: Journal | None = None


class StateTable:
    """Reads and writes of one table. `now` is the wall clock, in seconds."""

    def __init__(
        self,
        database: Database,
        table: str = "state",
        metadata_table: str = "metadata",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.database = self._database = database
        self.name = self._table = table
        self._metadata_table = metadata_table
        self._now = now
        self._now_s = 0
        self._now_text = ""
        self._etags = _new_etags()
        self.tap: Tap = database.taps.setdefault(table, Tap())
        database.define("stored_text", 1, _stored_text)
        database.define("json_at", 2, json_at)
        live = "(expiration_time IS NULL OR expiration_time > ?)"
        insert = (
            f"INSERT INTO {table} (key, value, is_binary, etag, update_time, expiration_time) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, is_binary = excluded.is_binary,"
            " etag = excluded.etag, update_time = excluded.update_time, expiration_time = excluded.expiration_time"
        )
        self._get = (
            f"SELECT CAST(value AS BLOB), is_binary, etag, expiration_time FROM {table} WHERE key = ? AND {live}"
        )
        self._set = insert
        self._set_first = f"{insert} WHERE {table}.expiration_time <= excluded.update_time"
        self._set_matching = (
            f"UPDATE {table} SET value = ?, is_binary = ?, etag = ?, update_time = ?, expiration_time = ?"
            f" WHERE key = ? AND etag = ? AND {live}"
        )
        self._delete = f"DELETE FROM {table} WHERE key = ?"
        self._delete_matching = f"DELETE FROM {table} WHERE key = ? AND etag = ?"
        self._keys = f"SELECT key FROM {table} WHERE key >= ? AND key > ? AND substr(key, 1, ?) = ? AND {live}"
        self._keys_like = f"SELECT key FROM {table} WHERE key GLOB ? AND key > ? AND {live} ORDER BY key LIMIT ?"

    async def prepare(self, *, cleaned: bool) -> None:
        """Make the tables when they are not there. `cleaned` adds the index by which expired rows are found."""
        await migrate(self._database, [Step("state table", self._create)], ByCount(self._metadata_table))
        if not has_table(self._database.read, self._table):
            # Another component of the same file, with a table of its own, has left its mark for both.
            await self._database.write(self._create)
        index = f"{self._table}_expiration"
        if cleaned and not self._database.read(
            "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?", (index,)
        ):
            # Partial: rows that never expire have no entry, and cost nothing more to write.
            sql = (
                f"CREATE INDEX IF NOT EXISTS {index} ON {self._table} (expiration_time)"
                " WHERE expiration_time IS NOT NULL"
            )
            await self._database.write(partial(_run, sql, ()))

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL,"
            " is_binary BOOLEAN NOT NULL, etag TEXT NOT NULL, expiration_time TIMESTAMP DEFAULT NULL,"
            " update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )

    # --- one key ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Item | None:
        """The live item under the key."""
        rows = await self._database.fetch(self._get, (key, self.now_text()))
        return item_of(*rows[0]) if rows else None

    async def set(self, request: SetRequest) -> None:
        """Write one row."""
        change = sql, args, mismatch = self._set_change(request)
        size_bytes = len(request.value) + _ROW_BYTES
        journal = self.tap.journal
        if journal is not None and journal.covers(request.key):
            changed = await self._write_noted(journal, request, change, size_bytes)
        else:
            changed = await self._database.write(partial(_run, sql, args), size_bytes=size_bytes, single=True)
        if not changed:
            raise EtagMismatch(mismatch)

    async def delete(self, request: DeleteRequest) -> None:
        """Remove one row."""
        change = sql, args, mismatch = self._delete_change(request)
        journal = self.tap.journal
        if journal is not None and journal.covers(request.key):
            changed = await self._write_noted(journal, request, change, _ROW_BYTES)
        else:
            changed = await self._database.write(partial(_run, sql, args), size_bytes=_ROW_BYTES, single=True)
        if not changed and mismatch:
            raise EtagMismatch(mismatch)

    async def _write_noted(
        self, journal: Journal, request: SetRequest | DeleteRequest, change: Change, size_bytes: int
    ) -> int:
        sql, args, _ = change
        note = self._note(journal, request, args)
        changed = await self._database.write(partial(_run_noted, sql, args, note), size_bytes=size_bytes)
        if changed:
            journal.wake()
        return changed

    def _note(self, journal: Journal, request: SetRequest | DeleteRequest, args: tuple[Any, ...]) -> Note:
        if isinstance(request, DeleteRequest):
            return journal.note(request.key, None, deleted=True)
        return journal.note(request.key, args[4] if request.etag else args[5], deleted=False)

    def _notes(self, requests: Sequence[SetRequest | DeleteRequest], changes: Sequence[Change]) -> list[Note | None]:
        journal = self.tap.journal
        assert journal is not None
        return [
            self._note(journal, request, change[1]) if journal.covers(request.key) else None
            for request, change in zip(requests, changes, strict=True)
        ]

    # --- several keys -------------------------------------------------------------------------------------------------

    async def each(self, requests: Sequence[SetRequest | DeleteRequest]) -> list[Exception | None]:
        """Every change on its own, in one transaction: a mismatch stops none of the others."""
        changes = [self._change(request) for request in requests]
        run: Callable[[sqlite3.Connection], list[Exception | None]] = partial(_run_each, changes)
        if (journal := self.tap.journal) is not None:
            run = partial(_run_each_noted, changes, self._notes(requests, changes))
        failures = await self._database.write(run, size_bytes=_size_bytes(requests))
        if journal is not None:
            journal.wake()
        return failures

    async def all_or_none(self, requests: Sequence[SetRequest | DeleteRequest]) -> None:
        """All changes in their order, or none of them."""
        changes = [self._change(request) for request in requests]
        run: Callable[[sqlite3.Connection], None] = partial(_run_all, changes)
        if (journal := self.tap.journal) is not None:
            run = partial(_run_all_noted, changes, self._notes(requests, changes))
        await self._database.write(run, size_bytes=_size_bytes(requests))
        if journal is not None:
            journal.wake()

    async def keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """Live keys that start with `prefix` and sort after `after`."""
        sql = self._keys
        args: list[Any] = [prefix, after, len(prefix), prefix, self.now_text()]
        if (end := _after_prefix(prefix)) is not None:
            sql += " AND key < ?"
            args.append(end)
        rows = await self._database.read_in_thread(f"{sql} ORDER BY key LIMIT ?", (*args, limit))
        return [row[0] for row in rows]

    async def keys_like(self, pattern: str, after: str, limit: int) -> list[str]:
        """Live keys after `after` that match an SQL LIKE pattern (`%`, `_`, escapes by backslash), case and all."""
        if not pattern:
            raise BadMetadata("a pattern for keys must not be empty")
        args = (like_to_glob(pattern), after, self.now_text(), limit)
        return [row[0] for row in await self._database.read_in_thread(self._keys_like, args)]

    async def query(self, query: Query) -> QueryResult:
        """Live JSON values that match, a page at a time."""
        compiled = compile_query(query, self._table, self.now_text())
        rows = await self._database.read_in_thread(compiled.sql, compiled.args)
        token = ""
        if len(rows) > compiled.limit:
            if query.limit is None:
                raise BadMetadata(f"the query has more than {compiled.limit} results; ask for pages with page.limit")
            rows = rows[: compiled.limit]
            token = next_token(compiled, rows[-1])
        return QueryResult([(row[0], item_of(row[1], 0, row[2], row[3])) for row in rows], token)

    # --- expiry -------------------------------------------------------------------------------------------------------

    async def clean(self, interval_s: float) -> int:
        """Remove expired rows, some at a time, and record when; the number of rows. Writes nothing when there are none.

        Processes that share the file share the work: one that finds the record younger than half the interval leaves.
        """
        removed = 0
        while await self._database.read_in_thread(
            f"SELECT 1 FROM {self._table} WHERE expiration_time <= ? LIMIT 1", (self.now_text(),)
        ):
            count = await self._database.write(partial(self._clean_some, self.now_text(), interval_s, removed == 0))
            removed += count
            if count < _CLEANUP_ROWS:
                break
        return removed

    def _clean_some(self, now_text: str, interval_s: float, first: bool, connection: sqlite3.Connection) -> int:
        if first:
            recent = connection.execute(
                f"SELECT 1 FROM {self._metadata_table} WHERE key = 'last-cleanup'"
                " AND (julianday(?) - julianday(value)) * 86400 BETWEEN 0 AND ?",
                (now_text, interval_s / 2),
            ).fetchall()
            if recent:
                return 0
        connection.execute(f"REPLACE INTO {self._metadata_table} (key, value) VALUES ('last-cleanup', ?)", (now_text,))
        return _run(
            f"DELETE FROM {self._table} WHERE rowid IN"
            f" (SELECT rowid FROM {self._table} WHERE expiration_time <= ? LIMIT ?)",
            (now_text, _CLEANUP_ROWS),
            connection,
        )

    # --- changes ------------------------------------------------------------------------------------------------------

    def _change(self, request: SetRequest | DeleteRequest) -> Change:
        return self._set_change(request) if isinstance(request, SetRequest) else self._delete_change(request)

    def _set_change(self, request: SetRequest) -> Change:
        key, value, etag, first_write, ttl_s, _ = request
        if not key:
            raise BadMetadata("missing key in set operation")
        text, is_binary = _stored(value)
        now_text = self.now_text()
        expires = None if ttl_s is None or ttl_s <= 0 else self._expiry_text(ttl_s)
        if etag:
            args = (text, is_binary, next(self._etags), now_text, expires, key, etag, now_text)
            return (
                self._set_matching,
                args,
                f"key {key!r}: the stored etag is another one than {etag!r}, or there is none",
            )
        row = (key, text, is_binary, next(self._etags), now_text, expires)
        if first_write:
            return self._set_first, row, f"key {key!r} exists already, and the write was to be the first"
        return self._set, row, ""

    def _delete_change(self, request: DeleteRequest) -> Change:
        key, etag, _ = request
        if not key:
            raise BadMetadata("missing key in delete operation")
        if etag:
            mismatch = f"key {key!r}: the stored etag is another one than {etag!r}, or there is none"
            return self._delete_matching, (key, etag), mismatch
        return self._delete, (key,), ""

    def row_statement(self, key: str, value: bytes | None) -> Note:
        """What writes the row, whatever is there; None removes it."""
        if value is None:
            return self._delete, (key,)
        text, is_binary = _stored(value)
        return self._set, (key, text, is_binary, next(self._etags), self.now_text(), None)

    def now_text(self) -> str:
        """The time as CURRENT_TIMESTAMP would say it."""
        now_s = int(self._now())
        if now_s != self._now_s:
            self._now_text = _time_text(now_s)
            self._now_s = now_s
        return self._now_text

    def time_text(self, unix_s: float) -> str:
        """A time as the table has it."""
        return _time_text(unix_s)

    def _expiry_text(self, ttl_s: int) -> str:
        # Rounded up: a value lives at least as long as asked. CURRENT_TIMESTAMP itself is rounded down.
        return _time_text(min(math.ceil(self._now()) + ttl_s, _LATEST_S))


def item_of(value: bytes, is_binary: Any, etag: str, expires: str | None) -> Item:
    """A row as the item that callers know."""
    if is_binary:
        try:
            value = b64decode(value, validate=True)
        except binascii.Error as error:
            raise DriverError(f"a stored value is marked as binary but is no base64: {error}") from error
    if expires is None:
        return Item(value, etag)
    return Item(value, etag, datetime.fromisoformat(expires.removesuffix("Z") + "+00:00").timestamp())


def like_to_glob(pattern: str) -> str:
    """The GLOB that matches what the LIKE pattern matches; LIKE itself would ignore case."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            parts.append("*")
        elif character == "_":
            parts.append("?")
        else:
            plain = next(characters, "\\") if character == "\\" else character
            parts.append(f"[{plain}]" if plain in "*?[" else plain)
    return "".join(parts)


def _stored(value: bytes) -> tuple[str, int]:
    """The column text of a value, and whether it is base64: JSON stays as it is."""
    try:
        _is_json(value)
        return value.decode(), 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return binascii.b2a_base64(value, newline=False).decode("ascii"), 1


def _stored_text(value: str) -> str | None:
    """The text behind a base64 column, for queries over JSON that was saved as bytes; None when it is none."""
    try:
        return b64decode(value, validate=True).decode()
    except ValueError:
        return None


def _run(sql: str, args: tuple[Any, ...], connection: sqlite3.Connection) -> int:
    return connection.execute(sql, args).rowcount


def _run_each(changes: Sequence[Change], connection: sqlite3.Connection) -> list[Exception | None]:
    failures: list[Exception | None] = []
    for sql, args, mismatch in changes:
        changed = connection.execute(sql, args).rowcount
        failures.append(EtagMismatch(mismatch) if mismatch and not changed else None)
    return failures


def _run_all(changes: Sequence[Change], connection: sqlite3.Connection) -> None:
    for sql, args, mismatch in changes:
        if not connection.execute(sql, args).rowcount and mismatch:
            raise EtagMismatch(mismatch)


def _run_noted(sql: str, args: tuple[Any, ...], note: Note, connection: sqlite3.Connection) -> int:
    changed = connection.execute(sql, args).rowcount
    if changed:
        connection.execute(note[0], note[1])
    return changed


def _run_each_noted(
    changes: Sequence[Change], notes: Sequence[Note | None], connection: sqlite3.Connection
) -> list[Exception | None]:
    failures: list[Exception | None] = []
    for (sql, args, mismatch), note in zip(changes, notes, strict=True):
        changed = connection.execute(sql, args).rowcount
        failures.append(EtagMismatch(mismatch) if mismatch and not changed else None)
        if changed and note is not None:
            connection.execute(note[0], note[1])
    return failures


def _run_all_noted(changes: Sequence[Change], notes: Sequence[Note | None], connection: sqlite3.Connection) -> None:
    for (sql, args, mismatch), note in zip(changes, notes, strict=True):
        changed = connection.execute(sql, args).rowcount
        if mismatch and not changed:
            raise EtagMismatch(mismatch)
        if changed and note is not None:
            connection.execute(note[0], note[1])


def _size_bytes(requests: Sequence[SetRequest | DeleteRequest]) -> int:
    values = sum(len(request.value) for request in requests if isinstance(request, SetRequest))
    return values + _ROW_BYTES * len(requests)


def _time_text(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_s))


def _after_prefix(prefix: str) -> str | None:
    """The first text that sorts after everything with the prefix, so that the index ends the search."""
    if not prefix or ord(prefix[-1]) in (0xD7FF, 0x10FFFF):
        return None
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _new_etags() -> Iterator[str]:
    """Random UUIDs (version 4) for ever; the system is asked for 64 at a time."""
    while True:
        pool = urandom(16 * 64).hex()
        for at in range(0, len(pool), 32):
            digits = pool[at : at + 32]
            variant = "89ab"[int(digits[16], 16) & 3]
            yield f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
