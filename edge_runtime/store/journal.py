"""The change journal of a state table: which keys of a route were changed here and are not known at the other end yet.

A change is noted in the transaction of the write itself, one row a key: however often a key is written offline, its
newest change is all that waits. The value stays where it is, in the state table; a removal is a row that says so. Keys
that no route covers are never looked at twice, and without routes there is no journal.

Beside it lies the base table: for each key the last version that both ends had. `settle` is how the syncing side
changes anything: value, base, journal and conflict inbox of a key in one transaction, so that a crash at any point
leaves a state from which planning goes on. Its writes are no changes, so nothing echoes.

What another process writes (Dapr's own driver, `sqlite3`) is in no journal. `scan` finds it: its etag is not the one
that the base has.

All of this lies in the component's file, in tables of our own, which other drivers do not look at.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import trio

from edge_runtime.model.errors import ConfigError
from edge_runtime.model.ports import Item
from edge_runtime.model.sync import KEEP, Base, Change, Keep, Keys, Known, Settlement
from edge_runtime.store.conflicts import Inbox, InboxLimits, owned
from edge_runtime.store.database import Database
from edge_runtime.store.migrations import ByName, Step, has_table, migrate
from edge_runtime.store.state import Note, StateTable, Tap, item_of

# Counting reads the rows: a few ms for so many.
COUNT_MAX: Final = 100_000
SCAN_KEYS: Final = 500  # rows that one step of a scan looks at
_MARK_BYTES: Final = 17
_ROW_BYTES: Final = 200
# A base that only remembers a removal, because something sent before it may still arrive.
_GONE: Final = "known = 1 AND remote_etag IS NULL AND stamp != ''"


class Refused(NamedTuple):
    """A change that the remote will never take."""

    key: str
    stamp: str
    reason: str


class Journal:
    """Journal, bases and conflict inbox of one table. `stamp` gives a later text with every call."""

    def __init__(
        self,
        database: Database,
        table: StateTable,
        stamp: Callable[[], str],
        now: Callable[[], float],
        inbox_limits: InboxLimits = InboxLimits(),  # noqa: B008
    ) -> None:
        name = table.name
        self._database = database
        self._table = table
        self._stamp = stamp
        self._routes: dict[str, Keys] = {}
        self._prefixes: tuple[str, ...] = ()
        self._exact: frozenset[str] = frozenset()
        self._waiting = trio.lowlevel.ParkingLot()
        self.version = 0  # another one after every change
        self.inbox = Inbox(database, table, name, now, inbox_limits)
        self._names = journal, base = f"edge_journal_{name}", f"edge_base_{name}"
        self._note_sql = (
            f"INSERT INTO {journal} (key, stamp, deleted, expires) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
            " SET stamp = excluded.stamp, deleted = excluded.deleted, expires = excluded.expires, refused = ''"
        )
        live = "(s.expiration_time IS NULL OR s.expiration_time > :now)"
        self._look_sql = (
            f"SELECT CAST(s.value AS BLOB), s.is_binary, s.etag, s.expiration_time, {live},"
            " j.stamp, j.deleted, j.expires, j.refused,"
            " b.remote_etag, b.known, b.local_etag, b.value, b.sent, b.stamp, b.expires"
            f" FROM (SELECT :key AS key) AS k LEFT JOIN {name} AS s ON s.key = k.key"
            f" LEFT JOIN {journal} AS j ON j.key = k.key LEFT JOIN {base} AS b ON b.key = k.key AND b.route = :route"
        )
        self._live_sql = f"SELECT s.etag, s.expiration_time FROM {name} AS s WHERE s.key = :key AND {live}"
        self._save_base = (
            f"INSERT OR REPLACE INTO {base} (key, route, remote_etag, known, local_etag, expires, value, sent, stamp)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )

    @property
    def table(self) -> str:
        """The name of its own table."""
        return self._names[0]

    async def prepare(self) -> None:
        """Make the tables when they are not there."""
        await migrate(self._database, [Step(f"{self._names[0]}-1", self._create)], ByName())

    def _create(self, connection: sqlite3.Connection) -> None:
        journal, base = self._names
        # Small rows that are only ever found by their key: one tree instead of two.
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {journal} (key TEXT NOT NULL PRIMARY KEY, stamp TEXT NOT NULL,"
            " deleted INTEGER NOT NULL, expires TEXT, refused TEXT NOT NULL DEFAULT '') WITHOUT ROWID"
        )
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {base} (key TEXT NOT NULL PRIMARY KEY, route TEXT NOT NULL, remote_etag TEXT,"
            " known INTEGER NOT NULL, local_etag TEXT, expires TEXT, value BLOB, sent BLOB NOT NULL,"
            " stamp TEXT NOT NULL)"
        )
        connection.execute(f"CREATE INDEX IF NOT EXISTS {base}_gone ON {base} (key) WHERE {_GONE}")
        self.inbox.create(connection)

    # --- routes -------------------------------------------------------------------------------------------------------

    def add_route(self, name: str, keys: Keys) -> None:
        """Note changes of these keys from now on. A key has one route at most; raises ConfigError."""
        for other, others in self._routes.items():
            if keys.overlap(others):
                raise ConfigError(
                    f"the state routes {other!r} and {name!r} cover the same keys; a key can follow one route only"
                )
        self._routes[name] = keys
        self._compile()

    def remove_route(self, name: str) -> None:
        """Its changes are noted no more; what is noted stays."""
        del self._routes[name]
        self._compile()

    def _compile(self) -> None:
        self._prefixes = tuple(keys.prefix for keys in self._routes.values() if not keys.exact)
        self._exact = frozenset(keys.prefix for keys in self._routes.values() if keys.exact)

    def covers(self, key: str) -> bool:
        """Does a route want to know of this key?"""
        return key.startswith(self._prefixes) or key in self._exact

    # --- what writers add ---------------------------------------------------------------------------------------------

    def note(self, key: str, expires: str | None, *, deleted: bool) -> Note:
        """The statement that notes a change."""
        return self._note_sql, (key, self._stamp(), deleted, expires)

    def wake(self) -> None:
        """There may be changes."""
        self.version += 1
        if self._waiting:
            self._waiting.unpark_all()

    async def wait_changed(self, version: int) -> None:
        """Until there may be changes that were not there at that version."""
        if self.version == version:
            await self._waiting.park()

    # --- what the planner asks ----------------------------------------------------------------------------------------

    async def pending(self, keys: Keys, after: str, limit: int) -> list[str]:
        """Changed keys after `after`, sorted; without those that the remote refuses."""
        where, args = _range(keys, after)
        sql = f"SELECT key FROM {self._names[0]} WHERE {where} AND refused = '' ORDER BY key LIMIT ?"
        return [row[0] for row in await self._database.fetch(sql, (*args, limit))]

    async def synced(self, route: str, keys: Keys, after: str, limit: int, *, gone: bool = False) -> list[str]:
        """Keys after `after` that the route has a base of, sorted; `gone`: only those that were removed lately."""
        where, args = _range(keys, after)
        which = f" AND {_GONE}" if gone else ""
        sql = f"SELECT key FROM {self._names[1]} WHERE {where} AND route = ?{which} ORDER BY key LIMIT ?"
        return [row[0] for row in await self._database.fetch(sql, (*args, route, limit))]

    async def look(self, route: str, keys: Iterable[str]) -> list[Known]:
        """All that is known of these keys."""
        now = self._table.now_text()
        found = []
        for key in keys:
            row = (await self._database.fetch(self._look_sql, {"key": key, "route": route, "now": now}))[0]
            found.append(_known(key, row, now))
        return found

    async def latest_stamp(self) -> str:
        """The latest that the file has seen, for the clock to go on from."""
        journal, base = self._names
        both = f"SELECT max(stamp) AS stamp FROM {journal} UNION ALL SELECT max(stamp) FROM {base}"
        return (await self._database.read_in_thread(f"SELECT max(stamp) FROM ({both})"))[0][0] or ""

    # --- what the syncing side changes --------------------------------------------------------------------------------

    async def mark_sent(self, route: str, marks: Mapping[str, Sequence[bytes]]) -> None:
        """Before something is sent: what its end may be recognised by, should nobody hear of it."""
        rows = [(key, route, b"".join(some)) for key, some in marks.items()]
        await self._database.write(partial(self._mark, rows), size_bytes=_ROW_BYTES * len(rows))

    def _mark(self, rows: Sequence[tuple[str, str, bytes]], connection: sqlite3.Connection) -> None:
        base = self._names[1]
        # A base of another route, which is there no more, means nothing here.
        connection.executemany(f"DELETE FROM {base} WHERE key = ? AND route != ?", [row[:2] for row in rows])
        connection.executemany(
            f"INSERT INTO {base} (key, route, known, sent, stamp) VALUES (?, ?, 0, ?, '')"
            " ON CONFLICT (key) DO UPDATE SET sent = excluded.sent",
            rows,
        )

    async def follow(self, route: str, keys: Iterable[str]) -> None:
        """From now on these are among the keys that `synced` tells of, whatever becomes of this process."""
        sql = f"SELECT 1 FROM {self._names[1]} WHERE key = ? AND route = ?"
        rows = [(key, route) for key in keys if not await self._database.fetch(sql, (key, route))]
        if not rows:
            return
        insert = f"INSERT OR REPLACE INTO {self._names[1]} (key, route, known, sent, stamp) VALUES (?, ?, 0, x'', '')"
        await self._database.write(lambda conn: conn.executemany(insert, rows), size_bytes=_ROW_BYTES * len(rows))

    def counts(self, keys: Keys) -> tuple[int, int]:
        """How many changes wait, and how many are refused for good: `COUNT_MAX` stands for that many or more."""
        where, args = _range(keys, "")
        numbers = [
            self._database.read(
                f"SELECT count(*) FROM (SELECT 1 FROM {self._names[0]} WHERE {where} AND {which} LIMIT {COUNT_MAX})",
                args,
            )[0][0]
            for which in ("refused = ''", "refused != ''")
        ]
        return numbers[0], numbers[1]

    async def settle(self, route: str, settlements: Sequence[Settlement]) -> list[bool]:
        """Do each, whole or not at all, in one commit; whether it was done."""
        prepared = [self._prepare(route, settlement) for settlement in settlements]
        size = sum(_ROW_BYTES + (len(one.value) if isinstance(one.value, bytes) else 0) for one in settlements)
        done = await self._database.write(lambda conn: [one(conn) for one in prepared], size_bytes=size)
        if any(one.changed or one.sibling is not None for one in settlements):
            self.wake()
        return done

    def _prepare(self, route: str, settlement: Settlement) -> Callable[[sqlite3.Connection], bool]:
        """Everything that needs a clock or chance is done on this thread."""
        key = settlement.seen.key
        statements: list[Note] = []
        etag: str | Keep | None = KEEP
        if not isinstance(settlement.value, Keep):
            statements.append(statement := self._table.row_statement(key, settlement.value))
            etag = None if settlement.value is None else statement[1][3]
        if settlement.base is None:
            statements.append((f"DELETE FROM {self._names[1]} WHERE key = ? AND route = ?", (key, route)))
        elif isinstance(settlement.base, Base):
            statements.append(self._base_statement(route, settlement, settlement.base, etag))
        if settlement.done and settlement.seen.change is not None:
            stamp = settlement.seen.change.stamp
            statements.append((f"DELETE FROM {self._names[0]} WHERE key = ? AND stamp = ?", (key, stamp)))
        if settlement.refused and settlement.seen.change is not None:
            sql = f"UPDATE {self._names[0]} SET refused = ? WHERE key = ? AND stamp = ?"
            statements.append((sql, (settlement.refused, key, settlement.seen.change.stamp)))
        if settlement.changed:
            gone = settlement.value is None or (etag is KEEP and settlement.seen.local is None)
            statements.append(self.note(key, None, deleted=gone))
        if settlement.sibling is not None:
            statements.append(self._table.row_statement(*settlement.sibling))
            if self.covers(settlement.sibling[0]):
                statements.append(self.note(settlement.sibling[0], None, deleted=False))
        dispute = None if settlement.dispute is None else self.inbox.prepare(key, settlement.dispute)
        guard = {"key": key, "now": self._table.now_text()} if settlement.guarded else None
        return partial(self._settle, settlement.seen, guard, statements, dispute)

    def _base_statement(self, route: str, settlement: Settlement, base: Base, etag: str | Keep | None) -> Note:
        if not isinstance(etag, Keep):
            base = base._replace(local_etag=etag)
        local = settlement.seen.local
        expires = None
        if local is not None and local.expires_at is not None and local.etag == base.local_etag:
            expires = self._table.time_text(local.expires_at)
        row = (base.remote_etag, base.known, base.local_etag, expires, base.value, b"".join(base.sent), base.stamp)
        return self._save_base, (settlement.seen.key, route, *row)

    def _settle(
        self,
        seen: Known,
        guard: dict[str, str] | None,
        statements: Sequence[Note],
        dispute: Callable[[sqlite3.Connection], None] | None,
        connection: sqlite3.Connection,
    ) -> bool:
        if guard is not None and not self._is_as_seen(seen, guard, connection):
            return False
        for sql, args in statements:
            connection.execute(sql, args)
        if dispute is not None:
            dispute(connection)
        return True

    def _is_as_seen(self, seen: Known, guard: dict[str, str], connection: sqlite3.Connection) -> bool:
        row = connection.execute(self._live_sql, guard).fetchone()
        change = connection.execute(f"SELECT stamp FROM {self._names[0]} WHERE key = ?", (seen.key,)).fetchone()
        etag, stamp = None if row is None else row[0], None if change is None else change[0]
        return etag == (None if seen.local is None else seen.local.etag) and stamp == (
            None if seen.change is None else seen.change.stamp
        )

    # --- what others wrote --------------------------------------------------------------------------------------------

    async def scan(self, route: str, keys: Keys, after: str) -> str | None:
        """Look at up to `SCAN_KEYS` keys after `after` and note what nobody has; the last of them, None at the end."""
        name, (journal, base) = self._table.name, self._names
        where, args = _range(keys, after)
        both = f"SELECT key FROM {name} WHERE {where} UNION SELECT key FROM {base} WHERE {where} AND route = ?"
        rows = await self._database.read_in_thread(
            "SELECT k.key, s.etag, s.expiration_time, j.stamp, b.local_etag, b.expires FROM"
            f" ({both} ORDER BY key LIMIT {SCAN_KEYS}) AS k LEFT JOIN {name} AS s ON s.key = k.key"
            f" LEFT JOIN {journal} AS j ON j.key = k.key"
            f" LEFT JOIN {base} AS b ON b.key = k.key AND b.route = ? ORDER BY k.key",
            (*args, *args, route, route),
        )
        notes = _unnoted(rows, self._table.now_text(), self.note)
        if notes:
            await self._database.write(lambda conn: self._note_found(notes, conn), size_bytes=_ROW_BYTES * len(notes))
            self.wake()
        return rows[-1][0] if len(rows) == SCAN_KEYS else None

    async def forget_removed(self, route: str, before: str) -> None:
        """Nothing that was sent before the stamp `before` can still arrive: removals of that time need no base."""
        which = f"FROM {self._names[1]} WHERE {_GONE} AND route = ? AND stamp < ?"
        if await self._database.fetch(f"SELECT 1 {which} LIMIT 1", (route, before)):
            await self._database.write(lambda conn: conn.execute(f"DELETE {which}", (route, before)), single=True)

    def _note_found(self, notes: Sequence[Note], connection: sqlite3.Connection) -> None:
        """Only where nothing was noted since the scan looked; that the rest is right is found when it is planned."""
        for sql, args in notes:
            if not connection.execute(f"SELECT 1 FROM {self._names[0]} WHERE key = ?", args[:1]).fetchone():
                connection.execute(sql, args)

    # --- refused for good ---------------------------------------------------------------------------------------------

    async def refused(self, after: str = "", limit: int = 100, prefix: str | None = None) -> list[Refused]:
        """The dead letters: changes that the remote refuses, until the key is written again."""
        mine, args = owned(prefix)
        sql = (
            f"SELECT key, stamp, refused FROM {self._names[0]} WHERE key > ? AND refused != '' AND {mine}"
            " ORDER BY key LIMIT ?"
        )
        return [Refused(*row) for row in await self._database.read_in_thread(sql, (after, *args, limit))]

    async def refused_count(self, prefix: str | None = None) -> int:
        """How many there are."""
        mine, args = owned(prefix)
        sql = f"SELECT count(*) FROM {self._names[0]} WHERE refused != '' AND {mine}"
        count: int = (await self._database.read_in_thread(sql, args))[0][0]
        return count

    async def retry_refused(self, keys: Sequence[str] | None = None, prefix: str | None = None) -> int:
        """Try them again; how many. None is all of them."""
        mine, args = owned(prefix)
        if keys is not None:
            mine, args = f"{mine} AND key IN (SELECT value FROM json_each(?))", (*args, json.dumps(list(keys)))
        sql = f"UPDATE {self._names[0]} SET refused = '' WHERE refused != '' AND {mine}"
        count = await self._database.write(lambda conn: conn.execute(sql, args).rowcount)
        self.wake()
        return count


def find_journal(database: Database, table: StateTable, now: Callable[[], float]) -> Journal | None:
    """The table's journal when there is one. One that no route has asked for yet is only looked at."""
    if table.tap.journal is not None:
        return table.tap.journal
    journal = Journal(database, table, _no_stamp, now)
    return journal if has_table(database.read, journal.table) else None


