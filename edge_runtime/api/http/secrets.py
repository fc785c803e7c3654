"""`v1.0/secrets`: one secret, or all of a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge_runtime.api.http.routes import Call, Route, json_response, malformed
from edge_runtime.model.http import Response


async def get_secret(call: Call) -> Response:
    store, key = call.params
    await _check_body(call)
    return _json(await call.blocks.secrets.get(store, key, call.metadata()))


async def get_bulk_secret(call: Call) -> Response:
    (store,) = call.params
    await _check_body(call)
    return _json(await call.blocks.secrets.bulk_get(store, call.metadata()))


async def _check_body(call: Call) -> None:
    """A GET needs no body, but one that is there has to be a message in JSON, as Dapr has it."""
    problem = _problem(await call.message())
    if problem:
        raise malformed(problem)


def _problem(message: dict[str, Any]) -> str:
    """What is wrong with the message; its values are not used, the path's and the query's are."""
    for name in ("storeName", "store_name", "key"):
        if not isinstance(message.get(name), str | None):
            return f"{name}: expected a text"
    metadata = message.get("metadata")
    if metadata is None:
        return ""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return "metadata: expected an object with texts"
    return ""


def _json(value: Mapping[str, Any]) -> Response:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json_response(text.encode("utf-8", "replace"))


ROUTES: tuple[Route, ...] = (
    Route(("GET",), "v1.0/secrets/{store}/bulk", "secrets", "v1", "GetBulkSecret", get_bulk_secret),
    Route(("GET",), "v1.0/secrets/{store}/{key}", "secrets", "v1", "GetSecret", get_secret),
)
