"""The numbers of every kind of error: HTTP status, error code, and what a rich error shows beside them.

One row a kind (a test holds that none is missing). The `details` of a row name the parts in their order; a row without
a reason renders the plain form of two fields. Source: the observed answers of Dapr 1.19's HTTP API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Response

_TYPE: Final = "type.googleapis.com/google.rpc."
_JSON: Final = ((b"content-type", b"application/json"),)
_STATE_STORES_URL: Final = "https://docs.dapr.io/reference/components-reference/supported-state-stores/"


class Row(NamedTuple):
    """`reason` None: the plain form. `details`: I ErrorInfo, R ResourceInfo, B BadRequest, H Help, in order."""

    status: int
    code: str
    reason: str | None = None
    details: str = ""


ROWS: Final[Mapping[Kind, Row]] = {
    Kind.HEALTH_NOT_READY: Row(500, "ERR_HEALTH_NOT_READY"),
    Kind.HEALTH_APPID_NOT_MATCH: Row(500, "ERR_HEALTH_APPID_NOT_MATCH"),
    Kind.OUTBOUND_HEALTH_NOT_READY: Row(500, "ERR_OUTBOUND_HEALTH_NOT_READY"),
    Kind.API_UNIMPLEMENTED: Row(501, "ERR_API_UNIMPLEMENTED"),
    Kind.MALFORMED_REQUEST: Row(400, "ERR_MALFORMED_REQUEST"),
    Kind.MALFORMED_REQUEST_DATA: Row(500, "ERR_MALFORMED_REQUEST_DATA"),
    Kind.MALFORMED_RESPONSE: Row(500, "ERR_MALFORMED_RESPONSE"),
    Kind.BODY_READ: Row(400, "ERR_BODY_READ"),
    Kind.BAD_REQUEST: Row(400, "ERR_BAD_REQUEST"),
    Kind.INTERNAL: Row(500, "ERR_INTERNAL"),
    Kind.UNCLASSIFIED: Row(500, "ERROR"),
    Kind.STATE_STORE_NOT_FOUND: Row(400, "ERR_STATE_STORE_NOT_FOUND", "DAPR_STATE_NOT_FOUND", "I"),
    Kind.STATE_STORE_NOT_CONFIGURED: Row(500, "ERR_STATE_STORE_NOT_CONFIGURED", "DAPR_STATE_NOT_CONFIGURED", "I"),
    Kind.STATE_ILLEGAL_KEY: Row(400, "ERR_MALFORMED_REQUEST", "DAPR_STATE_ILLEGAL_KEY", "BRI"),
    Kind.STATE_GET: Row(500, "ERR_STATE_GET"),
    Kind.STATE_SAVE: Row(500, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_KEY_EMPTY: Row(400, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_VALUE: Row(400, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_ETAG_INVALID: Row(400, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_ETAG_MISMATCH: Row(409, "ERR_STATE_SAVE"),
    Kind.STATE_DELETE: Row(500, "ERR_STATE_DELETE"),
    Kind.STATE_DELETE_ETAG_INVALID: Row(400, "ERR_STATE_DELETE"),
    Kind.STATE_DELETE_ETAG_MISMATCH: Row(409, "ERR_STATE_DELETE"),
    Kind.STATE_BULK_DELETE: Row(500, "ERR_STATE_BULK_DELETE"),
    Kind.STATE_BULK_DELETE_ETAG_INVALID: Row(400, "ERR_STATE_BULK_DELETE"),
    Kind.STATE_BULK_DELETE_ETAG_MISMATCH: Row(409, "ERR_STATE_BULK_DELETE"),
    Kind.STATE_BULK_GET: Row(500, "ERR_STATE_BULK_GET"),
    Kind.STATE_TRANSACTION: Row(500, "ERR_STATE_TRANSACTION"),
    Kind.STATE_OPERATION_NOT_SUPPORTED: Row(400, "ERR_NOT_SUPPORTED_STATE_OPERATION"),
    Kind.STATE_TRANSACTIONS_NOT_SUPPORTED: Row(
        500, "ERR_STATE_STORE_NOT_SUPPORTED", "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", "HRI"
    ),
    Kind.STATE_TOO_MANY_TRANSACTIONS: Row(
        400, "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", "DAPR_STATE_TOO_MANY_TRANSACTIONS", "RI"
    ),
    Kind.STATE_QUERY_NOT_SUPPORTED: Row(
        500, "ERR_STATE_STORE_NOT_SUPPORTED", "DAPR_STATE_QUERYING_NOT_SUPPORTED", "RI"
    ),
    Kind.STATE_QUERY_FAILED: Row(500, "ERR_STATE_QUERY", "DAPR_STATE_QUERY_FAILED", "RI"),
    Kind.OUTBOX_PUBLISH: Row(500, "ERR_PUBLISH_OUTBOX", "DAPR_PUBSUB_OUTBOX", "I"),
    Kind.PUBSUB_NOT_CONFIGURED: Row(400, "ERR_PUBSUB_NOT_CONFIGURED", "DAPR_PUBSUB_NOT_CONFIGURED", "I"),
    Kind.PUBSUB_NAME_EMPTY: Row(404, "ERR_PUBSUB_EMPTY", "DAPR_PUBSUB_NAME_EMPTY", "RI"),
    Kind.PUBSUB_TOPIC_EMPTY: Row(404, "ERR_TOPIC_EMPTY", "DAPR_PUBSUB_TOPIC_NAME_EMPTY", "RI"),
    Kind.PUBSUB_NOT_FOUND: Row(404, "ERR_PUBSUB_NOT_FOUND", "DAPR_PUBSUB_NOT_FOUND", "I"),
    Kind.PUBSUB_FORBIDDEN: Row(403, "ERR_PUBSUB_FORBIDDEN", "DAPR_PUBSUB_FORBIDDEN", "RI"),
    Kind.PUBSUB_PUBLISH: Row(500, "ERR_PUBSUB_PUBLISH_MESSAGE", "DAPR_PUBSUB_PUBLISH_MESSAGE", "RI"),
    Kind.PUBSUB_METADATA: Row(400, "ERR_PUBSUB_REQUEST_METADATA", "DAPR_PUBSUB_METADATA_DESERIALIZATION", "RI"),
    Kind.PUBSUB_CLOUD_EVENT: Row(500, "ERR_PUBSUB_CLOUD_EVENTS_SER", "DAPR_PUBSUB_CLOUD_EVENT_CREATION", "RI"),
    Kind.PUBSUB_MARSHAL_ENVELOPE: Row(400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_ENVELOPE", "RI"),
    Kind.PUBSUB_MARSHAL_EVENTS: Row(400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_EVENTS", "RI"),
    Kind.PUBSUB_UNMARSHAL_EVENTS: Row(400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_UNMARSHAL_EVENTS", "RI"),
    Kind.INVOKE_NO_APP_ID: Row(404, "ERR_DIRECT_INVOKE"),
    Kind.INVOKE_DENIED: Row(403, "ERR_DIRECT_INVOKE"),
    Kind.INVOKE_FAILED: Row(500, "ERR_DIRECT_INVOKE"),
    Kind.SECRET_STORES_NOT_CONFIGURED: Row(500, "ERR_SECRET_STORES_NOT_CONFIGURED"),
    Kind.SECRET_STORE_NOT_FOUND: Row(401, "ERR_SECRET_STORE_NOT_FOUND"),
    Kind.SECRET_DENIED: Row(403, "ERR_PERMISSION_DENIED"),
    Kind.SECRET_GET: Row(500, "ERR_SECRET_GET"),
    Kind.BINDING_INVOKE: Row(500, "ERR_INVOKE_OUTPUT_BINDING"),
    Kind.CONFIGURATION_STORE_NOT_CONFIGURED: Row(500, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
    Kind.CONFIGURATION_STORE_NOT_FOUND: Row(400, "ERR_CONFIGURATION_STORE_NOT_FOUND"),
    Kind.LOCK_STORE_NOT_CONFIGURED: Row(500, "ERR_LOCK_STORE_NOT_CONFIGURED"),
    Kind.LOCK_STORE_NOT_FOUND: Row(400, "ERR_LOCK_STORE_NOT_FOUND"),
    Kind.ACTOR_NO_PLACEMENT: Row(400, "ERR_ACTOR_NO_PLACEMENT"),
    Kind.CRYPTO_PROVIDERS_NOT_CONFIGURED: Row(500, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED"),
    Kind.CONVERSATION_NOT_FOUND: Row(400, "ERR_CONVERSATION_NOT_FOUND"),
    Kind.JOB_SCHEDULE: Row(500, "DAPR_SCHEDULER_SCHEDULE_JOB", "DAPR_SCHEDULER_SCHEDULE_JOB", "I"),
    Kind.JOB_GET: Row(500, "DAPR_SCHEDULER_GET_JOB", "DAPR_SCHEDULER_GET_JOB", "I"),
    Kind.JOB_DELETE: Row(500, "DAPR_SCHEDULER_DELETE_JOB", "DAPR_SCHEDULER_DELETE_JOB", "I"),
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
    link = {"description": "Check the list of state stores and the features they support", "url": _STATE_STORES_URL}
    return {"@type": _TYPE + "Help", "links": [link]}
