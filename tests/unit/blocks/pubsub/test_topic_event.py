"""Events as messages of the gRPC API, and the statuses that come back."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from edge_runtime.blocks.pubsub.app import Batch, BulkEvent, DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.topic_event import call_metadata, topic_event, topic_events, verdict_of, verdicts_of
from edge_runtime.observability.trace import binary_of
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    TopicEventBulkResponse,
    TopicEventBulkResponseEntry,
    TopicEventRequest,
    TopicEventResponse,
)
from edge_runtime.wire.cloudevents import CLOUD_EVENT, OCTET_STREAM, make_envelope, raw_envelope
from tests.unit.blocks.pubsub.fakes import TRACE

SUCCESS, RETRY, DROP = TopicEventResponse.SUCCESS, TopicEventResponse.RETRY, TopicEventResponse.DROP


def envelope(data: bytes, content_type: str) -> bytes:
    return make_envelope(
        data, content_type, event_id="1", time="2026-01-01T00:00:00Z", source="app", topic="t", pubsub="pubsub"
    )


def read(document: bytes | dict[str, Any], **more: Any) -> TopicEventRequest:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return topic_event(Event("pubsub", "t", data, **more), "/orders")


def test_an_envelope_becomes_a_message() -> None:
    message = read(envelope(b'{"b": 1, "a": 2}', "application/json"))
    assert MessageToDict(message, preserving_proto_field_name=True) == {
        "id": "1",
        "source": "app",
        "type": "com.dapr.event.sent",
        "spec_version": "1.0",
        "data_content_type": "application/json",
        "data": base64.b64encode(b'{"b":1,"a":2}').decode(),
        "topic": "t",
        "pubsub_name": "pubsub",
        "path": "/orders",
        "extensions": {
            "topic": "t",
            "pubsubname": "pubsub",
            "time": "2026-01-01T00:00:00Z",
            "traceid": "",
            "traceparent": "",
            "tracestate": "",
        },
    }


@pytest.mark.parametrize(
    ("content_type", "published", "delivered"),
    [
        ("application/json", b'{"big":9007199254740993,"exact":0.1000}', b'{"big":9007199254740993,"exact":0.1000}'),
        ("application/json; charset=utf-8", b"[1]", b"[1]"),
        ("application/json", b"no json", b'"no json"'),
        ("text/plain", "grüße <&>".encode(), "grüße <&>".encode()),
        ("TEXT/html", b"<b>", b"<b>"),
        ("application/xml", b"<a/>", b"<a/>"),
        ("application/octet-stream", b"\x00\xff", b"\x00\xff"),
        ("application/vnd.x+json", b'{"a":1}', b'{"a":1}'),  # neither binary, JSON nor text: Dapr delivers nothing
        ("image/svg", b"x", b"x"),
    ],
)
def test_data_are_what_was_published(content_type: str, published: bytes, delivered: bytes) -> None:
    assert read(envelope(published, content_type)).data == delivered


@pytest.mark.parametrize(
    ("members", "data"),
    [
        ({}, b""),
        ({"data": None, "datacontenttype": "application/json"}, b""),
        ({"data": {"a": [1, None]}, "datacontenttype": "application/cloudevents+json"}, b'{"a": [1, null]}'),
        ({"data": "x"}, b'"x"'),
        ({"data": {"a": 1}}, b'{"a": 1}'),
        ({"data": "x", "datacontenttype": 7}, b'"x"'),
        ({"data": [1], "datacontenttype": "image/svg"}, b"[1]"),
        ({"data_base64": None, "data": "x", "datacontenttype": "text/plain"}, b"x"),
        ({"data_base64": "AAE=", "data": "x", "datacontenttype": "text/plain"}, b"\x00\x01"),
    ],
)
def test_foreign_envelopes_are_read(members: dict[str, Any], data: bytes) -> None:
    assert read(members).data == data


def test_attributes_of_any_kind_are_extensions() -> None:
    message = read(
        {"id": 5, "n": 1.5, "b": True, "z": None, "l": [1, "x", {"y": []}], "o": {"k": {}}, "big": 9007199254740993}
    )
    assert message.id == ""
    assert MessageToDict(message.extensions) == {
        "n": 1.5,
        "b": True,
        "z": None,
        "l": [1.0, "x", {"y": []}],
        "o": {"k": {}},
        "big": 9007199254740992.0,
    }


@pytest.mark.parametrize(
    "document",
    [
        {"data": {"a": 1}, "datacontenttype": "text/plain"},
        {"data_base64": "no base64!"},
        {"data_base64": 7},
        b'{"huge": 1e999}',
        b'{"huge": ' + b"9" * 400 + b"}",
        b'{"deep": ' + b"[" * 31 + b"]" * 31 + b"}",
        b'{"deep": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"[]",
    ],
)
def test_what_cannot_be_said_fails(document: Any) -> None:
    with pytest.raises(DeliveryFailed, match="cannot be delivered"):
        read(document)


def test_deep_attributes_can_be_read_again() -> None:
    message = read(b'{"deep": ' + b"[" * 30 + b"]" * 30 + b"}")
    assert TopicEventRequest.FromString(message.SerializeToString()) == message


def test_halves_of_characters_are_mended() -> None:
    message = read(b'{"id":"a\\ud800","data":"x\\ud83d","datacontenttype":"text/plain","k":"\\ud800","bad":"\xff"}')
    assert (message.id, message.data) == ("a\ufffd", "x\ufffd".encode())
    assert message.extensions["k"] == "\ufffd"
    assert message.extensions["bad"] == "\ufffd"


def test_a_raw_payload_is_wrapped_already() -> None:
    data = raw_envelope(b"\x00raw", event_id="9", topic="t", pubsub="pubsub", metadata={})
    message = read(data, metadata={"content-type": OCTET_STREAM}, raw=True)
    assert (message.id, message.data, message.data_content_type) == ("9", b"\x00raw", OCTET_STREAM)


def test_binary_mode_is_put_together() -> None:
    metadata = {"Content-Type": OCTET_STREAM, "ce_id": "7", "ce_type": "made", "ce_source": "s", "ce_extra": "e"}
    message = read(b"\x00bytes", metadata=metadata)
    assert (message.id, message.type, message.source, message.data) == ("7", "made", "s", b"\x00bytes")
    assert MessageToDict(message.extensions) == {"extra": "e"}


# --- statuses ---------------------------------------------------------------------------------------------------------


def test_statuses_are_verdicts() -> None:
    assert verdict_of(SUCCESS, "t") is Verdict.SUCCESS
    assert verdict_of(DROP, "t") is Verdict.DROP
    for status, name in ((RETRY, "RETRY"), (77, "77")):
        with pytest.raises(DeliveryFailed, match=name):
            verdict_of(status, "t")


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_becomes_a_message() -> None:
    entries = [
        BulkEvent("a", envelope(b'{"x":1}', "application/json"), CLOUD_EVENT, {"k": "v"}),
        BulkEvent("b", b'"AAE="', OCTET_STREAM),
        BulkEvent("c", b'{"data":1,"datacontenttype":"text/plain"}', CLOUD_EVENT),
        BulkEvent("d", b'{"id":"\\ud800"}', CLOUD_EVENT, {"half\ud800": "x\ud800"}),
    ]
    message = topic_events(Batch("batch", "pubsub", "t", entries), "/orders")
    assert (message.id, message.type, message.path) == ("batch", "com.dapr.event.sent.bulk", "/orders")
    assert (message.topic, message.pubsub_name, dict(message.metadata)) == ("t", "pubsub", {"pubsubName": "pubsub"})
    first, second, fourth = message.entries  # the third's data are no text, as its type says: it fails alone
    assert (first.entry_id, first.content_type, dict(first.metadata)) == ("a", CLOUD_EVENT, {"k": "v"})
    assert (first.cloud_event.id, first.cloud_event.data) == ("1", b'{"x":1}')
    assert first.cloud_event.extensions["topic"] == "t"
    assert (second.entry_id, second.bytes, second.content_type) == ("b", b"\x00\x01", OCTET_STREAM)
    assert (fourth.cloud_event.id, dict(fourth.metadata)) == ("\ufffd", {"half?": "x?"})


def test_silence_about_an_entry_is_a_failure() -> None:
    batch = Batch("batch", "p", "t", [BulkEvent(name, b"{}", CLOUD_EVENT) for name in "abcde"])
    said = [("a", SUCCESS), ("b", DROP), ("c", RETRY), ("d", 9), ("stranger", SUCCESS)]
    response = TopicEventBulkResponse(
        statuses=[TopicEventBulkResponseEntry(entry_id=name, status=status) for name, status in said]  # type: ignore[arg-type]
    )
    assert verdicts_of(response, batch) == {"a": Verdict.SUCCESS, "b": Verdict.DROP}


# --- metadata of the call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "pair"),
    [
        ("Key", "v", ("key", "v")),
        ("k", "ü\n", ("k", "?")),
        ("k", "a~ b", ("k", "a~ b")),
        ("odd!name", "x", None),
        ("content-type", "x", None),
        ("trace-bin", "x", None),
        ("pubsubName", "other", None),
        ("dapr-api-token", "x", None),
        ("user-agent", "x", None),
        ("te", "x", None),
        ("grpc-timeout", "1S", ("dapr-grpc-timeout", "1S")),
    ],
)
def test_only_legal_metadata_travel(key: str, value: str, pair: tuple[str, str] | None) -> None:
    expected = [("pubsubname", "p"), *([pair] if pair else [])]
    assert call_metadata(Event("p", "t", b"{}", {key: value}), "") == expected


def test_the_trace_goes_on_in_both_forms() -> None:
    event = Event("p", "t", b"{}", {"traceparent": "other", "tracestate": "o", "k": "v"}, TRACE, "a=b")
    assert call_metadata(event, TRACE) == [
        ("pubsubname", "p"),
        ("k", "v"),
        ("traceparent", TRACE),
        ("grpc-trace-bin", binary_of(TRACE)),
        ("tracestate", "a=b"),
    ]
    assert call_metadata(Event("p", "t", b"{}"), "no trace") == [("pubsubname", "p")]


def test_metadata_leave_room_for_a_call() -> None:
    """More than gRPC's servers take would have the event refused for ever."""
    metadata = {"before": "1", "huge": "v" * 4096, "large": "v" * 3800, "more": "v" * 300, "after": "2"}
    pairs = dict(call_metadata(Event("p", "t", b"{}", metadata, TRACE, "s" * 3000), TRACE))
    assert set(pairs) == {"pubsubname", "before", "large", "after", "traceparent", "grpc-trace-bin"}
