"""The JSON body of a bulk publish, read into entries: each event as the bytes that its content type stands for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edge_runtime.blocks.pubsub.publish import Entry, pubsub_error
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.wire import cloudevents

_decode_entries = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None).decode
_decode_metadata: Final = msgspec.json.Decoder(dict[str, str] | None).decode
_decode_text: Final = msgspec.json.Decoder(str | None).decode
_MISFIT: Final = "error: mismatch between contentType and event"


def read_entries(pubsub: str, topic: str, body: bytes) -> list[Entry]:
    """Names are matched in any case, what is unknown is left out, numbers in events stay exact."""
    try:
        items = [{name.lower(): value for name, value in item.items()} for item in _items(body)]
        heads = [(_text(item, "entryid"), _text(item, "contenttype"), _metadata(item)) for item in items]
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        text = f"error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}"
        raise _error(Kind.PUBSUB_UNMARSHAL_EVENTS, pubsub, topic, text, error) from None
    entries = []
    for item, (entry_id, content_type, metadata) in zip(items, heads, strict=True):
        try:
            data = _event_bytes(bytes(item.get("event", b"null")), content_type)
        except ValueError as error:
            text = f"error when marshalling cloud event envelope for topic {topic} pubsub {pubsub}: {error}"
            raise _error(Kind.PUBSUB_MARSHAL_ENVELOPE, pubsub, topic, text, error) from None
        entries.append(Entry(entry_id, data, content_type, metadata))
    return entries


def _items(body: bytes) -> list[dict[str, msgspec.Raw]]:
    try:
        return _decode_entries(body) or []
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _decode_entries(cloudevents.compact_json(body)) or []  # text after the array is left out


def _text(item: Mapping[str, msgspec.Raw], name: str) -> str:
    raw = item.get(name)
    return "" if raw is None else _decode_text(raw) or ""


def _metadata(item: Mapping[str, msgspec.Raw]) -> Mapping[str, str] | None:
    raw = item.get("metadata")
    return None if raw is None else _decode_metadata(raw)


def _event_bytes(event: bytes, content_type: str) -> bytes:
    """Raises ValueError when the event does not fit the content type."""
    kind = cloudevents.media_type(content_type)
    if kind in (cloudevents.JSON_TYPE, cloudevents.CLOUD_EVENT):
        return event
    if kind == cloudevents.OCTET_STREAM:
        return base64.b64decode(_string(event), validate=True)
    if kind.startswith("text/") or kind == "application/xml":
        return _string(event).encode("utf-8", "replace")
    raise ValueError(_MISFIT)


def _string(event: bytes) -> str:
    value: Any = cloudevents.parse_json(event)
    if not isinstance(value, str):
        raise ValueError(_MISFIT)
    return value


def _error(kind: Kind, pubsub: str, topic: str, text: str, error: Exception) -> EdgeError:
    return pubsub_error(kind, pubsub, text, {"topic": topic, "error": str(error)})
