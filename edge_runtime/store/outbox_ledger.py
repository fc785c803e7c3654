"""The ledger of what the outbox did not send: every drop with its reason, and what was given up as dead letters.

A line is what went at once for one reason. When there are `LINES_MAX`, the oldest are added up: one line a route and
reason stays for them, so that every drop is counted for ever and the newest are listed one by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from edge_runtime.store.outbox_tables import Ask, Head

LINES_MAX: Final = 1000
_FOLD: Final = 100

_INSERT: Final = (
    "INSERT INTO outbox_drop (route, reason, entries, bytes, first, last, first_key, last_key, from_wall, to_wall,"
    " lines) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LIST: Final = (
    "SELECT r.name, d.reason, d.entries, d.bytes, d.first, d.last, d.first_key, d.last_key, d.from_wall, d.to_wall,"
    " d.lines FROM outbox_drop d JOIN outbox_route r ON r.id = d.route"
)


class Drop(NamedTuple):
    """Entries that were not sent. Of one line these are the first and last sequence with their keys.

    `from_wall` to `to_wall` is when they were dropped (unix seconds); `lines` above 1: older lines, added up.
    """

    route: str
    reason: str
    entries: int
    bytes: int
    first: int
    last: int
    first_key: str
    last_key: str
    from_wall: float
    to_wall: float
    lines: int


def write_drop(connection: sqlite3.Connection, route_id: int, reason: str, heads: Sequence[Head], wall: float) -> None:
    """One line, in the writer's transaction."""
    if not heads:
        return
    first, last = heads[0], heads[-1]
    size = sum(head.size for head in heads)
    line = (route_id, reason, len(heads), size, first.id, last.id, first.key, last.key, wall, wall, 1)
    connection.execute(_INSERT, line)
    if connection.execute("SELECT count(*) FROM outbox_drop").fetchone()[0] > LINES_MAX:
        _fold(connection)


def _fold(connection: sqlite3.Connection) -> None:
    """Add up the oldest lines, a line for each route and reason; sums of sums are sums."""
    bound = connection.execute("SELECT id FROM outbox_drop ORDER BY id LIMIT 1 OFFSET ?", (_FOLD,)).fetchone()[0]
    sums = connection.execute(
        "SELECT route, reason, sum(entries), sum(bytes), min(first), max(last), min(id), sum(lines), min(from_wall),"
        " max(to_wall) FROM outbox_drop WHERE id < ? GROUP BY route, reason ORDER BY min(id)",
        (bound,),
    ).fetchall()
    connection.execute("DELETE FROM outbox_drop WHERE id < ?", (bound,))
    for route, reason, entries, size, first, last, line_id, lines, from_wall, to_wall in sums:
        connection.execute(
            "INSERT INTO outbox_drop VALUES (?, ?, ?, ?, ?, ?, ?, '', '', ?, ?, ?)",
            (line_id, route, reason, entries, size, first, last, from_wall, to_wall, lines),
        )


def list_drops(ask: Ask, route: str | None = None, limit: int = LINES_MAX) -> list[Drop]:
    """The newest `limit` lines, the oldest of them first."""
    if route is None:
        rows = ask(f"{_LIST} ORDER BY d.id DESC LIMIT ?", (limit,))
    else:
        rows = ask(f"{_LIST} WHERE r.name = ? ORDER BY d.id DESC LIMIT ?", (route, limit))
    return [Drop(*row) for row in reversed(rows)]


def dropped_by_reason(ask: Ask, route_id: int) -> dict[str, tuple[int, int]]:
    """Entries and bytes that a route has lost in its life, by reason."""
    sums = "SELECT reason, sum(entries), sum(bytes) FROM outbox_drop WHERE route = ? GROUP BY reason"
    return {row[0]: (row[1], row[2]) for row in ask(sums, (route_id,))}
