"""The outbox as an app's operator sees it: the routes of one app, what waits in them, what was given up and dropped.

A route's name says whose it is: `<driver>/<app id>/<component>`, or `link/<cloud link>/…` for every app that has the
link in its files. The documents are those of the HTTP API, and of `edge-runtime outbox` when it reads the file itself.
"""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edge_runtime.model.errors import DriverError, EdgeError, Kind

if TYPE_CHECKING:
    from edge_runtime.store.outbox import Content, DeadLetter, Drop, Head
    from edge_runtime.sync.forward import Outbox
    from edge_runtime.sync.look import Look

LIMIT_MAX: Final = 1000
CALL_STATES: Final = ("waiting", "sending", "done", "failed", "expired", "dropped")
# A page ends when its payloads have so many bytes; one entry it always has.
PAGE_BYTES: Final = 2**20
_EXPORT_PAGE: Final = 100
_LINK: Final = "link"

Page = Callable[["Look", str, int, int, bool], dict[str, Any]]


def belongs(route: str, app_id: str, links: Collection[str]) -> bool:
    """Whether an app with these links sees the route. Neither app ids nor names of links have a slash."""
    kind, _, rest = route.partition("/")
    owner = rest.partition("/")[0]
    return owner in links if kind == _LINK else owner == app_id


class AppOutbox:
    """What one app may see and change. `find` gives the node's outbox, None as long as there is none."""

    def __init__(self, find: Callable[[], Awaitable[Outbox | None]], app_id: str, links: Collection[str]) -> None:
        self._find = find
        self._app_id = app_id
        self._links = links

    async def routes(self) -> dict[str, Any]:
        with _failures("reading"):
            outbox = await self._find()
            return routes_document(outbox, self._sees)

    async def page(self, what: Page, route: str, after: int, limit: int, payload: bool) -> dict[str, Any]:
        """A page of `entries_page`, `dead_page` or `dropped_page`. Raises EdgeError unless the route is the app's."""
        with _failures("reading"):
            return what(await self._outbox(route), route, after, limit, payload)

    async def retry(self, route: str, sequences: Sequence[int] | None) -> int:
        with _failures("changing"):
            return await (await self._outbox(route)).retry(route, sequences)

    async def drop(self, route: str, sequences: Sequence[int] | None) -> int:
        with _failures("changing"):
            return await (await self._outbox(route)).drop(route, sequences)

    async def export(self, what: Page, route: str) -> AsyncIterator[bytes]:
        """The lines of an export, as they are asked for."""
        with _failures("reading"):
            return export_lines(await self._outbox(route), what, route)

    async def invocation(self, call_id: str) -> dict[str, Any]:
        """One queued call and what became of it. Raises EdgeError."""
        from edge_runtime.api.invocations import invocation

        with _failures("reading"):
            return invocation(await self._find(), self._sees, call_id)

    async def invocations(self, after: int, limit: int, states: Sequence[str]) -> dict[str, Any]:
        """A page of them."""
        from edge_runtime.api.invocations import invocations_page

        with _failures("reading"):
            return await invocations_page(await self._find(), self._sees, after, limit, states)

    def _sees(self, route: str) -> bool:
        return belongs(route, self._app_id, self._links)

    async def _outbox(self, route: str) -> Outbox:
        outbox = await self._find()
        known = [] if outbox is None else [name for name in outbox.names() if self._sees(name)]
        if outbox is None or route not in known:
            raise not_found(route, known)
        return outbox


def not_found(route: str, known: Sequence[str]) -> EdgeError:
    there = ", ".join(known) or "none"
    return EdgeError(Kind.EDGE_OUTBOX_ROUTE_NOT_FOUND, f"outbox route {route!r} is not found; there is {there}")


@contextmanager
def _failures(doing: str) -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        raise EdgeError(Kind.EDGE_OUTBOX, f"failed {doing} the outbox: {error}") from error


# --- documents --------------------------------------------------------------------------------------------------------


def routes_document(look: Look | None, sees: Callable[[str], bool], asleep: str = "closed") -> dict[str, Any]:
    """Each route with what waits in it. `asleep` is the word for the link of one that nobody has open."""
    names = [] if look is None else [name for name in look.names() if sees(name)]
    return {"routes": [_route(look, name, asleep) for name in names if look is not None]}


