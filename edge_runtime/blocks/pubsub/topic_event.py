"""Events as the messages that gRPC apps and streams get, and what the statuses mean that come back.

`data` are the bytes that the publisher's content type stands for; JSON stands as the envelope has it, so that every
digit of a number stays. The other attributes go into a Struct, which knows no numbers but doubles: a whole number
beyond 2^53 is exact only in `data`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from edge_runtime.blocks.pubsub.app import Batch, BulkEvent, DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.delivery import is_binary
from edge_runtime.observability.trace import binary_of, valid_traceparent
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    TopicEventBulkRequest,
    TopicEventBulkRequestEntry,
    TopicEventBulkResponse,
    TopicEventCERequest,
    TopicEventRequest,
    TopicEventResponse,
)
from edge_runtime.wire import cloudevents
from edge_runtime.wire.exact_json import NULL
from edge_runtime.wire.headers import metadata_headers

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

BULK_TYPE: Final = "com.dapr.event.sent.bulk"
# A protobuf reader gives up at a hundred messages within one another; a level of a Struct takes three of them.
_NESTING_MAX: Final = 30
# Attributes that have fields of their own.
_OWN: Final = frozenset({"id", "source", "type", "specversion", "datacontenttype", "data", "data_base64"})

_Members = Mapping[str, msgspec.Raw]
Metadata = list[tuple[str, str | bytes]]

# Whatever can be wrong with an event that some other publisher wrote.
_UNREADABLE: Final = (ValueError, OverflowError, RecursionError, msgspec.DecodeError)
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode

# --- one event --------------------------------------------------------------------------------------------------------


def topic_event(event: Event, path: str) -> TopicEventRequest:
    """The event for `OnTopicEvent` or a stream. Raises `DeliveryFailed` when its data are not what its type says."""
    try:
        if event.metadata and not event.raw and is_binary(event.metadata):
            return _filled(_binary_members(event), event, path, event.data)
        try:
            return _filled(_decode_members(event.data), event, path, None)
        except (msgspec.DecodeError, UnicodeDecodeError):  # what Go takes and this decoder does not
            return _filled(_decode_members(cloudevents.compact_json(event.data)), event, path, None)
    except _UNREADABLE as error:
        raise DeliveryFailed(f"the event cannot be delivered: {error}") from None


def _filled(members: _Members, event: Event, path: str, data: bytes | None) -> TopicEventRequest:
    content_type = _text(members, "datacontenttype")
    request = TopicEventRequest(
        id=_text(members, "id"),
        source=_text(members, "source"),
        type=_text(members, "type"),
        spec_version=_text(members, "specversion"),
        data_content_type=content_type,
        data=_data(members, content_type) if data is None else data,
        topic=event.topic,
        pubsub_name=event.pubsub,
        path=path,
    )
    _extend(request.extensions, members)
    return request


def _binary_members(event: Event) -> _Members:
    """The attributes of an event that came in binary mode; its data are the bytes themselves."""
    attributes = cloudevents.binary_event(b"", event.metadata)
    return {name: msgspec.Raw(cloudevents.quote(value)) for name, value in attributes.items()}


def _text(members: _Members, name: str) -> str:
    raw = members.get(name)
    value = None if raw is None else _decode(raw)
    return value if isinstance(value, str) else ""


def _data(members: _Members, content_type: str) -> bytes:
    """The bytes that were published. Without a type they are JSON, as CloudEvents has it; of a type that is neither
    JSON nor text they are what the envelope holds. Dapr delivers none in both cases."""
    encoded = _decode(members["data_base64"]) if "data_base64" in members else None
    if encoded is not None:
        return _decoded(encoded)
    data = members.get("data")
    if data is None or data == NULL:
        return b""
    kind = cloudevents.media_type(content_type)
    if not kind or kind in (cloudevents.JSON_TYPE, cloudevents.CLOUD_EVENT):
        return bytes(data)
    text = _decode(data)
    if isinstance(text, str):
        return text.encode()
    if kind.startswith("text/") or kind == "application/xml":
        raise ValueError(f"its data are no text, as {content_type} says")
    return bytes(data)


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("its data_base64 is no text")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its data_base64 is no base64: {error}") from None


def _extend(extensions: Struct, members: _Members) -> None:
    fields = extensions.fields
    for name, raw in members.items():
        if name not in _OWN:
            _set(fields[name], _decode(raw), _NESTING_MAX)


def _set(value: Value, member: Any, levels: int) -> None:
    if isinstance(member, str):
        value.string_value = member
    elif isinstance(member, bool):
        value.bool_value = member
    elif isinstance(member, (int, float)):
        value.number_value = member
    elif member is None:
        value.null_value = 0  # type: ignore[assignment]
    elif not levels:
        raise ValueError(f"an attribute has more than {_NESTING_MAX} levels")
    elif isinstance(member, dict):
        _set_struct(value.struct_value, member, levels - 1)
    else:
        _set_list(value.list_value, member, levels - 1)


def _set_struct(struct: Struct, members: Mapping[str, Any], levels: int) -> None:
    struct.SetInParent()
    for name, member in members.items():
        _set(struct.fields[name], member, levels)


def _set_list(values: ListValue, members: Iterable[Any], levels: int) -> None:
    values.SetInParent()
    for member in members:
        _set(values.values.add(), member, levels)


def verdict_of(status: int, topic: str) -> Verdict:
    """What the status of one event means. Raises `DeliveryFailed` when it is to be delivered again."""
    if status == TopicEventResponse.SUCCESS:
        return Verdict.SUCCESS
    if status == TopicEventResponse.DROP:
        logger.warning("the app answered DROP for an event of topic %s", topic)
        return Verdict.DROP
    raise DeliveryFailed(f"the app answered the status {_status_name(status)}")


def _status_name(status: int) -> str:
    return "RETRY" if status == TopicEventResponse.RETRY else str(status)


# --- a batch ----------------------------------------------------------------------------------------------------------


def topic_events(batch: Batch, path: str) -> TopicEventBulkRequest:
    """The batch for `OnBulkTopicEvent`, without the entries whose data are not what their type says."""
    request = TopicEventBulkRequest(
        id=batch.batch_id,
        metadata={"pubsubName": batch.pubsub},
        topic=batch.topic,
        pubsub_name=batch.pubsub,
        type=BULK_TYPE,
        path=path,
    )
    for event in batch.entries:
        try:
            request.entries.append(_entry(event))
        except _UNREADABLE as error:
            logger.warning("an event in a batch of topic %s cannot be delivered: %s", batch.topic, error)
    return request


def _entry(event: BulkEvent) -> TopicEventBulkRequestEntry:
    entry = TopicEventBulkRequestEntry(
        entry_id=event.entry_id, content_type=event.content_type, metadata=_sendable(event.metadata)
    )
    if event.content_type == cloudevents.OCTET_STREAM:  # a raw payload, which a batch holds as a JSON text
        entry.bytes = _decoded(_decode(event.event))
        return entry
    try:
        entry.cloud_event.CopyFrom(_cloud_event(_decode_members(event.event)))
    except (msgspec.DecodeError, UnicodeDecodeError):
        entry.cloud_event.CopyFrom(_cloud_event(_decode_members(cloudevents.compact_json(event.event))))
    return entry


def _cloud_event(members: _Members) -> TopicEventCERequest:
    content_type = _text(members, "datacontenttype")
    event = TopicEventCERequest(
        id=_text(members, "id"),
        source=_text(members, "source"),
        type=_text(members, "type"),
        spec_version=_text(members, "specversion"),
        data_content_type=content_type,
        data=_data(members, content_type),
    )
    _extend(event.extensions, members)
    return event


def _sendable(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Texts without halves of surrogate pairs, which no message can hold."""
    if all(key.isascii() and value.isascii() for key, value in metadata.items()):
        return metadata
    return {_mended(key): _mended(value) for key, value in metadata.items()}


