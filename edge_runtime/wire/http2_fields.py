"""What HTTP/2 says of a message's head: a field list becomes a request or a status, and the other way round. Pure.

HTTP/2 has no start line: pseudo headers say it. Everything about the connection is the framing's own, so a header that
speaks of it is malformed in what comes, and left out of what goes. A value never brings a line break over, because the
same message may leave as HTTP/1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from edge_runtime.model.http import Header
from edge_runtime.wire.http1 import ProtocolError
from edge_runtime.wire.http1.grammar import ascii_target

FIELD_OVERHEAD_BYTES: Final = 32  # what RFC 9113 counts for each field over its name and value
# Fields of a connection; `te` may say `trailers` in a request.
_CONNECTION: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_SPECIAL: Final = _CONNECTION | {b"content-length", b"cookie", b"expect", b"host", b"te"}
_METHODS_WITH_BODY: Final = frozenset(("POST", "PUT", "PATCH"))
_LENGTH_DIGITS_MAX: Final = 18
_NAMES_MAX: Final = 512
_match_token: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-z]++\Z").match
_match_method: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]++\Z").match
_match_target: Final = re.compile(rb"(?:/[\x21-\x7e\x80-\xff]*+|\*)\Z").match
_match_authority: Final = re.compile(rb"[\x21-\x7e\x80-\xff]++\Z").match
_replace_breaks: Final = re.compile(rb"[\r\n\0]").sub


class RequestFields(NamedTuple):
    """A request's head. `length` is the declared one, None when nothing was declared."""

    method: str
    target: bytes
    headers: list[Header]
    scheme: str
    length: int | None
    expect_continue: bool


class ResponseFields(NamedTuple):
    """A response's head."""

    status: int
    headers: list[Header]
    length: int | None


def read_request(fields: Sequence[Header], bytes_max: int, count_max: int) -> RequestFields:
    """The head of a request, `:authority` as its `host` and the pieces of a cookie as one. Raises `ProtocolError`."""
    pseudo: dict[bytes, bytes] = {}
    headers: list[Header] = []
    host: bytes | None = None
    length: int | None = None
    cookies: list[bytes] = []
    expect_continue = False
    size = FIELD_OVERHEAD_BYTES * len(fields)
    for field in fields:
        name, value = field
        size += len(name) + len(value)
        if name[:1] == b":":
            if headers or name in pseudo:
                raise ProtocolError(400, "malformed pseudo headers")
            pseudo[name] = value
            continue
        if name in _SPECIAL:
            if name == b"host":
                host = _only_host(value, host)
                continue
            if name == b"cookie":
                cookies.append(value)
                continue
            if name == b"content-length":
                length = _length(value, length)
            elif name == b"expect":
                expect_continue = expect_continue or value.lower() == b"100-continue"
            elif name != b"te" or value.lower() != b"trailers":
                raise ProtocolError(400, f"{name.decode()} has no place in HTTP/2")
        headers.append(field)
    if size > bytes_max or len(fields) > count_max:
        raise ProtocolError(431, f"the request's header fields are more than {bytes_max} bytes or {count_max}")
    _check_fields(headers)
    method, target, scheme = _start_line(pseudo)
    host = pseudo.get(b":authority") or host
    if host is not None:
        headers.insert(0, (b"host", _authority(host)))
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    return RequestFields(method, target, headers, scheme, length, expect_continue)


def request_fields(
    method: str, target: bytes, authority: bytes, headers: Iterable[Header], length: int | None
) -> list[Header]:
    """A request as fields; `length` None says nothing of the body's. Raises ValueError for what would be no request."""
    written = method.encode("latin-1")
    if _match_method(written) is None or _match_target(target) is None:
        raise ValueError(f"no request: {method!r} {target!r}")
    fields = [(b":method", written), (b":scheme", b"http"), (b":authority", authority), (b":path", target)]
    _append(fields, headers)
    if length or (length is not None and method in _METHODS_WITH_BODY):
        fields.append((b"content-length", b"%d" % length))
    return fields


def read_response(fields: Sequence[Header]) -> ResponseFields:
    """The head of a final response. Raises `ProtocolError`."""
    status = b""
    headers: list[Header] = []
    length: int | None = None
    for field in fields:
        name, value = field
        if name == b":status":
            status = value
        elif name in _CONNECTION:
            continue
        else:
            if name == b"content-length":
                length = _length(value, length)
            headers.append(field)
    if len(status) != 3 or not status.isdigit():
        raise ProtocolError(502, "a response without a status")
    _check_fields(headers)
    return ResponseFields(int(status), headers, length)


def response_fields(status: int, headers: Iterable[Header], length: int | None, date: bytes) -> list[Header]:
    """A response as fields; `length` None leaves it open. `date` is left out when `headers` have their own."""
    fields = [(b":status", b"%d" % status)]
    dated = _append(fields, headers)
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    if not dated:
        fields.append((b"date", date))
    return fields


class _Names(dict[bytes, bytes]):
    """Name as given → as sent. Empty: never sent, it is the framing's own or no name."""

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        own = lower in _CONNECTION or lower in (b"content-length", b"host", b"te") or _match_token(lower) is None
        sent = b"" if own else lower
        if len(self) < _NAMES_MAX:
            self[name] = sent
        return sent


_names: Final = _Names()


def _append(fields: list[Header], headers: Iterable[Header]) -> bool:
    """Append what may be sent; whether a date was among it."""
    dated = False
    names = _names
    for name, value in headers:
        sent = names[name]
        if not sent:
            continue
        if b"\n" in value or b"\r" in value or b"\0" in value:
            value = _replace_breaks(b" ", value)
        fields.append((sent, value.strip(b" \t")))
        if sent == b"date":
            dated = True
    return dated


def _check_fields(headers: Sequence[Header]) -> None:
    """Refuse what HTTP/1.1 could not carry as one header."""
    values = b"".join([value for _, value in headers])
    if b"\n" in values or b"\r" in values or b"\0" in values:
        raise ProtocolError(400, "a line break in a header")
    known = _names
    for name, _ in headers:
        if known.get(name) != name and _match_token(name) is None:
            raise ProtocolError(400, "malformed header name")


def _start_line(pseudo: dict[bytes, bytes]) -> tuple[str, bytes, str]:
    method = pseudo.get(b":method", b"")
    target = pseudo.get(b":authority" if method == b"CONNECT" else b":path", b"")
    if _match_method(method) is None:
        raise ProtocolError(400, "malformed method")
    if method != b"CONNECT" and _match_target(target) is None:
        raise ProtocolError(400, "malformed request target")
    if not target.isascii():
        target = ascii_target(target)
    return method.decode(), target, "https" if pseudo.get(b":scheme") == b"https" else "http"


def _authority(host: bytes) -> bytes:
    if _match_authority(host) is None:
        raise ProtocolError(400, "malformed authority")
    return host


def _only_host(value: bytes, before: bytes | None) -> bytes:
    if before is not None:
        raise ProtocolError(400, "more than one host header")
    return value


def _length(value: bytes, before: int | None) -> int:
    if before is not None:
        raise ProtocolError(400, "more than one content-length")
    if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
        raise ProtocolError(400, "malformed content-length")
    return int(value)
