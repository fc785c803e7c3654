"""A failed call as gRPC tells it: a code, a text, and details in three shapes.

Rich: ResourceInfo, then BadRequest or Help, then ErrorInfo, as far as the kind has them. Basic: an ErrorInfo whose
reason is the HTTP code. Bare: nothing beside the text. SDKs read the details and compare the reasons exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, Help, ResourceInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpclib import GRPCError, Status

from edge_runtime.api.errors import HELP, ROWS, Row
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.wire.http1.writer import REASONS

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN: Final = "dapr.io"
_ORDER: Final = "RHBI"
_ERROR_INFO_VALUE_MAX: Final = 63
# HTTP shows an illegal key's error as it was told to its own API; gRPC is that API.
_TOLD: Final = "api error: code = InvalidArgument desc = "
_KEY_BEFORE: Final = "input key/keyPrefix '"
_KEY_AFTER: Final = "' can't contain '||'"

_FROM_HTTP: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    408: Status.CANCELLED,
    409: Status.ALREADY_EXISTS,
    429: Status.RESOURCE_EXHAUSTED,
    500: Status.UNKNOWN,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


def grpc_error(error: EdgeError) -> GRPCError:
    """The status that answers a call which failed so."""
    row = ROWS[error.kind]
    status = Status(row.grpc)
    message = error.message
    if error.kind is Kind.STATE_ILLEGAL_KEY:
        message = message.removeprefix(_TOLD)
    if row.bare:
        return GRPCError(status, message)
    return GRPCError(status, message, details_bytes(status, message, _details(row, error, message)))


def http_error(status: int, body: bytes) -> GRPCError:
    """What an answer of HTTP with an error's status is on gRPC; the body's beginning goes into the details."""
    code = _FROM_HTTP.get(status, Status.UNKNOWN)
    message = REASONS.get(status, "")
    text = _beginning(body.decode(errors="replace"))
    info = ErrorInfo(reason=message, domain=DOMAIN, metadata={"http.code": str(status), "http.error_message": text})
    return GRPCError(code, message, details_bytes(code, message, [info]))


def details_bytes(status: Status, message: str, details: list[Message]) -> bytes:
    """The value of `grpc-status-details-bin`."""
    packed: list[Any] = []
    for detail in details:
        part = Any()
        part.Pack(detail)
        packed.append(part)
    data: bytes = RpcStatus(code=status.value, message=message, details=packed).SerializeToString()
    return data


def _details(row: Row, error: EdgeError, message: str) -> list[Message]:
    if row.reason is None:
        return [ErrorInfo(reason=row.code, domain=DOMAIN, metadata=error.metadata)]
    return [_detail(part, row.reason, error, message) for part in _ORDER if part in row.details]


def _detail(part: str, reason: str, error: EdgeError, message: str) -> Message:
    detail: Message
    if part == "I":
        detail = ErrorInfo(reason=reason, domain=DOMAIN, metadata=error.metadata)
    elif part == "R":
        kind, name = error.resource or ("", "")
        detail = ResourceInfo(resource_type=kind, resource_name=name, description=error.description)
    elif part == "H":
        description, url = HELP
        detail = Help(links=[Help.Link(description=description, url=url)])
    else:
        detail = BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field=field, description=text) for field, text in _violations(error, message)
            ]
        )
    return detail


def _violations(error: EdgeError, message: str) -> list[tuple[str, str]]:
    if error.kind is Kind.STATE_ILLEGAL_KEY:
        # Always the key itself here, whereas some routes of HTTP name no field.
        return [(message.removeprefix(_KEY_BEFORE).removesuffix(_KEY_AFTER), message)]
    return list(error.violations)


def _beginning(text: str) -> str:
    """At most 63 bytes, as Dapr cuts it, but never inside a character."""
    return text.encode()[:_ERROR_INFO_VALUE_MAX].decode(errors="ignore")
