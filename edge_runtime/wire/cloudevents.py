"""CloudEvents 1.0 as Dapr writes and reads them: pure functions over bytes.

An envelope is joined from bytes. The JSON that an app published is checked and made compact but never turned into
Python values, so that numbers keep every digit and keys their order. Ids and times are arguments.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from edge_runtime.wire.exact_json import mend_surrogates

JSON_TYPE: Final = "application/json"
OCTET_STREAM: Final = "application/octet-stream"
CLOUD_EVENT: Final = "application/cloudevents+json"
PLAIN_TEXT: Final = "text/plain"
EVENT_TYPE: Final = "com.dapr.event.sent"
DEFAULT_SOURCE: Final = "Dapr"

_CLOUD_EVENT_PROTOBUF: Final = "application/cloudevents+protobuf"
_PROTOBUF: Final = "application/x-protobuf"
_OVERRIDE: Final = "cloudevent."
_BINARY_ATTRIBUTE: Final = "ce_"

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_scanner: Final = json.JSONDecoder()


class Overrides(NamedTuple):
    """What `cloudevent.*` metadata says in place of the defaults; empty where it says nothing."""

    id: str = ""
    source: str = ""
    type: str = ""
    subject: str = ""
    traceid: str = ""
    traceparent: str = ""
    tracestate: str = ""


NO_OVERRIDES: Final = Overrides()


class Head(msgspec.Struct):
    """The attributes that a delivery looks at, whatever else the event holds. Not text: treated as absent."""

    expiration: Any = ""
    traceparent: Any = ""
    traceid: Any = ""
    tracestate: Any = ""


_decode_head = msgspec.json.Decoder(Head).decode

# --- JSON pieces ------------------------------------------------------------------------------------------------------


def quote(text: str) -> bytes:
    """A JSON string, with `<`, `>`, `&` and the two line separators escaped as Go does."""
    return _escape_markup(_encode(text))


def _escape_markup(document: bytes) -> bytes:
    # In JSON these bytes can only stand inside strings, so replacing them anywhere is safe.
    if b"<" in document:
        document = document.replace(b"<", b"\\u003c")
    if b">" in document:
        document = document.replace(b">", b"\\u003e")
    if b"&" in document:
        document = document.replace(b"&", b"\\u0026")
    if b"\xe2\x80" in document:
        document = document.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return document


_quote_often = lru_cache(maxsize=1024)(quote)  # for what repeats: topics, components, app-ids, content types


def compact_json(document: bytes) -> bytes:
    """The first JSON value of `document` without blanks, its numbers and key order kept. Raises ValueError."""
    try:
        compact = msgspec.json.format(document, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        compact = _first_value(document)
    if not compact.isascii():
        compact = _valid_utf8(compact)
    return _escape_markup(compact)


def _first_value(document: bytes) -> bytes:
    """As `compact_json` for what msgspec refuses but Go takes: text after the value, surrogates that stand alone."""
    text = document.decode("utf-8", "replace").lstrip(" \t\r\n")
    try:
        end = _scanner.raw_decode(text)[1]
        value = mend_surrogates(text[:end].encode())
        return msgspec.json.format(value, indent=-1)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def _valid_utf8(document: bytes) -> bytes:
    try:
        document.decode()
    except UnicodeDecodeError:
        return document.decode("utf-8", "replace").encode()
    return document


def parse_json(document: bytes) -> Any:
    """One JSON value and nothing after it, integers exact. Raises ValueError."""
    try:
        return _decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode(mend_surrogates(_valid_utf8(document)))


def _decode(document: bytes) -> Any:
    try:
        return _decode_any(document)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


# --- content types ----------------------------------------------------------------------------------------------------

_AS_TEXT, _AS_JSON, _AS_BASE64, _AS_PROTOBUF, _AS_EVENT = range(5)
_KINDS: Final = {
    JSON_TYPE: _AS_JSON,
    OCTET_STREAM: _AS_BASE64,
    _CLOUD_EVENT_PROTOBUF: _AS_BASE64,
    _PROTOBUF: _AS_PROTOBUF,
    CLOUD_EVENT: _AS_EVENT,
}


def media_type(content_type: str) -> str:
    """The type without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=256)
def _kind(content_type: str) -> int:
    return _KINDS.get(media_type(content_type), _AS_TEXT)


