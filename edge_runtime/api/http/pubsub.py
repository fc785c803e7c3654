"""The routes of publish and subscribe: publish one message, publish many."""

from __future__ import annotations

from typing import Final

import msgspec

from edge_runtime.api.http.routes import NO_CONTENT, Call, Route, decode, json_response, metadata_headers
from edge_runtime.blocks.pubsub.entries import read_entries
from edge_runtime.blocks.pubsub.publish import Failure, publish_error, pubsub_error
from edge_runtime.model.errors import BodyTooLarge, Kind
from edge_runtime.model.http import Response


async def publish(call: Call) -> Response:
    """POST publish/{pubsub}/{topic…}: the body is the message."""
    pubsub = call.params[0]
    topic = decode(call.rest)
    publisher = call.blocks.publisher
    metadata = call.metadata()
    request = call.request
    if not request.body.buffered:
        publisher.binding(pubsub, metadata)  # an unknown component is said before a long body is read
    try:
        body = await request.body.read(call.limit_bytes)
    except BodyTooLarge as error:
        publisher.binding(pubsub, metadata)
        raise publish_error(pubsub, topic, str(error)) from None
    content_type = request.header(b"content-type")
    await publisher.publish(
        pubsub, topic, body, content_type.decode("utf-8", "replace") if content_type else "", metadata, call.trace
    )
    return NO_CONTENT


async def bulk_publish(call: Call) -> Response:
    """POST publish/bulk/{pubsub}/{topic…}: the body is an array of entries."""
    pubsub = call.params[0]
    topic = decode(call.rest)
    publisher = call.blocks.publisher
    metadata = call.metadata()
    publisher.binding(pubsub, metadata)
    try:
        body = await call.request.body.read(call.limit_bytes)
    except BodyTooLarge as error:
        text = f"error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}"
        detail = {"topic": topic, "error": str(error)}
        raise pubsub_error(Kind.PUBSUB_UNMARSHAL_EVENTS, pubsub, text, detail) from None
    entries = read_entries(pubsub, topic, body)
    failures = await publisher.bulk_publish(pubsub, topic, entries, metadata, call.trace)
    return _bulk_failure(pubsub, topic, failures) if failures else NO_CONTENT


def _bulk_failure(pubsub: str, topic: str, failures: list[Failure]) -> Response:
    document = {
        "failedEntries": [{"entryId": failure.entry_id, "error": failure.error} for failure in failures],
        "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE",
    }
    body = msgspec.json.encode(document)
    reason = publish_error(pubsub, topic, failures[0].error).message
    # A header cannot hold line breaks; JSON has none of its own.
    headers = metadata_headers({"responseData": body.decode(), "error": " ".join(reason.split())})
    return json_response(body, 500, headers)


_METHODS: Final = ("POST", "PUT")
ROUTES: Final = (
    Route(_METHODS, "v1.0/publish/bulk/{pubsub}/*", "publish", "v1", "BulkPublishEvent", bulk_publish),
    Route(_METHODS, "v1.0-alpha1/publish/bulk/{pubsub}/*", "publish", "v1alpha1", "BulkPublishEvent", bulk_publish),
    Route(_METHODS, "v1.0/publish/{pubsub}/*", "publish", "v1", "PublishEvent", publish),
)
