"""The grammar of heads: the one gate that every head passes before an engine sees it, and what its headers mean.

Each engine alone accepts more than this, and not the same more. The gate is what they have in common, minus what
smuggling is made of (folded lines, bare CR, blanks before a colon, control characters, odd versions). So they cannot
disagree about a head that passed; and when an engine refuses one anyway, the status comes from here, not from it.
A bare LF may end a line of a head, as in h11: such a head is rewritten before the gate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from edge_runtime.wire.http1.events import Header, ProtocolError

# Takes a head that passed the gate and gives its headers, names lower-case, values stripped; raises `Refused`.
HeaderParser = Callable[[bytes], list[Header]]

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]++"
_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
_LINES: Final = rb"((?:" + _TOKEN + rb":" + _TEXT + rb"\r\n)*+)"

# Possessive quantifiers: a head is gone through once, whatever is in it.
match_request: Final = re.compile(
    rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]++) HTTP/(1\.[01])\r\n" + _LINES + rb"\r\n"
).match
match_start_line: Final = re.compile(_TOKEN + rb" [\x21-\x7e]++ HTTP/1\.1\Z").match
match_response: Final = re.compile(
    rb"HTTP/(1\.[01]) ([1-9][0-9][0-9])(?: (" + _TEXT + rb"))?+\r\n" + _LINES + rb"\r\n"
).match
match_trailers: Final = re.compile(_LINES + rb"\r\n").match
# The size of a chunk, then extensions that are thrown away. h11 allows blanks here, llhttp does not: neither do we.
match_chunk_line: Final = re.compile(
    rb"([0-9a-fA-F]{1,15}+)((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[\t\x20!\x23-\x5b\x5d-\x7e]*+"))?+)*+)\r\n'
).match
search_blank_line: Final = re.compile(rb"\n\r?\n").search

_match_any_version: Final = re.compile(rb"[^ \r\n]+ [^ \r\n]+ HTTP/([0-9]\.[0-9])\r?\n").match
_match_absolute_form: Final = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*+://[^/?#]++").match
_find_headers: Final = re.compile(rb"([^:\r\n]++):(" + _TEXT + rb")\r\n").findall
_replace_high_bytes: Final = re.compile(rb"[\x80-\xff]").sub
_replace_line_ends: Final = re.compile(rb"\r?\n").sub

_FRAMING_NAMES: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))
_LENGTH_DIGITS_MAX: Final = 18


class Refused(Exception):
    """An engine does not take a head that passed the gate."""


class Framing(NamedTuple):
    """What the headers say about the body and the connection. `length` is None when there is no content-length."""

    length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool


def with_crlf(head: bytes) -> bytes:
    """The head with every line ended by CRLF."""
    return _replace_line_ends(b"\r\n", head)


def refuse(head: bytes, what: str) -> NoReturn:
    """Raise what is answered to a head that did not pass the gate."""
    version = _match_any_version(head)
    if version is not None and version[1] not in (b"1.0", b"1.1"):
        raise ProtocolError(505, f"HTTP version {version[1].decode()} is not served")
    raise ProtocolError(400, f"malformed {what}")


def headers_by_gate(lines: bytes) -> list[Header]:
    """The header lines that passed the gate, read without an engine; for finding the status of a refusal."""
    return [(name.lower(), value.strip(b" \t")) for name, value in _find_headers(lines)]


def origin_form(method: bytes, target: bytes) -> bytes:
    """The target as path and query: an absolute one loses its scheme and host. Raises `ProtocolError`."""
    if target == b"*" or method == b"CONNECT":
        return target
    absolute = _match_absolute_form(target)
    if absolute is None:
        raise ProtocolError(400, "malformed request target")
    rest = target[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def ascii_target(target: bytes) -> bytes:
    """The target with its bytes beyond ASCII percent-encoded: curl sends a path as it was typed."""
    return _replace_high_bytes(lambda match: b"%%%02X" % match[0][0], target)


def request_framing(headers: Sequence[Header], http_version: bytes) -> Framing:
    """What a request's headers mean. Raises `ProtocolError`."""
    framing, host_count = _framing(headers, http_version)
    if host_count != 1 and (host_count or http_version == b"1.1"):
        raise ProtocolError(400, "missing host header" if not host_count else "more than one host header")
    if framing.chunked and http_version == b"1.0":
        raise ProtocolError(400, "transfer-encoding in an HTTP/1.0 request")
    return framing


def response_framing(headers: Sequence[Header], http_version: bytes) -> Framing:
    """What a response's headers mean. Raises `ProtocolError`."""
    return _framing(headers, http_version)[0]


def may_be_trailers(lines: bytes) -> bool:
    """False when they would speak of the framing of a message that has ended."""
    return not any(name in (b"content-length", b"transfer-encoding") for name, _ in headers_by_gate(lines))


def lower_coding(headers: list[Header]) -> None:
    """Write the transfer-encoding in lower case, as h11 does."""
    for index, (name, value) in enumerate(headers):
        if name == b"transfer-encoding":
            headers[index] = (name, value.lower())


def _framing(headers: Sequence[Header], http_version: bytes) -> tuple[Framing, int]:
    length: int | None = None
    host_count = 0
    chunked = expect_continue = False
    kept = http_version == b"1.1"
    closed = False
    for name, value in headers:
        if name not in _FRAMING_NAMES:
            continue
        if name == b"host":
            host_count += 1
        elif name == b"connection":
            options = [option.strip(b" \t") for option in value.lower().split(b",")]
            closed = closed or b"close" in options  # wherever it stands
            kept = kept or b"keep-alive" in options
        elif name == b"content-length":
            length = _length(value, length)
        elif name == b"expect":
            expect_continue = expect_continue or (value.lower() == b"100-continue" and http_version == b"1.1")
        elif chunked or value.lower() != b"chunked":
            raise ProtocolError(501, "only one transfer-encoding is understood: chunked")
        else:
            chunked = True
    if chunked and length is not None:
        raise ProtocolError(400, "content-length beside transfer-encoding")
    return Framing(length, chunked, kept and not closed, expect_continue), host_count


def _length(value: bytes, before: int | None) -> int:
    if before is not None:
        raise ProtocolError(400, "more than one content-length")
    if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
        raise ProtocolError(400, "malformed content-length")
    return int(value)
