"""State over HTTP: get, save, delete, bulk get, transaction and query."""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from edge_runtime.api.http import state_body
from edge_runtime.api.http.routes import NO_CONTENT, Call, Route, json_response
from edge_runtime.blocks.state import NO_METADATA, DeleteItem, Hit, expire_time
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Header, Response
from edge_runtime.wire.exact_json import NotJson, compact, is_utf8

_JSON: Final[Header] = (b"content-type", b"application/json")
_MALFORMED: Final = "failed deserializing HTTP body: {}"

_encode = msgspec.json.Encoder().encode


async def _get(call: Call) -> Response:
    store, key = call.params
    item = await call.blocks.state.get(store, key)
    if item is None:
        return NO_CONTENT
    etag = (b"etag", item.etag.encode())
    if item.expires_at is None:
        return Response(200, (_JSON, etag), Body(item.value))
    expiry = (b"metadata.ttlExpireTime", expire_time(item.expires_at).encode())
    return Response(200, (_JSON, etag, expiry), Body(item.value))


async def _save(call: Call) -> Response:
    (store,) = call.params
    state = call.blocks.state
    state.require(store)
    body = await call.body(Kind.MALFORMED_REQUEST, "{}")
    try:
        items = state_body.save_items(body, call.metadata() if call.query else NO_METADATA)
    except NotJson as error:
        raise EdgeError(Kind.MALFORMED_REQUEST, str(error)) from None
    await state.save(store, items)
    return NO_CONTENT


async def _delete(call: Call) -> Response:
    store, key = call.params
    etag = call.request.header(b"if-match")
    item = DeleteItem(
        key,
        etag.decode("latin-1") if etag else None,
        call.metadata(),
        call.query_value("concurrency"),
        call.query_value("consistency"),
    )
    await call.blocks.state.delete(store, item)
    return NO_CONTENT


async def _bulk_get(call: Call) -> Response:
    (store,) = call.params
    state = call.blocks.state
    state.require(store)
    body = await call.body(Kind.MALFORMED_REQUEST, _MALFORMED)
    try:
        request = state_body.bulk_get(body, call.metadata())
    except NotJson as error:
        raise EdgeError(Kind.MALFORMED_REQUEST, _MALFORMED.format(error)) from None
    hits = await state.bulk_get(store, request.keys)
    return json_response(_encode([_shown(hit, with_metadata=True) for hit in hits]))


async def _transact(call: Call) -> Response:
    (store,) = call.params
    state = call.blocks.state
    state.require_transactions(store)
    body = await call.body(Kind.MALFORMED_REQUEST, _MALFORMED)
    try:
        operations = state_body.transaction(body, call.metadata())
    except NotJson as error:
        raise EdgeError(Kind.MALFORMED_REQUEST, _MALFORMED.format(error)) from None
    await state.transact(store, operations, call.trace)
    return NO_CONTENT


async def _query(call: Call) -> Response:
    (store,) = call.params
    page = await call.blocks.state.query(store, await call.body())
    if not page.hits:
        return NO_CONTENT
    answer: dict[str, Any] = {"results": [_shown(hit, with_metadata=False) for hit in page.hits]}
    if page.token:
        answer["token"] = page.token
    return json_response(_encode(answer))


def _shown(hit: Hit, *, with_metadata: bool) -> dict[str, Any]:
    """A hit as JSON, members without a value left out."""
    shown: dict[str, Any] = {"key": hit.key}
    if hit.error:
        shown["error"] = hit.error
        return shown
    metadata: dict[str, str] = {}
    if hit.value is not None:
        shown["data"], encoding = _data(hit.value)
        if encoding:
            metadata["dataEncoding"] = encoding
    if hit.etag:
        shown["etag"] = hit.etag
    if hit.expires_at is not None:
        metadata["ttlExpireTime"] = expire_time(hit.expires_at)
    if metadata and with_metadata:
        shown["metadata"] = metadata
    return shown


def _data(value: bytes) -> tuple[Any, str]:
    """The value as a piece of JSON, and how it is written when it is no JSON itself: `text` or `base64`."""
    if not is_utf8(value):
        return base64.b64encode(value).decode(), "base64"
    try:
        return msgspec.Raw(compact(value)), ""
    except NotJson:
        return value.decode(), "text"


_WRITE: Final = ("POST", "PUT")
ROUTES: Final = (
    Route(("GET",), "v1.0/state/{store}/{key}", "state", "v1", "GetState", _get),
    Route(_WRITE, "v1.0/state/{store}", "state", "v1", "SaveState", _save),
    Route(("DELETE",), "v1.0/state/{store}/{key}", "state", "v1", "DeleteState", _delete),
    Route(_WRITE, "v1.0/state/{store}/bulk", "state", "v1", "GetBulkState", _bulk_get),
    Route(_WRITE, "v1.0/state/{store}/transaction", "state", "v1", "ExecuteStateTransaction", _transact),
    Route(_WRITE, "v1.0-alpha1/state/{store}/query", "state", "v1alpha1", "QueryStateAlpha1", _query),
)
