"""How a call ended: the codes with their names, messages as header values, and what HTTP/2's own endings mean."""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from edge_runtime.wire.grpc.metadata import Field, decode_binary

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

# As Go prints them, because that is what people find in logs of Dapr.
CODE_NAMES: Final = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip

_OF_HTTP: Final = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
}
# HTTP/2 error codes: the gRPC code and the name.
_OF_RESET: Final = {
    0x0: (INTERNAL, "NO_ERROR"),
    0x1: (INTERNAL, "PROTOCOL_ERROR"),
    0x2: (INTERNAL, "INTERNAL_ERROR"),
    0x3: (RESOURCE_EXHAUSTED, "FLOW_CONTROL_ERROR"),
    0x4: (INTERNAL, "SETTINGS_TIMEOUT"),
    0x5: (INTERNAL, "STREAM_CLOSED"),
    0x6: (INTERNAL, "FRAME_SIZE_ERROR"),
    0x7: (UNAVAILABLE, "REFUSED_STREAM"),
    0x8: (CANCELLED, "CANCEL"),
    0x9: (INTERNAL, "COMPRESSION_ERROR"),
    0xA: (INTERNAL, "CONNECT_ERROR"),
    0xB: (RESOURCE_EXHAUSTED, "ENHANCE_YOUR_CALM"),
    0xC: (PERMISSION_DENIED, "INADEQUATE_SECURITY"),
    0xD: (INTERNAL, "HTTP_1_1_REQUIRED"),
}
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)
_ESCAPES: Final = tuple(b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in range(256))
# A blank at either end of a header value is malformed in HTTP/2, and costs some clients the connection.
_BLANKS_TOO: Final = tuple(b"%20" if byte == 0x20 else escape for byte, escape in enumerate(_ESCAPES))
_CUT: Final = "..."


class Ending(NamedTuple):
    """The status of a finished call. `details` is a serialized google.rpc.Status, empty when there is none."""

    code: int
    message: str = ""
    details: bytes = b""


def code_name(code: int) -> str:
    return CODE_NAMES[code] if 0 <= code < len(CODE_NAMES) else f"Code({code})"


def code_from_http(status: int) -> int:
    """What an answer means that came with an HTTP status and no gRPC one."""
    return _OF_HTTP.get(status, UNKNOWN)


def ending_from_reset(error_code: int) -> Ending:
    """What it means that the peer reset the stream."""
    code, name = _OF_RESET.get(error_code, (UNKNOWN, f"unknown error code 0x{error_code:x}"))
    return Ending(code, f"stream terminated by RST_STREAM with error code: {name}")


def encode_message(message: str, bytes_max: int | None = None) -> bytes:
    """A status message as a header value, cut (with dots) to about `bytes_max`, never within a character."""
    data = message.encode("utf-8", "replace")
    bare = data == data.strip()
    if bare and not data.translate(None, _PLAIN) and (bytes_max is None or len(data) <= bytes_max):
        return data
    escapes = _ESCAPES if bare else _BLANKS_TOO
    escaped = _escape(data, escapes)
    if bytes_max is None or len(escaped) <= bytes_max:
        return escaped
    escapes = _BLANKS_TOO if data[:1] == b" " else _ESCAPES  # the end is dots now
    return _escape(_cut(data, max(bytes_max - len(_CUT), 0), escapes) + _CUT.encode(), escapes)


def _escape(data: bytes, escapes: Sequence[bytes]) -> bytes:
    return b"".join([escapes[byte] for byte in data])


def _cut(data: bytes, room: int, escapes: Sequence[bytes]) -> bytes:
    """As many whole characters as have room when escaped, which not all have."""
    end = 0
    while (room := room - len(escapes[data[end]])) >= 0:
        end += 1
    return data[:end].decode("utf-8", "ignore").encode()


def decode_message(value: bytes) -> str:
    """A status message; bad escapes stay as they are and bad UTF-8 is replaced."""
    return (unquote_to_bytes(value) if b"%" in value else value).decode("utf-8", "replace")


def ending_from_trailers(fields: Iterable[Field]) -> Ending | None:
    """The status that a header block carries, or None when it carries none."""
    code: bytes | None = None
    message = ""
    details = b""
    for name, value in fields:
        if name == b"grpc-status":
            code = value
        elif name == b"grpc-message":
            message = decode_message(value)
        elif name == b"grpc-status-details-bin":
            details = _details(value)
    if code is None:
        return None
    if not code.isdigit() or len(code) > 10:
        return Ending(INTERNAL, f'transport: malformed grpc-status: "{code.decode("latin-1")}"')
    return Ending(int(code), message, details)


def _details(value: bytes) -> bytes:
    try:
        return decode_binary(value)
    except ValueError:
        return b""  # the status itself is still worth telling


def is_grpc(content_type: bytes) -> bool:
    """`application/grpc`, alone or with a `+subtype` or parameters."""
    return content_type[:16] == b"application/grpc" and content_type[16:17] in (b"", b"+", b";")


def ending_from_head(fields: Iterable[Field]) -> Ending | None:
    """What the first header block says when it is no beginning of a gRPC answer; None when it is one."""
    status = content_type = None
    for name, value in fields:
        if name == b":status":
            status = value
        elif name == b"content-type":
            content_type = value
    if status == b"200" and content_type is not None and is_grpc(content_type):
        return None
    if status is None or not status.isdigit():
        return Ending(INTERNAL, "malformed header: missing HTTP status")
    number = int(status)
    text = f"unexpected HTTP status code received from server: {number} ({_phrase(number)})"
    if content_type is None:
        text += "; transport: missing content-type field"
    elif not is_grpc(content_type):
        text += f'; transport: received unexpected content-type "{content_type.decode("latin-1")}"'
    return Ending(code_from_http(number), text)


def _phrase(number: int) -> str:
    try:
        return http.HTTPStatus(number).phrase
    except ValueError:
        return ""
