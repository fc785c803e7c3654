"""`configuration`: settings of a store, and subscriptions to their changes."""

from __future__ import annotations

from typing import Final

import msgspec

from edge_runtime.api.http.routes import NO_CONTENT, Call, Route, json_response
from edge_runtime.blocks.configuration import documents
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Response


async def get_configuration(call: Call) -> Response:
    """GET configuration/{store}: the items of the query's keys, or all."""
    (store,) = call.params
    items = await call.blocks.configuration.get(store, call.query_values("key"), call.metadata())
    return json_response(msgspec.json.encode(documents(items))) if items else NO_CONTENT


async def subscribe_configuration(call: Call) -> Response:
    """GET configuration/{store}/subscribe: the app is told of changes from now on."""
    (store,) = call.params
    found = await call.blocks.configuration.subscribe(store, call.query_values("key"), call.metadata())
    return json_response(msgspec.json.encode({"id": found}))


async def unsubscribe_configuration(call: Call) -> Response:
    """GET configuration/{store}/{id}/unsubscribe: a failure has a text, but no code."""
    store, subscription_id = call.params
    try:
        await call.blocks.configuration.unsubscribe(store, subscription_id)
    except DriverError as error:
        return json_response(msgspec.json.encode({"message": str(error)}), 500)
    return json_response(b'{"ok":true}')


def _rows(version: str, group_version: str) -> tuple[Route, ...]:
    path = f"{version}/configuration/{{store}}"
    row = (("GET",), "configuration", group_version)
    return tuple(
        Route(row[0], f"{path}{tail}", *row[1:], name, handler)
        for tail, name, handler in (
            ("", "GetConfiguration", get_configuration),
            ("/subscribe", "SubscribeConfiguration", subscribe_configuration),
            ("/{id}/unsubscribe", "UnsubscribeConfiguration", unsubscribe_configuration),
        )
    )


ROUTES: Final = (*_rows("v1.0", "v1"), *_rows("v1.0-alpha1", "v1alpha1"))
