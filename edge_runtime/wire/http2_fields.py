"""The heads of HTTP messages as HTTP/2 carries them: a field list becomes a request or a response, and back. Pure.

HTTP/2 has no start line: pseudo-headers say it. What comes has passed `http2.headers`, so names, values and lengths are
well formed and nothing speaks of the connection; what goes is made so here. A target is as strict as HTTP/1.1's, since
the same request may leave as that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from edge_runtime.model.http import Header
from edge_runtime.wire.http1 import ProtocolError
from edge_runtime.wire.http1.grammar import ascii_target

FIELD_OVERHEAD_BYTES: Final = 32  # what RFC 9113 counts for each field over its name and value
# What is the framing's own; never sent as it is given.
_OWN: Final = frozenset(
    (
        b"connection", b"content-length", b"host", b"http2-settings", b"keep-alive", b"proxy-connection", b"te",
        b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
_METHODS_WITH_BODY: Final = frozenset(("POST", "PUT", "PATCH"))
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
        if name[0] == 0x3A:  # ":"
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            if host is not None:
                raise ProtocolError(400, "more than one host header")
            host = value
        else:
            if name == b"content-length":
                length = int(value)
            elif name == b"expect":
                expect_continue = expect_continue or value.lower() == b"100-continue"
            headers.append(field)
    if size > bytes_max or len(fields) > count_max:
        raise ProtocolError(431, f"the request's header fields are more than {bytes_max} bytes or {count_max}")
    method, target = _start_line(pseudo)
    host = pseudo.get(b":authority") or host
    if host:
        if _match_authority(host) is None:
            raise ProtocolError(400, "malformed authority")
        headers.insert(0, (b"host", host))
    if cookies:
        headers.append((b"cookie", b"; ".join(cookies)))
    scheme = "https" if pseudo.get(b":scheme") == b"https" else "http"
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
    """The head of a final response."""
    headers = list(fields[1:])
    length: int | None = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
    return ResponseFields(int(fields[0][1]), headers, length)


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
        sent = b"" if lower in _OWN or _match_token(lower) is None else lower
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


def _start_line(pseudo: dict[bytes, bytes]) -> tuple[str, bytes]:
    method = pseudo[b":method"]
    if _match_method(method) is None:
        raise ProtocolError(400, "malformed method")
    if method == b"CONNECT":
        return "CONNECT", pseudo.get(b":authority", b"")
    target = pseudo[b":path"]
    if _match_target(target) is None:
        raise ProtocolError(400, "malformed request target")
    return method.decode(), target if target.isascii() else ascii_target(target)
