"""Which headers cross the runtime: the rules for requests on their way to an app and for answers on their way back.

Names are lower-case bytes. A name is judged once and the verdict kept, because real traffic uses few different names;
the memory of verdicts is bounded, since a caller chooses the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from edge_runtime.model.http import Header, Headers

# Meant for one connection only, whatever they say.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Written anew for the next connection, or already answered on this one (expect).
_OWN: Final = frozenset({b"content-length", b"destination-app-id", b"expect", b"host"})
_VERDICTS_MAX: Final = 1024
_SINGLE_VALUED: Final = b"baggage"


class _Verdicts(dict[bytes, bytes | None]):
    """Name → the name it travels under, None for not at all."""

    def __missing__(self, name: bytes) -> bytes | None:
        verdict = _judge(name)
        if len(self) < _VERDICTS_MAX:
            self[name] = verdict
        return verdict


def _judge(name: bytes) -> bytes | None:
    if name in HOP_BY_HOP or name in _OWN or name.endswith(b"-bin"):
        return None
    if name.startswith((b"grpc-", b":")):
        return b"dapr-" + name.lstrip(b":")
    return name


_REQUEST: Final = _Verdicts()


def request_headers(headers: Headers, dropped: frozenset[bytes] = frozenset()) -> list[Header]:
    """A caller's headers as the app gets them, without those of `dropped`. Order and repeats are kept."""
    sent: list[Header] = []
    verdicts = _REQUEST
    connection: bytes | None = None
    baggage = False
    for header in headers:
        name = header[0]
        if name in dropped:
            continue
        verdict = verdicts[name]
        if verdict is None:
            if name == b"connection":
                connection = header[1] if connection is None else connection + b"," + header[1]
        elif verdict is not name and verdict != name:
            sent.append((verdict, header[1]))
        elif name == _SINGLE_VALUED:
            if not baggage:
                sent.append(header)
            baggage = True
        else:
            sent.append(header)
    return sent if connection is None else _without_listed(sent, connection)


def response_headers(headers: Headers) -> list[Header]:
    """An app's headers as the caller gets them: without hop-by-hop ones, `content-length` and names ending `-bin`."""
    kept: list[Header] = []
    connection: bytes | None = None
    for header in headers:
        name = header[0]
        if name in _RESPONSE_DROPPED:
            if name == b"connection":
                connection = header[1] if connection is None else connection + b"," + header[1]
        elif name[-4:] != b"-bin":
            kept.append(header)
    return kept if connection is None else _without_listed(kept, connection)


_RESPONSE_DROPPED: Final = HOP_BY_HOP | {b"content-length"}


def _without_listed(headers: list[Header], connection: bytes) -> list[Header]:
    """The names that `Connection` lists are hop-by-hop too."""
    listed = {token.strip() for token in connection.lower().split(b",")}
    if listed <= {b"keep-alive", b"close", b""}:
        return headers
    return [header for header in headers if header[0] not in listed]


def metadata_headers(metadata: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[Header]:
    """A metadata map as headers: the rules of `request_headers`, and `content-type` is the call's own to set."""
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    headers = [(_name(key), _value(value)) for key, value in pairs]
    return request_headers([header for header in headers if header[0]], _METADATA_DROPPED)


_METADATA_DROPPED: Final = frozenset({b"content-type"})


def _name(key: str) -> bytes:
    """A header name from a metadata key; empty when the key holds what no name may."""
    name = key.strip().lower().encode("utf-8", "replace")
    return name if name.lstrip(b":") and not name.lstrip(b":").translate(None, _TOKEN) else b""


_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"


def _value(text: str) -> bytes:
    """A header value from a metadata value: line breaks and other control characters become blanks."""
    value = text.encode("utf-8", "replace")
    return (value.translate(_BLANKED) if not text.isprintable() else value).strip()


_BLANKED: Final = bytes(32 if code < 32 or code == 127 else code for code in range(256))