def is_cloud_event(content_type: str) -> bool:
    """True for a body that is a CloudEvent already."""
    return _kind(content_type) == _AS_EVENT


def _data_member(data: bytes, content_type: str) -> bytes:
    """`"data":…` or `"data_base64":…`, by the rules for the content type."""
    kind = _kind(content_type)
    if kind == _AS_JSON:
        try:
            return b'"data":' + compact_json(data)
        except ValueError:
            pass
    elif kind == _AS_BASE64 or (kind == _AS_PROTOBUF and _is_protobuf_event(data)):
        return b'"data_base64":"%b"' % binascii.b2a_base64(data, newline=False)
    return b'"data":' + quote(data.decode("utf-8", "replace"))


# --- publish ----------------------------------------------------------------------------------------------------------


def make_envelope(
    data: bytes,
    content_type: str,
    *,
    event_id: str,
    time: str,
    source: str,
    topic: str,
    pubsub: str,
    traceparent: str = "",
    tracestate: str = "",
    expiration: str = "",
    overrides: Overrides = NO_OVERRIDES,
) -> bytes:
    """The envelope around an ordinary body; keys in alphabetical order."""
    event_type = subject = b""
    content_type = content_type or PLAIN_TEXT
    if overrides is not NO_OVERRIDES:
        event_id = overrides.id or event_id
        source = overrides.source or source
        event_type = quote(overrides.type) if overrides.type else b""
        subject = b',"subject":' + quote(overrides.subject) if overrides.subject else b""
        traceparent = overrides.traceparent or overrides.traceid or traceparent
        tracestate = overrides.tracestate or tracestate
    trace = quote(traceparent) if traceparent else b'""'
    return b"".join(
        (
            b"{",
            _data_member(data, content_type),
            b',"datacontenttype":',
            _quote_often(content_type),
            b',"expiration":"%b"' % expiration.encode() if expiration else b"",
            b',"id":',
            quote(event_id),
            b',"pubsubname":',
            _quote_often(pubsub),
            b',"source":',
            _quote_often(source),
            b',"specversion":"1.0"',
            subject,
            b',"time":',
            quote(time),
            b',"topic":',
            _quote_often(topic),
            b',"traceid":',
            trace,
            b',"traceparent":',
            trace,
            b',"tracestate":',
            quote(tracestate) if tracestate else b'""',
            b',"type":',
            event_type or b'"com.dapr.event.sent"',
            b"}",
        )
    )


def complete_envelope(
    event: bytes,
    *,
    time: str,
    topic: str,
    pubsub: str,
    traceparent: str = "",
    tracestate: str = "",
    expiration: str = "",
) -> bytes:
    """A body that is a CloudEvent already, with its place and what is absent filled in. Raises ValueError."""
    members = _members(event)
    members["topic"] = quote(topic)
    members["pubsubname"] = quote(pubsub)
    members.setdefault("time", quote(time))
    for name, value in (("source", DEFAULT_SOURCE), ("type", EVENT_TYPE), ("specversion", "1.0")):
        if members.get(name, b"null") == b"null":
            members[name] = quote(value)
    if "traceid" not in members:
        members["traceid"] = members["traceparent"] = quote(traceparent)
    members.setdefault("tracestate", quote(tracestate))
    if expiration:
        members["expiration"] = quote(expiration)
    return _object(members)


def _members(document: bytes) -> dict[str, bytes]:
    try:
        raw = _decode_members(compact_json(document))
    except msgspec.DecodeError as error:
        raise ValueError(f"a CloudEvent is a JSON object: {error}") from None
    return {name: bytes(value) for name, value in raw.items()}


def _object(members: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (quote(name), members[name]) for name in sorted(members))


def with_attributes(event: bytes, attributes: Mapping[str, str]) -> bytes:
    """The event with these attributes, in place of what it has under their names. Raises ValueError: it is none."""
    members = _members(event)
    if members.get("specversion", b"null") == b"null":
        raise ValueError("a CloudEvent has a specversion")
    members.update((name, quote(value)) for name, value in attributes.items())
    return _object(members)


def overrides_of(metadata: Mapping[str, str]) -> Overrides:
    """`cloudevent.*` of a publish's metadata, names in any case."""
    found: dict[str, str] = {}
    for key, value in metadata.items():
        lower = key.lower()
        if lower.startswith(_OVERRIDE) and lower[len(_OVERRIDE) :] in Overrides._fields:
            found[lower[len(_OVERRIDE) :]] = value
    return Overrides(**found) if found else NO_OVERRIDES


