"""`edge/v1/conflicts`: keys that two sides had changed, and changes that a remote refuses for good, of one app."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from edge_runtime.api.conflicts import LIMIT_MAX, SIDES, Side
from edge_runtime.api.http.routes import Call, Route, json_response, malformed
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Response

_LIMIT_DEFAULT: Final = 100
_ID_MAX: Final = 2**63 - 2


async def list_stores(call: Call) -> Response:
    return _document(await call.blocks.conflicts.stores())


async def list_conflicts(call: Call) -> Response:
    resolved = call.flag("resolved") if call.query_value("resolved") else None
    page = await call.blocks.conflicts.page(
        call.params[0],
        call.number("after", 0, 0, _ID_MAX),
        call.number("limit", _LIMIT_DEFAULT, 1, LIMIT_MAX),
        resolved=resolved,
        versions=call.flag("versions"),
    )
    return _document(page)


async def show(call: Call) -> Response:
    store, text = call.params
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise EdgeError(Kind.BAD_REQUEST, f"{text!r} is no conflict; expected a number, as `id` of a conflict has it")
    return _document(await call.blocks.conflicts.entry(store, int(text)))


async def list_refused(call: Call) -> Response:
    limit = call.number("limit", _LIMIT_DEFAULT, 1, LIMIT_MAX)
    return _document(await call.blocks.conflicts.refused(call.params[0], call.query_value("after"), limit))


async def resolve(call: Call) -> Response:
    message = await call.message()
    use = message.pop("use", None)
    if use is not None and use not in SIDES:
        raise malformed(f"use: expected one of {', '.join(SIDES)}")
    ids = _chosen(message, "ids", _is_id)
    count = await call.blocks.conflicts.resolve(call.params[0], ids, cast("Side | None", use))
    return json_response(b'{"resolved":%d}' % count)


async def retry(call: Call) -> Response:
    keys = _chosen(await call.message(), "keys", lambda key: isinstance(key, str) and bool(key))
    count = await call.blocks.conflicts.retry(call.params[0], keys)
    return json_response(b'{"retried":%d}' % count)


def _chosen(message: dict[str, Any], name: str, is_one: Any) -> list[Any] | None:
    """What the body names, None for all; nothing is changed because something was left out."""
    expected = f'expected {{"{name}": [...]}} or {{"all": true}}'
    if message.keys() - {name, "all"} or ("all" in message) == (name in message):
        raise malformed(expected)
    if name not in message:
        if message["all"] is not True:
            raise malformed(expected)
        return None
    chosen = message[name]
    if not isinstance(chosen, list) or not 0 < len(chosen) <= LIMIT_MAX or not all(map(is_one, chosen)):
        raise malformed(f"{name}: expected 1 to {LIMIT_MAX} of what a list of them names")
    return sorted(set(chosen))


def _is_id(value: object) -> bool:
    return type(value) is int and 0 < value <= _ID_MAX


def _document(document: Any) -> Response:
    return json_response(msgspec.json.encode(document))


_PLACE: Final = "edge/v1/conflicts"

ROUTES: tuple[Route, ...] = (
    Route(("GET",), _PLACE, "conflicts", "v1", "ListConflictStores", list_stores),
    Route(("GET",), f"{_PLACE}/{{store}}", "conflicts", "v1", "ListConflicts", list_conflicts),
    Route(("GET",), f"{_PLACE}/{{store}}/entries/{{id}}", "conflicts", "v1", "GetConflict", show),
    Route(("GET",), f"{_PLACE}/{{store}}/refused", "conflicts", "v1", "ListRefusedKeys", list_refused),
    Route(("POST",), f"{_PLACE}/{{store}}/resolve", "conflicts", "v1", "ResolveConflicts", resolve),
    Route(("POST",), f"{_PLACE}/{{store}}/retry", "conflicts", "v1", "RetryRefusedKeys", retry),
)