def _route(look: Look, name: str, asleep: str) -> dict[str, Any]:
    from edge_runtime.sync.shared import report

    state = look.state(name)
    link, reason = ("up" if state.up else "down"), state.reason
    if not look.is_open(name):
        link, reason = asleep, "nothing on this node sends on it now" if asleep == "closed" else ""
    return {"route": name, "link": link, "reason": reason, **report(state, look.dropped(name))}


def entries_page(look: Look, route: str, after: int, limit: int, payload: bool) -> dict[str, Any]:
    """What waits, the oldest first."""
    heads = look.entries(route, after, limit + 1)
    kept = _cut([head.size for head in heads], limit, payload)
    troubles = look.troubles(route)
    contents = look.contents(route, heads[:kept]) if payload else {}
    entries: list[dict[str, Any]] = []
    for head in heads[:kept]:
        entry = _entry(look, head)
        if head.id in troubles:
            entry["attempts"], entry["lastError"] = troubles[head.id]
        if head.id in contents:
            entry |= _content(contents[head.id])
        if not payload or head.id in contents:
            entries.append(entry)
    return _page(route, "entries", entries, heads, kept)


def dead_page(look: Look, route: str, after: int, limit: int, payload: bool) -> dict[str, Any]:
    """The dead letters, in the order of their sequences."""
    letters = look.dead_letters(route, after, limit + 1)
    heads = [letter.head for letter in letters]
    kept = _cut([head.size for head in heads], limit, payload)
    return _page(route, "deadLetters", [_letter(look, letter, payload) for letter in letters[:kept]], heads, kept)


def dropped_page(look: Look, route: str, after: int, limit: int, payload: bool) -> dict[str, Any]:
    """Sums by reason, and the newest lines of the ledger, the oldest of them first."""
    sums = {reason: {"entries": n, "bytes": size} for reason, (n, size) in look.dropped(route).items()}
    return {"route": route, "dropped": sums, "lines": [_drop(line) for line in look.ledger(route, limit)]}


async def export_lines(look: Look, page: Page, route: str) -> AsyncIterator[bytes]:
    """Everything that a route has, with payloads: a JSON object a line, a page of them in memory at a time."""
    after: int | None = 0
    while after is not None:
        document = page(look, route, after, _EXPORT_PAGE, True)
        after = document["next"]
        rows = document.get("entries") or document.get("deadLetters") or ()
        lines = b"".join(msgspec.json.encode({"route": route, **row}) + b"\n" for row in rows)
        if lines:
            yield lines
        await trio.lowlevel.checkpoint()


def _cut(sizes: Sequence[int], limit: int, payload: bool) -> int:
    """How many of them make the page."""
    if not payload:
        return min(len(sizes), limit)
    total = 0
    for count, size in enumerate(sizes[:limit]):
        total += size
        if total > PAGE_BYTES and count:
            return count
    return min(len(sizes), limit)


def _page(route: str, name: str, rows: list[dict[str, Any]], heads: Sequence[Head], kept: int) -> dict[str, Any]:
    return {"route": route, name: rows, "next": heads[kept - 1].id if len(heads) > kept else None}


def _entry(look: Look, head: Head) -> dict[str, Any]:
    return {
        "id": f"{look.node}-{head.epoch}-{head.id}",
        "sequence": head.id,
        "key": head.key,
        "size": head.size,
        "ageSeconds": max(look.now() - head.at, 0) / 1000,
        "attempts": head.attempts,
        "lastError": "",
    }


def _letter(look: Look, letter: DeadLetter, payload: bool) -> dict[str, Any]:
    entry = _entry(look, letter.head)
    entry["lastError"] = letter.reason
    entry["diedAt"] = letter.died_at
    return entry | _content(letter.content) if payload else entry


def _drop(line: Drop) -> dict[str, Any]:
    return {
        "reason": line.reason,
        "entries": line.entries,
        "bytes": line.bytes,
        "first": line.first,
        "last": line.last,
        "firstKey": line.first_key,
        "lastKey": line.last_key,
        "from": line.from_wall,
        "to": line.to_wall,
        "lines": line.lines,
    }


def _content(content: Content | None) -> dict[str, Any]:
    if content is None:
        return {"damaged": True}
    return {"enqueuedAt": content.wall, "payload": readable(content.payload)}


def readable(value: Any) -> Any:
    """A payload as JSON has it: bytes as text when they are UTF-8, else as `{"base64": …}`."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": binascii.b2a_base64(value, newline=False).decode()}
    if isinstance(value, Mapping):
        return {str(key): readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return value
