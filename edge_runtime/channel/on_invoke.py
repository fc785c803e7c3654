"""What service invocation looks like to a gRPC app: an HTTP request as `OnInvoke`'s message, and its answer back.

Pure. Names that HTTP itself gives a meaning travel under `dapr-…`, because metadata is no place for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Header, Headers, Response, StatusResponse
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import HTTPExtension, InvokeRequest, InvokeResponse
from edge_runtime.wire.grpc.status import Ending
from edge_runtime.wire.headers import response_headers
from edge_runtime.wire.paths import decode, split_target

if TYPE_CHECKING:
    from edge_runtime.model.http import Request

Pair = tuple[str, str | bytes]

PREFIX: Final = "dapr-"
# The permanent message headers of HTTP that requests have.
_PERMANENT: Final = frozenset(
    (
        "accept", "accept-charset", "accept-language", "accept-ranges", "authorization", "cache-control",
        "content-type", "cookie", "date", "expect", "from", "host", "if-match", "if-modified-since", "if-none-match",
        "if-schedule-tag-match", "if-unmodified-since", "max-forwards", "origin", "pragma", "referer", "user-agent",
        "via", "warning",
    )
)  # fmt: skip
# The HTTP status of each gRPC code, from 0 to 16.
_HTTP_STATUS: Final = (200, 408, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
# What belongs to the connection or is this side's own to set.
_OWN: Final = frozenset(("connection", "content-length", "host", "te", "transfer-encoding"))
_PROTOBUF: Final = b"application/x-protobuf"


def http_status(code: int) -> int:
    """What a gRPC code is over HTTP; 500 for one that gRPC does not know."""
    return _HTTP_STATUS[code] if 0 <= code < len(_HTTP_STATUS) else 500


def renamed(name: str) -> str:
    """A metadata name as it crosses to another hop: what is gRPC's or HTTP's own gets a prefix."""
    if name[:1] == ":":
        return PREFIX + name[1:]
    return PREFIX + name if name in _PERMANENT or name[:5] == "grpc-" else name


def crossing(metadata: Iterable[Pair]) -> list[Pair]:
    """A caller's metadata as the app gets it."""
    return [(renamed(name), value) for name, value in metadata if name not in _OWN]


def metadata_of(headers: Headers) -> list[Pair]:
    """HTTP headers as metadata; a binary value of HTTP is base64 text here as there, so such names are left out."""
    pairs: list[Pair] = []
    for name, value in headers:
        if name[-4:] != b"-bin":
            pairs.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))
    return crossing(pairs)


def invoke_request(request: Request, content: bytes) -> InvokeRequest:
    """The message of an HTTP request, whose path is the method."""
    path, query = split_target(request.target)
    message = InvokeRequest(
        method=decode(path).lstrip(b"/").decode("utf-8", "replace"),
        content_type=(request.header(b"content-type") or b"").decode("latin-1"),
        http_extension=HTTPExtension(verb=request.method, querystring=query[1:].decode("latin-1")),
    )
    message.data.value = content
    return message


def response_of(reply: InvokeResponse, initial: Iterable[Pair]) -> Response:
    """The answer of an app that had no error."""
    content_type = reply.content_type.encode("latin-1", "replace")
    if not content_type and reply.data.type_url:
        content_type = _PROTOBUF
    headers = _headers(initial)
    if content_type:
        headers.append((b"content-type", content_type))
    return Response(200, headers, Body(reply.data.value))


def error_response(ending: Ending, initial: Iterable[Pair]) -> Response:
    """The answer of an app that had one: its status as JSON. Raises `EdgeError` when its details cannot be shown."""
    headers = [*_headers(initial), (b"content-type", b"application/json")]
    return StatusResponse(ending.code, http_status(ending.code), headers, Body(_status_json(ending)))


def _headers(metadata: Iterable[Pair]) -> list[Header]:
    fields = [
        (name.encode("latin-1"), value.encode("utf-8", "surrogateescape"))
        for name, value in metadata
        if isinstance(value, str) and name != "content-type"
    ]
    return response_headers(fields)


def _status_json(ending: Ending) -> bytes:
    document: dict[str, object] = {}
    if ending.code:
        document["code"] = ending.code
    if ending.message:
        document["message"] = ending.message
    if ending.details:
        details = _details_json(ending.details)
        if details:
            document["details"] = details
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _details_json(serialized: bytes) -> Sequence[object]:
    # Imported for the first error with details only: the JSON form of protobuf is large.
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2  # noqa: F401  (registers what details usually are)
    from google.rpc.status_pb2 import Status

    try:
        return [json_format.MessageToDict(detail) for detail in Status.FromString(serialized).details]
    except (DecodeError, TypeError, ValueError) as error:
        raise EdgeError(Kind.MALFORMED_RESPONSE, f"the app's status cannot be shown as JSON: {error}") from None
