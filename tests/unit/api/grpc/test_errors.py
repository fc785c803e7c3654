import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, Help, ResourceInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpclib import GRPCError, Status

from edge_runtime.api.errors import ROWS
from edge_runtime.api.grpc.errors import grpc_error, http_error
from edge_runtime.blocks.state.failures import illegal_key
from edge_runtime.model.errors import EdgeError, Kind
from tests.support.grpc_call import unpacked

# Code and shape of every kind: rich with these details, basic, or bare.
EXPECTED: dict[Kind, tuple[Status, str]] = {
    Kind.HEALTH_NOT_READY: (Status.INTERNAL, "bare"),
    Kind.HEALTH_APPID_NOT_MATCH: (Status.INTERNAL, "bare"),
    Kind.OUTBOUND_HEALTH_NOT_READY: (Status.INTERNAL, "bare"),
    Kind.API_UNIMPLEMENTED: (Status.UNIMPLEMENTED, "bare"),
    Kind.MALFORMED_REQUEST: (Status.INVALID_ARGUMENT, "bare"),
    Kind.MALFORMED_REQUEST_DATA: (Status.INTERNAL, "bare"),
    Kind.MALFORMED_RESPONSE: (Status.INTERNAL, "bare"),
    Kind.BODY_READ: (Status.INVALID_ARGUMENT, "bare"),
    Kind.BAD_REQUEST: (Status.INVALID_ARGUMENT, "bare"),
    Kind.INTERNAL: (Status.INTERNAL, "bare"),
    Kind.UNCLASSIFIED: (Status.UNKNOWN, "bare"),
    Kind.STATE_STORE_NOT_FOUND: (Status.INVALID_ARGUMENT, "DAPR_STATE_NOT_FOUND"),
    Kind.STATE_STORE_NOT_CONFIGURED: (Status.FAILED_PRECONDITION, "DAPR_STATE_NOT_CONFIGURED"),
    Kind.STATE_ILLEGAL_KEY: (Status.INVALID_ARGUMENT, "ResourceInfo BadRequest DAPR_STATE_ILLEGAL_KEY"),
    Kind.STATE_GET: (Status.INTERNAL, "ERR_STATE_GET"),
    Kind.STATE_SAVE: (Status.INTERNAL, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_ETAG_INVALID: (Status.INVALID_ARGUMENT, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_ETAG_MISMATCH: (Status.ABORTED, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_KEY_EMPTY: (Status.INVALID_ARGUMENT, "ERR_STATE_SAVE"),
    Kind.STATE_SAVE_VALUE: (Status.INVALID_ARGUMENT, "ERR_STATE_SAVE"),
    Kind.STATE_DELETE: (Status.INTERNAL, "ERR_STATE_DELETE"),
    Kind.STATE_DELETE_ETAG_INVALID: (Status.INVALID_ARGUMENT, "ERR_STATE_DELETE"),
    Kind.STATE_DELETE_ETAG_MISMATCH: (Status.ABORTED, "ERR_STATE_DELETE"),
    Kind.STATE_BULK_GET: (Status.INTERNAL, "ERR_STATE_BULK_GET"),
    Kind.STATE_BULK_DELETE: (Status.INTERNAL, "ERR_STATE_BULK_DELETE"),
    Kind.STATE_BULK_DELETE_ETAG_INVALID: (Status.INVALID_ARGUMENT, "ERR_STATE_BULK_DELETE"),
    Kind.STATE_BULK_DELETE_ETAG_MISMATCH: (Status.ABORTED, "ERR_STATE_BULK_DELETE"),
    Kind.STATE_TRANSACTION: (Status.INTERNAL, "ERR_STATE_TRANSACTION"),
    Kind.STATE_OPERATION_NOT_SUPPORTED: (Status.UNIMPLEMENTED, "ERR_NOT_SUPPORTED_STATE_OPERATION"),
    Kind.STATE_TRANSACTIONS_NOT_SUPPORTED: (
        Status.UNIMPLEMENTED,
        "ResourceInfo Help DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
    ),
    Kind.STATE_TOO_MANY_TRANSACTIONS: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_STATE_TOO_MANY_TRANSACTIONS"),
    Kind.STATE_QUERY_NOT_SUPPORTED: (Status.INTERNAL, "ResourceInfo DAPR_STATE_QUERYING_NOT_SUPPORTED"),
    Kind.STATE_QUERY_FAILED: (Status.INTERNAL, "ResourceInfo DAPR_STATE_QUERY_FAILED"),
    Kind.OUTBOX_PUBLISH: (Status.INTERNAL, "DAPR_PUBSUB_OUTBOX"),
    Kind.PUBSUB_NOT_CONFIGURED: (Status.FAILED_PRECONDITION, "DAPR_PUBSUB_NOT_CONFIGURED"),
    Kind.PUBSUB_NAME_EMPTY: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_NAME_EMPTY"),
    Kind.PUBSUB_TOPIC_EMPTY: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_TOPIC_NAME_EMPTY"),
    Kind.PUBSUB_NOT_FOUND: (Status.INVALID_ARGUMENT, "DAPR_PUBSUB_NOT_FOUND"),
    Kind.PUBSUB_FORBIDDEN: (Status.PERMISSION_DENIED, "ResourceInfo DAPR_PUBSUB_FORBIDDEN"),
    Kind.PUBSUB_PUBLISH: (Status.INTERNAL, "ResourceInfo DAPR_PUBSUB_PUBLISH_MESSAGE"),
    Kind.PUBSUB_METADATA: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_METADATA_DESERIALIZATION"),
    Kind.PUBSUB_CLOUD_EVENT: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_CLOUD_EVENT_CREATION"),
    Kind.PUBSUB_MARSHAL_ENVELOPE: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_MARSHAL_ENVELOPE"),
    Kind.PUBSUB_MARSHAL_EVENTS: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_MARSHAL_EVENTS"),
    Kind.PUBSUB_UNMARSHAL_EVENTS: (Status.INVALID_ARGUMENT, "ResourceInfo DAPR_PUBSUB_UNMARSHAL_EVENTS"),
    Kind.INVOKE_NO_APP_ID: (Status.NOT_FOUND, "bare"),
    Kind.INVOKE_DENIED: (Status.PERMISSION_DENIED, "bare"),
    Kind.INVOKE_FAILED: (Status.INTERNAL, "bare"),
    Kind.INVOKE_NOT_QUEUED: (Status.FAILED_PRECONDITION, "bare"),
    Kind.SECRET_STORES_NOT_CONFIGURED: (Status.FAILED_PRECONDITION, "ERR_SECRET_STORES_NOT_CONFIGURED"),
    Kind.SECRET_STORE_NOT_FOUND: (Status.INVALID_ARGUMENT, "ERR_SECRET_STORE_NOT_FOUND"),
    Kind.SECRET_DENIED: (Status.PERMISSION_DENIED, "ERR_PERMISSION_DENIED"),
    Kind.SECRET_GET: (Status.INTERNAL, "ERR_SECRET_GET"),
    Kind.BINDING_INVOKE: (Status.INTERNAL, "ERR_INVOKE_OUTPUT_BINDING"),
    Kind.CONFIGURATION_STORE_NOT_CONFIGURED: (Status.FAILED_PRECONDITION, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
    Kind.CONFIGURATION_GET: (Status.INTERNAL, "ERR_CONFIGURATION_GET"),
    Kind.CONFIGURATION_SUBSCRIBE: (Status.INVALID_ARGUMENT, "ERR_CONFIGURATION_SUBSCRIBE"),
    Kind.CONFIGURATION_NO_APP: (Status.INTERNAL, "ERR_APP_CHANNEL_NIL"),
    Kind.EDGE_OUTBOX_ROUTE_NOT_FOUND: (Status.NOT_FOUND, "bare"),
    Kind.EDGE_OUTBOX: (Status.INTERNAL, "bare"),
    Kind.EDGE_INVOCATION_NOT_FOUND: (Status.NOT_FOUND, "bare"),
    Kind.EDGE_LINK_NOT_FOUND: (Status.NOT_FOUND, "bare"),
    Kind.EDGE_LINK_PAUSED: (Status.FAILED_PRECONDITION, "bare"),
    Kind.EDGE_SYNC: (Status.INTERNAL, "bare"),
    Kind.EDGE_CONFLICTS: (Status.INTERNAL, "bare"),
    Kind.EDGE_CONFLICT_NOT_FOUND: (Status.NOT_FOUND, "bare"),
    Kind.CONFIGURATION_STORE_NOT_FOUND: (Status.INVALID_ARGUMENT, "ERR_CONFIGURATION_STORE_NOT_FOUND"),
    Kind.LOCK_STORE_NOT_CONFIGURED: (Status.FAILED_PRECONDITION, "bare"),
    Kind.LOCK_STORE_NOT_FOUND: (Status.INVALID_ARGUMENT, "bare"),
    Kind.ACTOR_NO_PLACEMENT: (Status.UNAVAILABLE, "bare"),
    Kind.ACTOR_STREAM_NEEDS_GRPC: (Status.FAILED_PRECONDITION, "bare"),
    Kind.ACTOR_STREAM_FIRST_MESSAGE: (Status.INVALID_ARGUMENT, "bare"),
    Kind.CRYPTO_PROVIDERS_NOT_CONFIGURED: (Status.INTERNAL, "bare"),
    Kind.CRYPTO_OPERATION: (Status.INTERNAL, "bare"),
    Kind.CONVERSATION_NOT_FOUND: (Status.INVALID_ARGUMENT, "bare"),
    Kind.JOB_EMPTY: (Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_EMPTY"),
    Kind.JOB_NAME_EMPTY: (Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_JOB_NAME_EMPTY"),
    Kind.JOB_SCHEDULE_EMPTY: (Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_SCHEDULE_EMPTY"),
    Kind.JOB_SCHEDULE: (Status.INTERNAL, "DAPR_SCHEDULER_SCHEDULE_JOB"),
    Kind.JOB_GET: (Status.INTERNAL, "DAPR_SCHEDULER_GET_JOB"),
    Kind.JOB_DELETE: (Status.INTERNAL, "DAPR_SCHEDULER_DELETE_JOB"),
    Kind.JOB_LIST: (Status.INTERNAL, "DAPR_SCHEDULER_LIST_JOBS"),
}


def shape_of(error: GRPCError) -> str:
    """The details' kinds in their order, an ErrorInfo by its reason; or that there are none."""
    parts = unpacked(error.details)
    names = [part.reason if isinstance(part, ErrorInfo) else type(part).__name__ for part in parts]
    return " ".join(names) or "bare"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_code_and_shape(kind: Kind) -> None:
    error = grpc_error(EdgeError(kind, "text", metadata={"a": "b"}, resource=("state", "s"), violations=[("f", "t")]))
    assert (error.status, shape_of(error)) == EXPECTED[kind]
    assert error.message == "text"
    assert all(part.domain == "dapr.io" for part in unpacked(error.details) if isinstance(part, ErrorInfo))


@pytest.mark.parametrize("kind", Kind)
def test_rich_errors_are_the_same_on_both_faces(kind: Kind) -> None:
    row = ROWS[kind]
    assert (row.reason is None) == (not row.details)
    assert not (row.bare and row.reason)


def test_details_repeat_code_and_text() -> None:
    error = grpc_error(EdgeError(Kind.STATE_GET, "fail to get a from state store s: broken"))
    status = RpcStatus.FromString(error.details)
    assert (status.code, status.message) == (13, "fail to get a from state store s: broken")
    assert [part.type_url for part in status.details] == ["type.googleapis.com/google.rpc.ErrorInfo"]


def test_a_resource_is_named_with_its_description() -> None:
    error = EdgeError(
        Kind.PUBSUB_FORBIDDEN, "no", metadata={"topic": "t", "error": "e"}, resource=("pubsub", "p"), description="no"
    )
    resource, info = unpacked(grpc_error(error).details)
    assert resource == ResourceInfo(resource_type="pubsub", resource_name="p", description="no")
    assert info == ErrorInfo(reason="DAPR_PUBSUB_FORBIDDEN", domain="dapr.io", metadata={"topic": "t", "error": "e"})


def test_missing_metadata_is_an_empty_map() -> None:
    (info,) = unpacked(grpc_error(EdgeError(Kind.STATE_STORE_NOT_FOUND, "none")).details)
    assert info == ErrorInfo(reason="DAPR_STATE_NOT_FOUND", domain="dapr.io")


def test_missing_transactions_link_to_help() -> None:
    parts = unpacked(
        grpc_error(EdgeError(Kind.STATE_TRANSACTIONS_NOT_SUPPORTED, "no", resource=("state", "s"))).details
    )
    url = "https://docs.dapr.io/reference/components-reference/supported-state-stores/"
    text = "Check the list of state stores and the features they support"
    assert parts[1] == Help(links=[Help.Link(description=text, url=url)])


def test_violations_are_told_field_by_field() -> None:
    (violation,) = unpacked(grpc_error(illegal_key("store", "a||b", "a||b")).details)[1].field_violations  # type: ignore[attr-defined]
    assert violation == BadRequest.FieldViolation(
        field="a||b", description="input key/keyPrefix 'a||b' can't contain '||'"
    )


def test_an_illegal_key_is_told_in_its_own_words() -> None:
    error = grpc_error(illegal_key("store", "it's||b", ""))
    assert error.message == "input key/keyPrefix 'it's||b' can't contain '||'"
    resource, request, info = unpacked(error.details)
    assert isinstance(resource, ResourceInfo)
    assert isinstance(request, BadRequest)
    assert isinstance(info, ErrorInfo)
    assert [violation.field for violation in request.field_violations] == ["it's||b"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, Status.INTERNAL, "Bad Request"),
        (401, Status.UNAUTHENTICATED, "Unauthorized"),
        (403, Status.PERMISSION_DENIED, "Forbidden"),
        (404, Status.NOT_FOUND, "Not Found"),
        (408, Status.CANCELLED, "Request Timeout"),
        (409, Status.ALREADY_EXISTS, "Conflict"),
        (429, Status.RESOURCE_EXHAUSTED, "Too Many Requests"),
        (500, Status.UNKNOWN, "Internal Server Error"),
        (501, Status.UNIMPLEMENTED, "Not Implemented"),
        (502, Status.UNKNOWN, "Bad Gateway"),
        (503, Status.UNAVAILABLE, "Service Unavailable"),
        (504, Status.DEADLINE_EXCEEDED, "Gateway Timeout"),
        (302, Status.UNKNOWN, "Found"),
        (418, Status.UNKNOWN, "I'm a teapot"),
        (413, Status.UNKNOWN, "Request Entity Too Large"),
        (499, Status.UNKNOWN, ""),
    ],
)
def test_an_http_status_has_its_code(status: int, code: Status, message: str) -> None:
    error = http_error(status, b"the body")
    assert (error.status, error.message) == (code, message)
    (info,) = unpacked(error.details)
    assert info == ErrorInfo(
        reason=message, domain="dapr.io", metadata={"http.code": str(status), "http.error_message": "the body"}
    )


def test_only_the_start_of_a_body_is_told() -> None:
    (info,) = unpacked(http_error(500, b"x" * 100).details)
    assert isinstance(info, ErrorInfo)
    assert info.metadata["http.error_message"] == "x" * 63


def test_a_cut_body_stays_text() -> None:
    for body in ("ü".encode() * 40, b"\xff\xfe" * 40):
        (info,) = unpacked(http_error(500, body).details)
        assert isinstance(info, ErrorInfo)
        text = info.metadata["http.error_message"]
        assert 60 <= len(text.encode()) <= 63
