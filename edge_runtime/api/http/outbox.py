"""`edge/v1/outbox`: what waits to be sent, was given up and was dropped, of the routes of one app; and
`edge/v1/invocations`: the calls among it, with their answers.

A route's name is one segment of the path, percent-encoded: `pubsub.mqtt3%2Fshop%2Fbroker`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from edge_runtime.api.http.routes import Call, Route, json_response, malformed
from edge_runtime.api.outbox import CALL_STATES, LIMIT_MAX, Page, dead_page, dropped_page, entries_page
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Response

_NDJSON: Final = ((b"content-type", b"application/x-ndjson"),)
_LIMIT_DEFAULT: Final = 100
_SEQUENCE_MAX: Final = 2**63 - 2


class Lines(Body):
    """An export on its way out: its length is not known before its end."""

    __slots__ = ("_lines",)

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._lines = lines

    @property
    def length(self) -> int | None:
        return None

    @property
    def buffered(self) -> bool:
        return False

    async def read(self, limit_bytes: int | None = None) -> bytes:
        return b"".join([piece async for piece in self._lines])

    def chunks(self) -> AsyncIterator[bytes]:
        return self._lines


async def list_routes(call: Call) -> Response:
    return json_response(msgspec.json.encode(await call.blocks.outbox.routes()))


async def list_entries(call: Call) -> Response:
    return await _page(call, entries_page)


async def list_dead(call: Call) -> Response:
    return await _page(call, dead_page)


async def list_dropped(call: Call) -> Response:
    return await _page(call, dropped_page)


async def export(call: Call) -> Response:
    what = dead_page if call.flag("dead") else entries_page
    return Response(200, _NDJSON, Lines(await call.blocks.outbox.export(what, call.params[0])))


async def retry(call: Call) -> Response:
    count = await call.blocks.outbox.retry(call.params[0], await _chosen(call))
    return json_response(b'{"retried":%d}' % count)


async def drop(call: Call) -> Response:
    count = await call.blocks.outbox.drop(call.params[0], await _chosen(call))
    return json_response(b'{"dropped":%d}' % count)


async def _page(call: Call, what: Page) -> Response:
    after = call.number("after", 0, 0, _SEQUENCE_MAX)
    limit = call.number("limit", _LIMIT_DEFAULT, 1, LIMIT_MAX)
    page = await call.blocks.outbox.page(what, call.params[0], after, limit, call.flag("payload"))
    return json_response(msgspec.json.encode(page))


async def list_invocations(call: Call) -> Response:
    after = call.number("after", 0, 0, _SEQUENCE_MAX)
    limit = call.number("limit", _LIMIT_DEFAULT, 1, LIMIT_MAX)
    states = [state for text in call.query_values("state") for state in text.split(",") if state]
    unknown = [state for state in states if state not in CALL_STATES]
    if unknown:
        raise EdgeError(Kind.BAD_REQUEST, f"state {unknown[0]!r}: expected {', '.join(CALL_STATES)}")
    return json_response(msgspec.json.encode(await call.blocks.outbox.invocations(after, limit, states)))


async def show_invocation(call: Call) -> Response:
    return json_response(msgspec.json.encode(await call.blocks.outbox.invocation(call.params[0])))


async def _chosen(call: Call) -> list[int] | None:
    """The sequences that the body names, None for all; nothing is changed because something was left out."""
    message = await call.message()
    sequences = message.get("sequences")
    if message.keys() - {"sequences", "all"} or ("all" in message) == ("sequences" in message):
        raise malformed('expected {"sequences": [...]} or {"all": true}')
    if sequences is None:
        if message.get("all") is not True:
            raise malformed('expected {"sequences": [...]} or {"all": true}')
        return None
    if not isinstance(sequences, list) or not 0 < len(sequences) <= LIMIT_MAX or not all(map(_is_sequence, sequences)):
        raise malformed(f"sequences: expected 1 to {LIMIT_MAX} numbers, as `sequence` of the entries has them")
    return sorted(set(sequences))


def _is_sequence(value: object) -> bool:
    return type(value) is int and 0 < value <= _SEQUENCE_MAX


_PLACE: Final = "edge/v1/outbox"
_CALLS: Final = "edge/v1/invocations"

ROUTES: tuple[Route, ...] = (
    Route(("GET",), _PLACE, "outbox", "v1", "ListOutboxRoutes", list_routes),
    Route(("GET",), f"{_PLACE}/{{route}}/entries", "outbox", "v1", "ListOutboxEntries", list_entries),
    Route(("GET",), f"{_PLACE}/{{route}}/dead", "outbox", "v1", "ListOutboxDeadLetters", list_dead),
    Route(("GET",), f"{_PLACE}/{{route}}/dropped", "outbox", "v1", "ListOutboxDropped", list_dropped),
    Route(("GET",), f"{_PLACE}/{{route}}/export", "outbox", "v1", "ExportOutbox", export),
    Route(("POST",), f"{_PLACE}/{{route}}/retry", "outbox", "v1", "RetryOutbox", retry),
    Route(("POST",), f"{_PLACE}/{{route}}/drop", "outbox", "v1", "DropOutbox", drop),
    Route(("GET",), _CALLS, "outbox", "v1", "ListInvocations", list_invocations),
    Route(("GET",), f"{_CALLS}/{{id}}", "outbox", "v1", "GetInvocation", show_invocation),
)
