"""The numbers of every kind of error: HTTP status, error code, gRPC code, and what a rich error shows beside them.

One row a kind (a test holds that none is missing). Source: the observed answers of Dapr 1.19's HTTP API, and what its
gRPC API is documented to answer. How a row becomes an answer is here for HTTP, and in `api/grpc/errors.py`, which is
loaded with the first gRPC call only, for gRPC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Response

_TYPE: Final = "type.googleapis.com/google.rpc."
_JSON: Final = ((b"content-type", b"application/json"),)
HELP: Final = (
    "Check the list of state stores and the features they support",
    "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
)


class Row(NamedTuple):
    """What both faces make of a kind.

    `reason` None: the plain form on HTTP. `details`: I ErrorInfo, R ResourceInfo, B BadRequest, H Help, as HTTP orders
    them. On gRPC a row with a reason shows the same details in another order; one without shows an ErrorInfo whose
    reason is the code, or nothing beside the text if it is `bare`.
    """

    status: int
    code: str
    grpc: int
    reason: str | None = None
    details: str = ""
    bare: bool = False


def _bare(status: int, code: str, grpc: int) -> Row:
    """An error that gRPC tells with code and text alone."""
    return Row(status, code, grpc, bare=True)


# gRPC's numbers, under its own names.
_UNKNOWN: Final = 2
_INVALID_ARGUMENT: Final = 3
_NOT_FOUND: Final = 5
_PERMISSION_DENIED: Final = 7
_FAILED_PRECONDITION: Final = 9
_ABORTED: Final = 10
_UNIMPLEMENTED: Final = 12
_INTERNAL: Final = 13
_UNAVAILABLE: Final = 14

ROWS: Final[Mapping[Kind, Row]] = {
    Kind.HEALTH_NOT_READY: _bare(500, "ERR_HEALTH_NOT_READY", _INTERNAL),
    Kind.HEALTH_APPID_NOT_MATCH: _bare(500, "ERR_HEALTH_APPID_NOT_MATCH", _INTERNAL),
    Kind.OUTBOUND_HEALTH_NOT_READY: _bare(500, "ERR_OUTBOUND_HEALTH_NOT_READY", _INTERNAL),
    Kind.API_UNIMPLEMENTED: _bare(501, "ERR_API_UNIMPLEMENTED", _UNIMPLEMENTED),
    Kind.MALFORMED_REQUEST: _bare(400, "ERR_MALFORMED_REQUEST", _INVALID_ARGUMENT),
    Kind.MALFORMED_REQUEST_DATA: _bare(500, "ERR_MALFORMED_REQUEST_DATA", _INTERNAL),
    Kind.MALFORMED_RESPONSE: _bare(500, "ERR_MALFORMED_RESPONSE", _INTERNAL),
    Kind.BODY_READ: _bare(400, "ERR_BODY_READ", _INVALID_ARGUMENT),
    Kind.BAD_REQUEST: _bare(400, "ERR_BAD_REQUEST", _INVALID_ARGUMENT),
    Kind.INTERNAL: _bare(500, "ERR_INTERNAL", _INTERNAL),
    Kind.UNCLASSIFIED: _bare(500, "ERROR", _UNKNOWN),
    Kind.STATE_STORE_NOT_FOUND: Row(400, "ERR_STATE_STORE_NOT_FOUND", _INVALID_ARGUMENT, "DAPR_STATE_NOT_FOUND", "I"),
    Kind.STATE_STORE_NOT_CONFIGURED: Row(
        500, "ERR_STATE_STORE_NOT_CONFIGURED", _FAILED_PRECONDITION, "DAPR_STATE_NOT_CONFIGURED", "I"
    ),
    Kind.STATE_ILLEGAL_KEY: Row(400, "ERR_MALFORMED_REQUEST", _INVALID_ARGUMENT, "DAPR_STATE_ILLEGAL_KEY", "BRI"),
    Kind.STATE_GET: Row(500, "ERR_STATE_GET", _INTERNAL),
    Kind.STATE_SAVE: Row(500, "ERR_STATE_SAVE", _INTERNAL),
    Kind.STATE_SAVE_ETAG_INVALID: Row(400, "ERR_STATE_SAVE", _INVALID_ARGUMENT),
    Kind.STATE_SAVE_ETAG_MISMATCH: Row(409, "ERR_STATE_SAVE", _ABORTED),
    Kind.STATE_SAVE_KEY_EMPTY: Row(400, "ERR_STATE_SAVE", _INVALID_ARGUMENT),
    Kind.STATE_SAVE_VALUE: Row(400, "ERR_STATE_SAVE", _INVALID_ARGUMENT),
    Kind.STATE_DELETE: Row(500, "ERR_STATE_DELETE", _INTERNAL),
    Kind.STATE_DELETE_ETAG_INVALID: Row(400, "ERR_STATE_DELETE", _INVALID_ARGUMENT),
    Kind.STATE_DELETE_ETAG_MISMATCH: Row(409, "ERR_STATE_DELETE", _ABORTED),
    Kind.STATE_BULK_GET: Row(500, "ERR_STATE_BULK_GET", _INTERNAL),
    Kind.STATE_BULK_DELETE: Row(500, "ERR_STATE_BULK_DELETE", _INTERNAL),
    Kind.STATE_BULK_DELETE_ETAG_INVALID: Row(400, "ERR_STATE_BULK_DELETE", _INVALID_ARGUMENT),
    Kind.STATE_BULK_DELETE_ETAG_MISMATCH: Row(409, "ERR_STATE_BULK_DELETE", _ABORTED),
    # An etag's conflict in a transaction included: gRPC has no code of its own for it there.
    Kind.STATE_TRANSACTION: Row(500, "ERR_STATE_TRANSACTION", _INTERNAL),
    Kind.STATE_OPERATION_NOT_SUPPORTED: Row(400, "ERR_NOT_SUPPORTED_STATE_OPERATION", _UNIMPLEMENTED),
    Kind.STATE_TRANSACTIONS_NOT_SUPPORTED: Row(
        500, "ERR_STATE_STORE_NOT_SUPPORTED", _UNIMPLEMENTED, "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", "HRI"
    ),
    Kind.STATE_TOO_MANY_TRANSACTIONS: Row(
        400, "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", _INVALID_ARGUMENT, "DAPR_STATE_TOO_MANY_TRANSACTIONS", "RI"
    ),
    Kind.STATE_QUERY_NOT_SUPPORTED: Row(
        500, "ERR_STATE_STORE_NOT_SUPPORTED", _INTERNAL, "DAPR_STATE_QUERYING_NOT_SUPPORTED", "RI"
    ),
    Kind.STATE_QUERY_FAILED: Row(500, "ERR_STATE_QUERY", _INTERNAL, "DAPR_STATE_QUERY_FAILED", "RI"),
    Kind.OUTBOX_PUBLISH: Row(500, "ERR_PUBLISH_OUTBOX", _INTERNAL, "DAPR_PUBSUB_OUTBOX", "I"),
    Kind.PUBSUB_NOT_CONFIGURED: Row(
        400, "ERR_PUBSUB_NOT_CONFIGURED", _FAILED_PRECONDITION, "DAPR_PUBSUB_NOT_CONFIGURED", "I"
    ),
    Kind.PUBSUB_NAME_EMPTY: Row(404, "ERR_PUBSUB_EMPTY", _INVALID_ARGUMENT, "DAPR_PUBSUB_NAME_EMPTY", "RI"),
    Kind.PUBSUB_TOPIC_EMPTY: Row(404, "ERR_TOPIC_NAME_EMPTY", _INVALID_ARGUMENT, "DAPR_PUBSUB_TOPIC_NAME_EMPTY", "RI"),
    Kind.PUBSUB_NOT_FOUND: Row(404, "ERR_PUBSUB_NOT_FOUND", _INVALID_ARGUMENT, "DAPR_PUBSUB_NOT_FOUND", "I"),
    Kind.PUBSUB_FORBIDDEN: Row(403, "ERR_PUBSUB_FORBIDDEN", _PERMISSION_DENIED, "DAPR_PUBSUB_FORBIDDEN", "RI"),
    Kind.PUBSUB_PUBLISH: Row(500, "ERR_PUBSUB_PUBLISH_MESSAGE", _INTERNAL, "DAPR_PUBSUB_PUBLISH_MESSAGE", "RI"),
    Kind.PUBSUB_METADATA: Row(
        400, "ERR_PUBSUB_REQUEST_METADATA", _INVALID_ARGUMENT, "DAPR_PUBSUB_METADATA_DESERIALIZATION", "RI"
    ),
    Kind.PUBSUB_CLOUD_EVENT: Row(
        500, "ERR_PUBSUB_CLOUD_EVENTS_SER", _INVALID_ARGUMENT, "DAPR_PUBSUB_CLOUD_EVENT_CREATION", "RI"
    ),
    Kind.PUBSUB_MARSHAL_ENVELOPE: Row(
        400, "ERR_PUBSUB_EVENTS_SER", _INVALID_ARGUMENT, "DAPR_PUBSUB_MARSHAL_ENVELOPE", "RI"
    ),
    Kind.PUBSUB_MARSHAL_EVENTS: Row(
        400, "ERR_PUBSUB_EVENTS_SER", _INVALID_ARGUMENT, "DAPR_PUBSUB_MARSHAL_EVENTS", "RI"
    ),
    Kind.PUBSUB_UNMARSHAL_EVENTS: Row(
        400, "ERR_PUBSUB_EVENTS_SER", _INVALID_ARGUMENT, "DAPR_PUBSUB_UNMARSHAL_EVENTS", "RI"
    ),
    Kind.INVOKE_NO_APP_ID: _bare(404, "ERR_DIRECT_INVOKE", _NOT_FOUND),
    Kind.INVOKE_DENIED: _bare(403, "ERR_DIRECT_INVOKE", _PERMISSION_DENIED),
    Kind.INVOKE_FAILED: _bare(500, "ERR_DIRECT_INVOKE", _INTERNAL),
    Kind.INVOKE_NOT_QUEUED: _bare(400, "ERR_EDGE_NOT_QUEUED", _FAILED_PRECONDITION),
    Kind.SECRET_STORES_NOT_CONFIGURED: Row(500, "ERR_SECRET_STORES_NOT_CONFIGURED", _FAILED_PRECONDITION),
    Kind.SECRET_STORE_NOT_FOUND: Row(401, "ERR_SECRET_STORE_NOT_FOUND", _INVALID_ARGUMENT),
    Kind.SECRET_DENIED: Row(403, "ERR_PERMISSION_DENIED", _PERMISSION_DENIED),
    Kind.SECRET_GET: Row(500, "ERR_SECRET_GET", _INTERNAL),
    Kind.BINDING_INVOKE: Row(500, "ERR_INVOKE_OUTPUT_BINDING", _INTERNAL),
    Kind.CONFIGURATION_STORE_NOT_CONFIGURED: Row(500, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", _FAILED_PRECONDITION),
    Kind.CONFIGURATION_STORE_NOT_FOUND: Row(400, "ERR_CONFIGURATION_STORE_NOT_FOUND", _INVALID_ARGUMENT),
    Kind.CONFIGURATION_GET: Row(500, "ERR_CONFIGURATION_GET", _INTERNAL),
    Kind.CONFIGURATION_SUBSCRIBE: Row(500, "ERR_CONFIGURATION_SUBSCRIBE", _INVALID_ARGUMENT),
    Kind.CONFIGURATION_NO_APP: Row(500, "ERR_APP_CHANNEL_NIL", _INTERNAL),
    Kind.EDGE_OUTBOX_ROUTE_NOT_FOUND: _bare(404, "ERR_EDGE_OUTBOX_ROUTE_NOT_FOUND", _NOT_FOUND),
    Kind.EDGE_OUTBOX: _bare(500, "ERR_EDGE_OUTBOX", _INTERNAL),
    Kind.EDGE_INVOCATION_NOT_FOUND: _bare(404, "ERR_EDGE_INVOCATION_NOT_FOUND", _NOT_FOUND),
    Kind.EDGE_LINK_NOT_FOUND: _bare(404, "ERR_EDGE_LINK_NOT_FOUND", _NOT_FOUND),
    Kind.EDGE_LINK_PAUSED: _bare(409, "ERR_EDGE_LINK_PAUSED", _FAILED_PRECONDITION),
    Kind.EDGE_SYNC: _bare(500, "ERR_EDGE_SYNC", _INTERNAL),
    Kind.EDGE_CONFLICTS: _bare(500, "ERR_EDGE_CONFLICTS", _INTERNAL),
    Kind.EDGE_CONFLICT_NOT_FOUND: _bare(404, "ERR_EDGE_CONFLICT_NOT_FOUND", _NOT_FOUND),
    Kind.LOCK_STORE_NOT_CONFIGURED: _bare(500, "ERR_LOCK_STORE_NOT_CONFIGURED", _FAILED_PRECONDITION),
    Kind.LOCK_STORE_NOT_FOUND: _bare(400, "ERR_LOCK_STORE_NOT_FOUND", _INVALID_ARGUMENT),
    Kind.ACTOR_NO_PLACEMENT: _bare(400, "ERR_ACTOR_NO_PLACEMENT", _UNAVAILABLE),
    Kind.ACTOR_STREAM_NEEDS_GRPC: _bare(400, "ERR_ACTOR_NO_APP_CHANNEL", _FAILED_PRECONDITION),
    Kind.ACTOR_STREAM_FIRST_MESSAGE: _bare(400, "ERR_MALFORMED_REQUEST", _INVALID_ARGUMENT),
    Kind.CRYPTO_PROVIDERS_NOT_CONFIGURED: _bare(500, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", _INTERNAL),
    Kind.CRYPTO_OPERATION: _bare(500, "ERR_CRYPTO", _INTERNAL),
    Kind.CONVERSATION_NOT_FOUND: _bare(400, "ERR_CONVERSATION_NOT_FOUND", _INVALID_ARGUMENT),
    Kind.JOB_EMPTY: Row(400, "DAPR_SCHEDULER_EMPTY", _INVALID_ARGUMENT, "DAPR_SCHEDULER_EMPTY", "I"),
    Kind.JOB_NAME_EMPTY: Row(
        400, "DAPR_SCHEDULER_JOB_NAME_EMPTY", _INVALID_ARGUMENT, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "I"
    ),
    Kind.JOB_SCHEDULE_EMPTY: Row(
        400, "DAPR_SCHEDULER_SCHEDULE_EMPTY", _INVALID_ARGUMENT, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "I"
    ),
    Kind.JOB_SCHEDULE: Row(500, "DAPR_SCHEDULER_SCHEDULE_JOB", _INTERNAL, "DAPR_SCHEDULER_SCHEDULE_JOB", "I"),
    Kind.JOB_GET: Row(500, "DAPR_SCHEDULER_GET_JOB", _INTERNAL, "DAPR_SCHEDULER_GET_JOB", "I"),
    Kind.JOB_DELETE: Row(500, "DAPR_SCHEDULER_DELETE_JOB", _INTERNAL, "DAPR_SCHEDULER_DELETE_JOB", "I"),
    Kind.JOB_LIST: Row(500, "DAPR_SCHEDULER_LIST_JOBS", _INTERNAL, "DAPR_SCHEDULER_LIST_JOBS", "I"),
}


def error_response(error: EdgeError) -> Response:
    """The HTTP answer for a failed call."""
    return Response(ROWS[error.kind].status, _JSON, Body(json.dumps(error_document(error)).encode()))


def error_document(error: EdgeError) -> dict[str, Any]:
    """`{"errorCode", "message"}`, with `details` for a rich error."""
    row = ROWS[error.kind]
    document: dict[str, Any] = {"errorCode": row.code, "message": error.message}
    if row.reason is not None:
        document["details"] = [_detail(part, row.reason, error) for part in row.details]
    return document


def _detail(part: str, reason: str, error: EdgeError) -> dict[str, Any]:
    if part == "I":
        metadata = None if error.metadata is None else dict(error.metadata)
        return {"@type": _TYPE + "ErrorInfo", "reason": reason, "domain": "dapr.io", "metadata": metadata}
    if part == "R":
        kind, name = error.resource or ("", "")
        return {
            "@type": _TYPE + "ResourceInfo",
            "resource_type": kind,
            "resource_name": name,
            "owner": "",
            "description": error.description,
        }
    if part == "B":
        violations = [{"field": field, "description": text} for field, text in error.violations]
        return {"@type": _TYPE + "BadRequest", "field_violations": violations}
    description, url = HELP
    return {"@type": _TYPE + "Help", "links": [{"description": description, "url": url}]}
