"""Writers: messages to bytes, pure. Names go out as `Content-Type`, because that is how Dapr's clients have seen them.

No line break of a value reaches the wire: it becomes a blank, and a header whose name is no token is left out (both as
Go's server does), so that no value from a component or an app can start a header or a body of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from edge_runtime.wire.http1.events import Header
from edge_runtime.wire.http1.grammar import match_start_line

LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

REASONS: Final = {
    100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
    200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
    205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Request Entity Too Large",
    414: "Request URI Too Long", 415: "Unsupported Media Type", 416: "Requested Range Not Satisfiable",
    417: "Expectation Failed", 418: "I'm a teapot", 421: "Misdirected Request", 422: "Unprocessable Entity",
    423: "Locked", 424: "Failed Dependency", 425: "Too Early", 426: "Upgrade Required",
    428: "Precondition Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
    507: "Insufficient Storage", 508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}  # fmt: skip
_STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {text}".encode() for status, text in REASONS.items()}
_NAMES_MAX: Final = 512
# Name as given → as written, with its colon. Empty: never written, framing and the connection are the writer's own.
_names: Final[dict[bytes, bytes]] = dict.fromkeys(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"transfer-encoding"), b""
)
_match_token: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+").fullmatch
_replace_breaks: Final = re.compile(rb"[\r\n\0]").sub


def encode_response(
    status: int,
    headers: Iterable[Header],
    body: bytes,
    *,
    keep_alive: bool,
    head_only: bool = False,
    http_version: bytes = b"1.1",
    date: bytes = b"",
) -> bytes:
    """A whole response as one piece. `date` is a ready header line, left out when `headers` have their own."""
    if status == 204 or status == 304 or status < 200:
        return _response_head(status, headers, b"", keep_alive, http_version, date)
    if head_only:
        # As Go does it: without a body to measure, nothing is said about its length.
        return _response_head(status, headers, _length_line(len(body)) if body else b"", keep_alive, http_version, date)
    return _response_head(status, headers, _length_line(len(body)), keep_alive, http_version, date) + body


def encode_response_head(
    status: int,
    headers: Iterable[Header],
    length: int | None,
    keep_alive: bool,
    *,
    http_version: bytes = b"1.1",
    date: bytes = b"",
) -> bytes:
    """The head of a response whose body follows: `length` bytes, or chunks when it is None.

    An HTTP/1.0 client knows no chunks: for it the body ends with the connection, so `keep_alive` must be False then.
    """
    if status == 204 or status == 304 or status < 200:
        framing = b""
    elif length is not None:
        framing = _length_line(length)
    else:
        framing = b"" if http_version == b"1.0" else b"Transfer-Encoding: chunked"
    return _response_head(status, headers, framing, keep_alive, http_version, date)


def encode_request(
    method: str,
    target: bytes,
    headers: Iterable[Header],
    body: bytes | None = b"",
    *,
    length: int | None = None,
    keep_alive: bool = True,
) -> bytes:
    """A whole request; or its head when `body` is None: `length` bytes follow, or chunks when that is None too.

    Raises ValueError for a method or target that would not be one.
    """
    lines = [b"%b %b HTTP/1.1" % (method.encode("latin-1"), target)]
    if match_start_line(lines[0]) is None:
        raise ValueError(f"no request line: {lines[0]!r}")
    _append_headers(lines, headers, b"")
    if body is None:
        lines.append(b"Transfer-Encoding: chunked" if length is None else _length_line(length))
    elif body or method in ("POST", "PUT", "PATCH"):
        lines.append(_length_line(len(body)))
    if not keep_alive:
        lines.append(b"Connection: close")
    return _joined(lines) + body if body else _joined(lines)


def encode_chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _response_head(
    status: int, headers: Iterable[Header], framing: bytes, keep_alive: bool, http_version: bytes, date: bytes
) -> bytes:
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
    _append_headers(lines, headers, date)
    if framing:
        lines.append(framing)
    if not keep_alive:
        lines.append(b"Connection: close")
    elif http_version == b"1.0":
        lines.append(b"Connection: keep-alive")
    return _joined(lines)


def _length_line(length: int) -> bytes:
    return b"Content-Length: %d" % length


def _append_headers(lines: list[bytes], headers: Iterable[Header], date: bytes) -> None:
    for name, value in headers:
        written = _names.get(name)
        if written is None:
            written = _written_name(name)
        if written:
            lines.append(written + value)
            if name == b"date":
                date = b""
    if date:
        lines.append(date)


def _joined(lines: list[bytes]) -> bytes:
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        head = b"\r\n".join([_replace_breaks(b" ", line) for line in lines])
    return head + b"\r\n\r\n"


def _written_name(name: bytes) -> bytes:
    known = _names.get(name.lower())
    if known is not None:
        return known
    if _match_token(name) is None:
        return b""
    written = b"-".join([part.capitalize() for part in name.split(b"-")]) + b": "
    if len(_names) < _NAMES_MAX:
        _names[name] = written
    return written
