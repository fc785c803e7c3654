"""Queued calls as their callers see them: what waits, what became of the others, found by the id that a call was given.

The entry, the dead letter and the fate of one call lie in different tables, and move between two looks: what is read
later counts more, so that a call is never seen twice and never missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from edge_runtime.api.outbox import PAGE_BYTES, readable
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.sync.outbox_route import EXPIRED, expiry

if TYPE_CHECKING:
    from edge_runtime.store.outbox import Content, DeadLetter, Fate, Head
    from edge_runtime.sync.look import Look

_KINDS: Final = {"invoke": "appID", "binding": "binding"}
_SCAN_MAX: Final = 10_000  # calls that are looked at for one page when only some states are wanted
_READ_AT_ONCE: Final = 32  # some milliseconds; then the loop runs others
_DIGITS_MAX: Final = 19

Row = dict[str, Any]


def is_call_route(route: str) -> bool:
    """Whether calls wait on it: `link/<link>/invoke/<app>` or `link/<link>/binding/<name>`."""
    parts = route.split("/", 3)
    return len(parts) == 4 and parts[0] == "link" and parts[2] in _KINDS


def invocation(look: Look | None, sees: Callable[[str], bool], call_id: str) -> Row:
    """One call, with its answer. Raises EdgeError."""
    sequence = _sequence(call_id)
    if look is not None and sequence is not None:
        for route in _routes(look, sees):
            for row in _rows(look, route, sequence - 1, 1, answer=True):
                if row["id"] == call_id:
                    return row
    raise EdgeError(
        Kind.EDGE_INVOCATION_NOT_FOUND,
        f"there is no call {call_id!r}, or what became of it is no longer kept; GET /edge/v1/invocations has those"
        " that are",
    )


async def invocations_page(
    look: Look | None, sees: Callable[[str], bool], after: int, limit: int, states: Sequence[str] = ()
) -> dict[str, Any]:
    """Calls behind `after` in the order of their sequences, route by route, without their answers."""
    if look is None:
        return {"invocations": [], "next": None}
    rows: list[Row] = []
    last: int | None = None
    seen = 0
    for route in _routes(look, sees):
        for read in _runs(look, route, after):
            await trio.lowlevel.checkpoint()
            for row in read:
                seen += 1
                if len(rows) == limit or seen > _SCAN_MAX:
                    return {"invocations": rows, "next": last}
                last = row["sequence"]
                if not states or row["state"] in states:
                    rows.append(row)
    return {"invocations": rows, "next": None}


def _routes(look: Look, sees: Callable[[str], bool]) -> list[str]:
    """In the order of their sequences."""
    names = [name for name in look.names() if is_call_route(name) and sees(name)]
    return sorted(names, key=look.base)


def _runs(look: Look, route: str, after: int) -> Iterator[list[Row]]:
    while rows := _rows(look, route, after, _READ_AT_ONCE, answer=False):
        yield rows
        after = rows[-1]["sequence"]


def _rows(look: Look, route: str, after: int, limit: int, *, answer: bool) -> list[Row]:
    """Up to `limit` calls of a route."""
    found: dict[int, Row] = {}
    held = look.held(route, after, limit)
    heads = _light(held)
    cut = heads[-1].id if len(heads) < len(held) else None
    troubles, contents = look.troubles(route), look.contents(route, heads)
    for head in heads:
        said = look.said(route, head.id)
        if said is not None:
            found[head.id] = _done(look, route, head.id, head.epoch, head.key, head.attempts, said, time.time(), answer)
        else:
            found[head.id] = _waiting(look, route, head, contents.get(head.id), troubles.get(head.id))
    for letter in look.dead_letters(route, after, limit):
        found[letter.head.id] = _failed(look, route, letter)
    for fate in look.fates(route, after, limit):
        found[fate.id] = _ended(look, route, fate, answer)
    sequences = sorted(found if cut is None else (one for one in found if one <= cut))
    return [found[sequence] for sequence in sequences[:limit]]


def _light(heads: Sequence[Head]) -> Sequence[Head]:
    """As many as may be read at once: what they carry is read to show what was called."""
    total = 0
    for count, head in enumerate(heads):
        total += head.size
        if total > PAGE_BYTES and count:
            return heads[:count]
    return heads


# --- documents --------------------------------------------------------------------------------------------------------


def _row(look: Look, route: str, sequence: int, epoch: int, key: str, attempts: int, state: str) -> Row:
    _, link, kind, name = route.split("/", 3)
    return {
        "id": f"{look.node}-{epoch}-{sequence}",
        "sequence": sequence,
        "state": state,
        "link": link,
        _KINDS[kind]: name,
        "key": key,
        "attempts": attempts,
    }


def _waiting(look: Look, route: str, head: Head, content: Content | None, trouble: Any) -> Row:
    attempts, error = trouble if trouble is not None else (head.attempts, "")
    state = "sending" if look.is_sending(route, head.id) else "waiting"
    row = _row(look, route, head.id, head.epoch, head.key, attempts, state)
    if error:
        row["lastError"] = error
    if content is None:
        return row
    row |= _call(content.payload) | {"enqueuedAt": content.wall}
    ttl_s = content.payload.get("ttl") if isinstance(content.payload, Mapping) else None
    if ttl_s is not None:
        row["expiresAt"] = content.wall + ttl_s
        if state == "waiting" and time.time() >= row["expiresAt"]:
            row |= {"state": "expired", "reason": expiry(f"{ttl_s:g} s")}
    return row


def _failed(look: Look, route: str, letter: DeadLetter) -> Row:
    head = letter.head
    state = "expired" if letter.reason.startswith(EXPIRED) else "failed"
    row = _row(look, route, head.id, head.epoch, head.key, head.attempts, state)
    if letter.content is not None:
        row |= _call(letter.content.payload) | {"enqueuedAt": letter.content.wall}
    return row | {"reason": letter.reason, "endedAt": letter.died_at}


def _ended(look: Look, route: str, fate: Fate, answer: bool) -> Row:
    if fate.end == "delivered":
        said = fate.said or {}
        return _done(look, route, fate.id, fate.epoch, fate.key, fate.attempts, said, fate.ended_at, answer)
    state = "expired" if fate.reason == "age" else "dropped"
    row = _row(look, route, fate.id, fate.epoch, fate.key, fate.attempts, state)
    return row | {"reason": fate.reason, "endedAt": fate.ended_at}


def _done(
    look: Look,
    route: str,
    sequence: int,
    epoch: int,
    key: str,
    attempts: int,
    said: Mapping[str, Any],
    ended_at: float,
    answer: bool,
) -> Row:
    row = _row(look, route, sequence, epoch, key, attempts, "done") | _call(said)
    row |= {"enqueuedAt": said.get("enqueued"), "endedAt": ended_at}
    answered = said.get("answer", {})
    row["status"] = answered.get("status")
    if answer:
        row["answer"] = readable(answered)
    return row


def _call(payload: Any) -> Row:
    """What was called."""
    if not isinstance(payload, Mapping):
        return {}
    names = {"caller": "caller", "app": "target", "method": "method", "path": "path", "operation": "operation"}
    return {shown: readable(payload[name]) for name, shown in names.items() if name in payload}


def _sequence(call_id: str) -> int | None:
    text = call_id.rpartition("-")[2]
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX else None
