"""Metadata as header fields and back: text as it is, the values of names ending in `-bin` as base64.

On the wire base64 comes with or without padding, and several values may be joined by commas.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from typing import Final

Field = tuple[bytes, bytes]
Metadata = Sequence[tuple[str, str | bytes]]

# What the transport says itself; never shown as metadata, nor sent when a caller names it.
RESERVED: Final = frozenset(
    {
        b"content-type",
        b"te",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-status",
        b"grpc-message",
        b"grpc-message-type",
        b"grpc-status-details-bin",
        b"content-length",
        b"host",
        # HTTP/1's, which make an HTTP/2 message malformed
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
_VALUES_MAX: Final = 256  # in one field
_NAME_BYTES: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_TEXT_BYTES: Final = bytes(range(0x20, 0x7F))


class BadBinary(ValueError):
    """The value of a `-bin` field is no base64."""

    def __init__(self, name: bytes, value: bytes, reason: str) -> None:
        shown = value.decode("latin-1")
        super().__init__(f'malformed binary metadata "{shown}" in header "{name.decode("latin-1")}": {reason}')


def decode_binary(value: bytes) -> bytes:
    """One base64 value, padded or not. Raises `binascii.Error`."""
    if len(value) % 4:
        if value[-1:] == b"=":
            raise binascii.Error("illegal base64 data: wrong padding")
        value += b"=" * (-len(value) % 4)
    return binascii.a2b_base64(value, strict_mode=True) if value else b""


def encode_binary(value: bytes) -> bytes:
    """Base64 without padding, as gRPC sends it."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def decode_values(name: bytes, value: bytes) -> list[bytes]:
    """Every value of a `-bin` field. Raises `BadBinary`."""
    if value.count(b",") >= _VALUES_MAX:
        raise BadBinary(name, value[:64] + b"...", "too many values")
    try:
        return [decode_binary(part.strip(b" ")) for part in value.split(b",")]
    except binascii.Error as error:
        raise BadBinary(name, value, str(error)) from None


def decode_metadata(fields: Iterable[Field]) -> list[tuple[str, str | bytes]]:
    """What a caller sent beside the transport's own fields, in order. Raises `BadBinary`."""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name[:1] == b":" or name in RESERVED:
            continue
        if name[-4:] == b"-bin":
            key = name.decode("latin-1")
            metadata += [(key, part) for part in decode_values(name, value)]
        else:
            metadata.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))
    return metadata


def encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[Field]:
    """Header fields. Reserved names are left out; raises ValueError for what no header can hold."""
    fields: list[Field] = []
    for key, value in metadata:
        name = key.lower().encode("utf-8", "replace")
        if name[:1] == b":" or name in RESERVED:
            continue
        if not name or name.translate(None, _NAME_BYTES):
            raise ValueError(f"the metadata name {key!r} has a character that no header name may have")
        fields.append((name, _encode_value(name, value)))
    return fields


def _encode_value(name: bytes, value: str | bytes) -> bytes:
    if name[-4:] == b"-bin":
        return encode_binary(value.encode() if isinstance(value, str) else value)
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if data.translate(None, _TEXT_BYTES) and _has_control(data):
        raise ValueError(f"the metadata {name.decode()!r} has a control character in its value")
    return data.strip(b" ")


def _has_control(data: bytes) -> bool:
    return any(byte < 0x20 or byte == 0x7F for byte in data)
