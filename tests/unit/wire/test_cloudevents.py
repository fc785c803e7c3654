"""Envelopes byte by byte, and what a delivery reads from them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.wire import cloudevents as ce

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def envelope(data: bytes = b"x", content_type: str = "", **more: object) -> bytes:
    defaults: dict[str, object] = {
        "event_id": "i-1",
        "time": "2026-08-01T10:00:00+02:00",
        "source": "app",
        "topic": "orders",
        "pubsub": "pubsub",
    }
    return ce.make_envelope(data, content_type, **{**defaults, **more})  # type: ignore[arg-type]


def test_an_ordinary_envelope_byte_by_byte() -> None:
    assert envelope(b'{"b": 1, "a": [1.0, 2e5]}', "application/json", traceparent=TRACE, tracestate="k=v") == (
        b'{"data":{"b":1,"a":[1.0,2e5]},"datacontenttype":"application/json","id":"i-1","pubsubname":"pubsub",'
        b'"source":"app","specversion":"1.0","time":"2026-08-01T10:00:00+02:00","topic":"orders",'
        b'"traceid":"%b","traceparent":"%b","tracestate":"k=v","type":"com.dapr.event.sent"}'
        % (TRACE.encode(), TRACE.encode())
    )


def test_trace_fields_are_present_when_empty() -> None:
    event = json.loads(envelope())
    assert (event["traceid"], event["traceparent"], event["tracestate"]) == ("", "", "")
    assert event["datacontenttype"] == "text/plain"
    assert "expiration" not in event
    assert "subject" not in event


def test_keys_stand_in_order() -> None:
    everything = ce.Overrides("a", "b", "c", "d", "e", "f", "g")
    keys = list(json.loads(envelope(expiration="2026-08-01T10:00:00Z", overrides=everything)))
    assert keys == sorted(keys)
    assert len(keys) == 14


@pytest.mark.parametrize(
    ("data", "content_type", "field", "value"),
    [
        (b'{"a":1}', "application/json", "data", {"a": 1}),
        (b'{"a":1}', "Application/JSON; charset=utf-8", "data", {"a": 1}),
        (b"true", "application/json", "data", True),
        (b'{"a":1} tail', "application/json", "data", {"a": 1}),
        (b"no json", "application/json", "data", "no json"),
        (b"", "application/json", "data", ""),
        (b"NaN", "application/json", "data", "NaN"),
        (b'{"a":1}', "application/vnd.x+json", "data", '{"a":1}'),
        (b"<a>&</a>", "application/xml", "data", "<a>&</a>"),
        (b"\xff\x00", "application/octet-stream", "data_base64", "/wA="),
        (b"\xff\x00", "application/cloudevents+protobuf", "data_base64", "/wA="),
        (b"\x0a\x01x\x12\x01s", "application/x-protobuf", "data_base64", "CgF4EgFz"),
        (b"no", "application/x-protobuf", "data", "no"),
        (b"\xffz", "text/plain", "data", "\ufffdz"),
        (b"", "", "data", ""),
    ],
)
def test_data_follows_the_content_type(data: bytes, content_type: str, field: str, value: object) -> None:
    event = json.loads(envelope(data, content_type))
    assert event[field] == value
    assert ("data" in event) != ("data_base64" in event)


def test_numbers_and_key_order_stay() -> None:
    event = envelope(b'{"z": 12345678901234567890, "a": 1.10, "m": 1E400}', "application/json")
    assert b'{"z":12345678901234567890,"a":1.10,"m":1E400}' in event


def test_markup_is_escaped_as_go_does() -> None:
    event = envelope('{"a<b":"&>\u2028é"}'.encode(), "application/json", topic="<t>")
    assert b'{"a\\u003cb":"\\u0026\\u003e\\u2028\xc3\xa9"}' in event
    assert b'"topic":"\\u003ct\\u003e"' in event


@pytest.mark.parametrize("read", [ce.parse_json, ce.read_head, ce.read_event])
def test_broken_text_in_deep_json_is_an_error(read: Callable[[bytes], Any]) -> None:
    with pytest.raises(ValueError):
        read(b'{"a":"\xff","b":' + b"[" * 100_000)


def test_broken_text_and_surrogates_are_mended() -> None:
    assert ce.parse_json(b'["\xff", "\\ud800"]') == ["\ufffd", "\ufffd"]


def test_a_lone_surrogate_becomes_the_replacement() -> None:
    assert ce.compact_json(b'["\\ud800", "\\ud83d\\ude00", "\\\\ud800"]') == (
        b'["\\ufffd","\\ud83d\\ude00","\\\\ud800"]'
    )


def test_text_that_is_not_utf8_is_replaced_in_json() -> None:
    assert ce.compact_json(b'"a\xff"') == b'"a\xef\xbf\xbd"'


@pytest.mark.parametrize("text", [b"", b" ", b"[", b"{]", b"nan", b"[" * 100_000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        ce.compact_json(text)


def test_overrides_come_in_any_case() -> None:
    overrides = ce.overrides_of({"CloudEvent.ID": "7", "cloudevent.traceid": "t", "cloudevent.topic": "no", "x": "y"})
    event = json.loads(envelope(overrides=overrides))
    assert (event["id"], event["traceid"], event["traceparent"], event["topic"]) == ("7", "t", "t", "orders")
    assert ce.overrides_of({"ttl": "1"}) is ce.NO_OVERRIDES


def test_traceparent_wins_over_traceid() -> None:
    event = json.loads(envelope(overrides=ce.Overrides(traceid="a", traceparent="b"), traceparent=TRACE))
    assert (event["traceid"], event["traceparent"]) == ("b", "b")


def complete(event: bytes, **more: str) -> dict[str, object]:
    made = ce.complete_envelope(event, time="T", topic="t", pubsub="p", **more)
    document: dict[str, object] = json.loads(made)
    assert list(document) == sorted(document)
    return document


def test_a_ready_event_gets_what_is_absent() -> None:
    assert complete(b'{"id": "1", "topic": "other", "type": null, "x": 1.0}', traceparent=TRACE) == {
        "id": "1",
        "topic": "t",
        "pubsubname": "p",
        "source": "Dapr",
        "specversion": "1.0",
        "time": "T",
        "traceid": TRACE,
        "traceparent": TRACE,
        "tracestate": "",
        "type": "com.dapr.event.sent",
        "x": 1.0,
    }


def test_a_ready_events_own_trace_stays() -> None:
    kept = complete(b'{"traceid": "mine", "time": "mine", "tracestate": "s"}', traceparent=TRACE)
    assert (kept["traceid"], kept["time"], kept["tracestate"]) == ("mine", "mine", "s")
    assert "traceparent" not in kept
    # Without a traceid, a traceparent that came is overwritten.
    assert complete(b'{"traceparent": "mine"}', traceparent=TRACE)["traceparent"] == TRACE


def test_a_ready_event_can_expire() -> None:
    assert complete(b'{"expiration": "old"}', expiration="new")["expiration"] == "new"
    assert complete(b'{"expiration": "old"}')["expiration"] == "old"


@pytest.mark.parametrize("event", [b"", b"null", b"[]", b'"x"', b"{"])
def test_a_ready_event_is_an_object(event: bytes) -> None:
    with pytest.raises(ValueError):
        complete(event)


def test_a_raw_payload_gets_an_envelope() -> None:
    made = ce.raw_envelope(b"\x00<", event_id="i", topic="t", pubsub="p", metadata={"traceid": "x", "other": "y"})
    assert json.loads(made) == {
        "data_base64": base64.b64encode(b"\x00<").decode(),
        "datacontenttype": "application/octet-stream",
        "id": "i",
        "pubsubname": "p",
        "source": "Dapr",
        "specversion": "1.0",
        "topic": "t",
        "traceid": "x",
        "type": "com.dapr.event.sent",
    }


def test_a_binary_event_is_put_together() -> None:
    event = ce.binary_event(b"hi", {"ce_type": "a", "CE_Source": "s", "content-type": "application/octet-stream"})
    assert event == {
        "type": "a",
        "source": "s",
        "datacontenttype": "application/octet-stream",
        "data_base64": "aGk=",
    }


def test_a_head_has_four_attributes() -> None:
    head = ce.read_head(b'{"expiration": "e", "traceparent": "p", "traceid": 5, "data": {"deep": [1]}}')
    assert (head.expiration, head.traceparent, head.traceid, head.tracestate) == ("e", "p", 5, "")
    assert ce.head_of({"traceid": "x"}).traceid == "x"


def test_a_head_survives_odd_text() -> None:
    assert ce.read_head(b'{"data": "\\ud800", "traceid": "t"}').traceid == "t"
    assert ce.read_head(b'{"data": "\xff", "traceid": "t\xff"}').traceid == "t\ufffd"


@pytest.mark.parametrize("document", [b"", b"x", b"[]", b"null", b'{"a":1} tail', b'{"a":"\\ud800"} tail', b"[" * 9999])
def test_what_is_no_object_is_no_event(document: bytes) -> None:
    with pytest.raises(ValueError):
        ce.read_event(document)
    with pytest.raises(ValueError):
        ce.read_head(document)


@pytest.mark.parametrize(
    ("expiration", "expired"),
    [
        ("1970-01-01T00:01:39Z", True),
        ("1970-01-01T00:01:40Z", False),
        ("1970-01-01T02:01:39+02:00", True),
        ("1970-01-01T00:01:39", False),
        ("1970-01-01", False),
        ("soon, but not for twenty signs", False),
        ("", False),
        (7, False),
        (None, False),
    ],
)
def test_expired_is_in_the_past(expiration: object, expired: bool) -> None:
    assert ce.has_expired(expiration, 100.0) is expired


def test_times_have_whole_seconds_and_a_zone() -> None:
    assert ce.rfc3339(0.9) == "1970-01-01T00:00:00Z"
    assert ce.rfc3339(0, 0) == "1970-01-01T00:00:00Z"
    assert ce.rfc3339(0, -12600) == "1969-12-31T20:30:00-03:30"
    assert ce.expiration_time(0, 90) == "1970-01-01T00:01:30Z"
    assert ce.expiration_time(0, 1e300) == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize(
    ("data", "is_event"),
    [
        (b"", True),
        (b"\x0a\x02ok", True),
        (b"\x0a\x02\xff\xff", False),  # a text that is no UTF-8
        (b"\x0a\x05ok", False),  # shorter than it says
        (b"\x08\x96\x01", True),
        (b"\x09" + bytes(8), True),
        (b"\x0d" + bytes(4), True),
        (b"\x0d" + bytes(3), False),
        (b"\x0b", False),
        (b"\x00\x01", False),
        (b"\x80" * 11, False),
        (b"\x80", False),
    ],
)
def test_protobuf_is_told_by_its_form(data: bytes, is_event: bool) -> None:
    event = json.loads(envelope(data, "application/x-protobuf"))
    assert ("data_base64" in event) is is_event