def _mended(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def verdicts_of(response: TopicEventBulkResponse, batch: Batch) -> Mapping[str, Verdict]:
    """What the statuses of a batch mean; an entry without one, or with one that nobody knows, has failed."""
    ids = {entry.entry_id for entry in batch.entries}
    verdicts = {}
    for item in response.statuses:
        verdict = _VERDICTS.get(item.status)
        if verdict is not None and item.entry_id in ids:
            verdicts[item.entry_id] = verdict
    return verdicts


_VERDICTS: Final[Mapping[int, Verdict]] = {
    TopicEventResponse.SUCCESS: Verdict.SUCCESS,
    TopicEventResponse.DROP: Verdict.DROP,
}

# --- metadata of the call ---------------------------------------------------------------------------------------------

_NAME: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
# Not a publisher's to say.
_TAKEN: Final = frozenset({b"dapr-api-token", b"pubsubname", b"user-agent"})
_TRACE: Final = frozenset({"traceparent", "tracestate", "grpc-trace-bin"})
# gRPC's own servers refuse a call with more than 8 KiB of metadata, and the event would be refused again and again.
CARRIED_BYTES_MAX: Final = 4096
TRACESTATE_MAX: Final = 2048
_FIELD_BYTES: Final = 32  # what HTTP/2 counts for a field beside its name and value


def call_metadata(event: Event, traceparent: str) -> Metadata:
    """The broker's metadata as far as gRPC can carry them, and the trace that the call belongs to."""
    metadata: Metadata = [("pubsubname", event.pubsub)]
    if event.metadata:
        metadata += _carried(event.metadata)
    if traceparent and valid_traceparent(traceparent):
        metadata = [pair for pair in metadata if pair[0] not in _TRACE]
        metadata.append(("traceparent", traceparent))
        metadata.append(("grpc-trace-bin", binary_of(traceparent)))
        if event.tracestate and len(event.tracestate) <= TRACESTATE_MAX:
            metadata.append(("tracestate", _printable(event.tracestate.encode())))
    return metadata


def _carried(metadata: Mapping[str, str]) -> Iterable[tuple[str, str | bytes]]:
    room = CARRIED_BYTES_MAX
    for name, value in metadata_headers(metadata):
        if name in _TAKEN or name.translate(None, _NAME):
            continue
        size = len(name) + len(value) + _FIELD_BYTES
        if size > room:
            logger.debug("metadata %r of an event is left out: more than %d bytes", name, CARRIED_BYTES_MAX)
            continue
        room -= size
        yield name.decode(), _printable(value)


def _printable(value: bytes) -> str:
    """A metadata value is printable ASCII; anything else in it becomes a question mark."""
    text = value.decode("utf-8", "replace")
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)