def rfc3339(unix_s: float, offset_s: int | None = None) -> str:
    """Whole seconds with the given zone offset; None for UTC, written `Z`, as is an offset of nothing."""
    zone = timezone(timedelta(seconds=offset_s)) if offset_s else UTC
    text = datetime.fromtimestamp(int(unix_s), zone).isoformat(timespec="seconds")
    return text if offset_s else text[:19] + "Z"


def expiration_time(now_s: float, ttl_s: float) -> str:
    """When an event published now is too old, as the attribute `expiration` has it. Far future: the last year."""
    try:
        return rfc3339(now_s + ttl_s)
    except (OverflowError, ValueError):
        return "9999-12-31T23:59:59Z"


# --- receive ----------------------------------------------------------------------------------------------------------


def raw_envelope(data: bytes, *, event_id: str, topic: str, pubsub: str, metadata: Mapping[str, str]) -> bytes:
    """The envelope that a subscriber with `rawPayload` gets around bytes that never had one."""
    members = {
        "data_base64": b'"%b"' % binascii.b2a_base64(data, newline=False),
        "datacontenttype": b'"application/octet-stream"',
        "id": quote(event_id),
        "pubsubname": _quote_often(pubsub),
        "source": b'"Dapr"',
        "specversion": b'"1.0"',
        "topic": _quote_often(topic),
        "type": b'"com.dapr.event.sent"',
    }
    for name in ("traceid", "traceparent", "tracestate"):
        if name in metadata:
            members[name] = quote(metadata[name])
    return _object(members)


def binary_event(data: bytes, metadata: Mapping[str, str]) -> dict[str, Any]:
    """A CloudEvent that came in binary mode: attributes in `ce_*` metadata, the bytes as its data."""
    event: dict[str, Any] = {}
    for key, value in metadata.items():
        lower = key.lower()
        if lower.startswith(_BINARY_ATTRIBUTE):
            event[lower[len(_BINARY_ATTRIBUTE) :]] = value
    event.setdefault("datacontenttype", OCTET_STREAM)
    event["data_base64"] = base64.b64encode(data).decode()
    return event


def read_head(document: bytes) -> Head:
    """The attributes that a delivery needs, the rest only checked for form. Raises ValueError: not a JSON object."""
    try:
        return _decode_head(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return head_of(read_event(document))


def read_event(document: bytes) -> dict[str, Any]:
    """The whole event as Python values. Raises ValueError when it is not a JSON object."""
    event = parse_json(document)
    if not isinstance(event, dict):
        raise ValueError("a CloudEvent is a JSON object")
    return event


def head_of(event: Mapping[str, Any]) -> Head:
    """The same attributes of an event that is parsed already."""
    return Head(*(event.get(name, "") for name in Head.__struct_fields__))


def has_expired(expiration: object, now_s: float) -> bool:
    """True when the attribute is a time in the past. What is no RFC 3339 time never expires."""
    if not expiration or not isinstance(expiration, str) or len(expiration) < 20:
        return False
    try:
        moment = datetime.fromisoformat(expiration)
    except ValueError:
        return False
    return moment.tzinfo is not None and moment.timestamp() < now_s


# --- protobuf ---------------------------------------------------------------------------------------------------------


def _is_protobuf_event(data: bytes) -> bool:
    """True when the bytes have the form of a protobuf message whose CloudEvent texts are valid UTF-8."""
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            if not tag >> 3:
                return False
            end = _field_end(data, at, tag & 7)
            if tag & 7 == 2 and tag >> 3 in (1, 2, 3, 4, 7):
                data[_varint(data, at)[1] : end].decode()
            at = end
    except ValueError:
        return False
    return True


def _field_end(data: bytes, at: int, wire_type: int) -> int:
    if wire_type == 0:
        end = _varint(data, at)[1]
    elif wire_type == 2:
        length, start = _varint(data, at)
        end = start + length
    elif wire_type in (1, 5):
        end = at + (8 if wire_type == 1 else 4)
    else:
        raise ValueError("a wire type that CloudEvents do not use")
    if end > len(data):
        raise ValueError("a field passes the end")
    return end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number passes the end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than ten bytes")