def _no_stamp() -> str:
    raise AssertionError("nothing is noted in a journal that is only looked at")


async def open_journal(
    database: Database,
    table: StateTable,
    stamp: Callable[[], str],
    now: Callable[[], float],
    inbox_limits: InboxLimits = InboxLimits(),  # noqa: B008
) -> Journal:
    """The journal of a table, shared by everybody who uses the table; made when a route first asks for it."""
    tap: Tap = table.tap
    if tap.journal is None:
        journal = Journal(database, table, stamp, now, inbox_limits)
        await journal.prepare()
        tap.journal = tap.journal or journal
    return tap.journal


def _range(keys: Keys, after: str) -> tuple[str, tuple[Any, ...]]:
    """The rows of these keys behind `after`, so that the index finds them."""
    if keys.exact:
        return "key = ? AND key > ?", (keys.prefix, after)
    if not keys.prefix:
        return "key > ?", (after,)
    # Behind every key with the prefix sorts what begins with its successor; the comparison is on UTF-8.
    return "key >= ? AND key > ? AND substr(key, 1, ?) = ? AND key < ?", (
        keys.prefix,
        after,
        len(keys.prefix),
        keys.prefix,
        _end(keys.prefix),
    )


def _end(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix[-1] not in "\ud7ff\U0010ffff" else prefix + "\U0010ffff"


def _known(key: str, row: Sequence[Any], now: str) -> Known:
    value, is_binary, etag, row_expires, live = row[:5]
    stamp, deleted, expires, refused = row[5:9]
    remote_etag, known, local_etag, base_value, sent, base_stamp, base_expires = row[9:]
    local: Item | None = item_of(value, is_binary, etag, row_expires) if etag is not None and live else None
    base = None
    if sent is not None:
        marks = tuple(sent[at : at + _MARK_BYTES] for at in range(0, len(sent), _MARK_BYTES))
        base = Base(remote_etag, bool(known), local_etag, base_value, marks, base_stamp)
    ended = expires if stamp is not None else base_expires
    expired = local is None and not deleted and (etag is not None or (ended is not None and ended <= now))
    change = None if stamp is None else Change(stamp, bool(deleted) or (local is None and not expired), refused)
    return Known(key, local, change, base, expired)


def _unnoted(rows: Iterable[Sequence[Any]], now: str, note: Callable[..., Note]) -> list[Note]:
    """Of rows (key, etag, expiry, stamp, base's etag, base's expiry): the notes of changes that have none."""
    notes = []
    for key, etag, expires, stamp, base_etag, base_expires in rows:
        live = etag is not None and (expires is None or expires > now)
        if stamp is not None or (etag if live else None) == base_etag:
            continue
        if live:
            notes.append(note(key, expires, deleted=False))
        elif base_etag is not None and etag is None and (base_expires is None or base_expires > now):
            notes.append(note(key, None, deleted=True))
    return notes
