"""`edge/v1/sync`: the cloud links of one app, how they stand, what would be sent, and how they are steered."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from edge_runtime.api.http.routes import Call, Route, json_response
from edge_runtime.model.http import Response


async def list_links(call: Call) -> Response:
    return _document(await call.blocks.sync.list_links())


async def show(call: Call) -> Response:
    return _document(await call.blocks.sync.status(call.params[0]))


async def dry_run(call: Call) -> Response:
    return _document(await call.blocks.sync.dry_run(call.params[0]))


async def pause(call: Call) -> Response:
    return _document(await call.blocks.sync.pause(call.params[0], True))


async def resume(call: Call) -> Response:
    return _document(await call.blocks.sync.pause(call.params[0], False))


async def now(call: Call) -> Response:
    return _document(await call.blocks.sync.now(call.params[0], outside_window=call.flag("outsideWindow")))


def _document(document: dict[str, Any]) -> Response:
    return json_response(msgspec.json.encode(document))


_PLACE: Final = "edge/v1/sync"

ROUTES: tuple[Route, ...] = (
    Route(("GET",), _PLACE, "sync", "v1", "ListLinks", list_links),
    Route(("GET",), f"{_PLACE}/{{link}}", "sync", "v1", "GetLink", show),
    Route(("GET",), f"{_PLACE}/{{link}}/dry-run", "sync", "v1", "DryRunLink", dry_run),
    Route(("POST",), f"{_PLACE}/{{link}}/pause", "sync", "v1", "PauseLink", pause),
    Route(("POST",), f"{_PLACE}/{{link}}/resume", "sync", "v1", "ResumeLink", resume),
    Route(("POST",), f"{_PLACE}/{{link}}/now", "sync", "v1", "TryLinkNow", now),
)
