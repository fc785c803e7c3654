"""What a header block must look like for a request, a response or trailers (RFC 9113 §8).

In one thing we are milder: blanks around a value, which gRPC's servers and clients do send (a status message that ends
with one, above all), are taken off where the RFC calls the block malformed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Header = tuple[bytes, bytes]

_PLAIN: Final = 0
_METHOD: Final = 1
_SCHEME: Final = 2
_PATH: Final = 4
_AUTHORITY: Final = 8
_OF_CONNECTION: Final = 16  # headers that belong to HTTP/1's connections
_TE: Final = 32
_LENGTH: Final = 64
_STATUS: Final = 128
_PSEUDO: Final = _METHOD | _SCHEME | _PATH | _AUTHORITY | _STATUS

# What a name means to this module. Names that clients commonly send are here so that they need no look at their bytes.
_KINDS: Final = {
    b":method": _METHOD,
    b":scheme": _SCHEME,
    b":path": _PATH,
    b":authority": _AUTHORITY,
    b":status": _STATUS,
    b"connection": _OF_CONNECTION,
    b"proxy-connection": _OF_CONNECTION,
    b"keep-alive": _OF_CONNECTION,
    b"transfer-encoding": _OF_CONNECTION,
    b"upgrade": _OF_CONNECTION,
    b"te": _TE,
    b"content-length": _LENGTH,
    **dict.fromkeys(
        (
            b"content-type", b"user-agent", b"accept", b"accept-encoding", b"host", b"date", b"server", b"traceparent",
            b"tracestate", b"baggage", b"grpc-trace-bin", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding",
            b"grpc-status", b"grpc-message", b"grpc-status-details-bin", b"grpc-previous-rpc-attempts",
            b"dapr-api-token", b"dapr-app-id", b"dapr-caller-app-id", b"dapr-callee-app-id", b"authorization",
        ),
        _PLAIN,
    ),
}  # fmt: skip
_SPACES: Final = b" \t"
_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"


def request_fault(headers: list[Header]) -> str | None:
    """What makes this no request; None when it is one."""
    seen = _scan(headers)
    if type(seen) is str:
        return seen
    assert isinstance(seen, int)
    if seen & (_METHOD | _SCHEME | _PATH | _STATUS) == _METHOD | _SCHEME | _PATH:
        return None
    if seen & _STATUS:
        return "a request has no :status"
    if seen & _PSEUDO == _METHOD | _AUTHORITY and (b":method", b"CONNECT") in headers:
        return None
    return "a pseudo-header is missing"


def response_fault(headers: list[Header]) -> str | None:
    """What makes this no response; None when it is one."""
    seen = _scan(headers)
    if type(seen) is str:
        return seen
    assert isinstance(seen, int)
    if seen & _PSEUDO != _STATUS:
        return "the one pseudo-header of a response is :status"
    status = headers[0][1]
    return None if len(status) == 3 and status.isdigit() else "the :status is no number of three digits"


def trailers_fault(headers: list[Header]) -> str | None:
    """What makes these no trailers; None when they are."""
    seen = _scan(headers)
    if type(seen) is str:
        return seen
    assert isinstance(seen, int)
    return "trailers have no pseudo-headers" if seen & _PSEUDO else None


def content_length(headers: Sequence[Header]) -> int | None:
    """The length that a block announces, -1 when what it says makes no sense. `None`: it says nothing."""
    length: int | None = None
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or length not in (None, int(value)):
                return -1
            length = int(value)
    return length


def _scan(headers: list[Header]) -> str | int:
    """The kinds of header seen, or what is wrong."""
    seen = 0
    last_pseudo = True
    kinds = _KINDS
    for name, value in headers:
        kind = kinds.get(name)
        if kind == _PLAIN:
            last_pseudo = False
        elif kind is None:
            if not name or name.translate(None, _NAME_BYTES):
                return "a header's name is not allowed"
            last_pseudo = False
        elif kind & _PSEUDO:
            if not last_pseudo or seen & kind:
                return "a pseudo-header is repeated or behind the others"
            if kind == _PATH and not value:
                return "the :path is empty"
            seen |= kind
        elif kind == _OF_CONNECTION or (kind == _TE and value != b"trailers"):
            return "a header belongs to HTTP/1"
        else:
            last_pseudo = False
            seen |= kind
    # One look at all values: with NUL between them, so that there are as many as joints if no value has one.
    joined = b"\0".join([value for _, value in headers])
    if joined.count(b"\0") >= (len(headers) or 1) or b"\n" in joined or b"\r" in joined:
        return "a header's value has a line break or NUL"
    if joined and (
        joined[0] in _SPACES
        or joined[-1] in _SPACES
        or b" \0" in joined
        or b"\0 " in joined
        or b"\t\0" in joined
        or b"\0\t" in joined
    ):
        return _trim(headers) or seen
    return seen


def _trim(headers: list[Header]) -> str | None:
    """Take the blanks off, in place; what is wrong if it is a pseudo-header that has them."""
    for place, (name, value) in enumerate(headers):
        bare = value.strip(_SPACES)
        if bare != value:
            if name[:1] == b":":
                return "a pseudo-header's value begins or ends with a space"
            headers[place] = (name, bare)
    return None
