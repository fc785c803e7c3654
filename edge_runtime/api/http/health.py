"""Health, metadata and shutdown over HTTP."""

from __future__ import annotations

import json

from edge_runtime.api.http.routes import NO_CONTENT, Call, Route, json_response
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Response


async def get_health(call: Call) -> Response:
    """204 when every target is ready; with `appid`, only for that app."""
    waiting = call.blocks.health.waiting_for
    if waiting:
        raise EdgeError(Kind.HEALTH_NOT_READY, f"dapr is not ready: [{' '.join(waiting)}]")
    app_id = call.query_value("appid")
    if app_id and app_id != call.blocks.metadata.app_id:
        raise EdgeError(Kind.HEALTH_APPID_NOT_MATCH, "dapr app-id does not match")
    return NO_CONTENT


async def get_outbound_health(call: Call) -> Response:
    """204 once components and servers are up, before the app is."""
    if not call.blocks.health.outbound_ready:
        raise EdgeError(Kind.OUTBOUND_HEALTH_NOT_READY, "dapr outbound is not ready")
    return NO_CONTENT


async def get_metadata(call: Call) -> Response:
    """Everything that the sidecar says of itself. It asks for nothing, but a body that is there has to be JSON."""
    await call.message()
    return json_response(json.dumps(call.blocks.metadata.document()).encode())


async def put_metadata(call: Call) -> Response:
    """Keep a text under a key, in memory only."""
    body = await call.body()
    call.blocks.metadata.put(call.params[0], body.decode("utf-8", "replace"))
    return NO_CONTENT


async def post_shutdown(call: Call) -> Response:
    """Begin a graceful stop and answer at once; forced, the process ends with code 1 after 100 ms."""
    forced = (call.request.header(b"dapr-force-shutdown") or b"").lower() == b"true"
    call.blocks.shutdown(forced)
    return NO_CONTENT


HEALTH_ROUTES = (
    Route(("GET",), "v1.0/healthz", "healthz", "v1", "GetHealthz", get_health, always=True),
    Route(("GET",), "v1.0/healthz/outbound", "healthz", "v1", "GetOutboundHealthz", get_outbound_health, always=True),
)
METADATA_ROUTES = (
    Route(("GET",), "v1.0/metadata", "metadata", "v1", "GetMetadata", get_metadata),
    Route(("PUT",), "v1.0/metadata/{key}", "metadata", "v1", "SetMetadata", put_metadata),
)
ROUTES = (
    *HEALTH_ROUTES,
    *METADATA_ROUTES,
    Route(("POST",), "v1.0/shutdown", "shutdown", "v1", "Shutdown", post_shutdown),
)
