"""Whatever is published comes back: JSON, text and bytes through an envelope and out again."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.wire import cloudevents as ce

pytestmark = pytest.mark.slow

texts = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


def envelope(data: bytes, content_type: str, topic: str = "t", source: str = "s") -> bytes:
    return ce.make_envelope(data, content_type, event_id="i", time="T", source=source, topic=topic, pubsub="p")


@given(documents, st.booleans(), st.sampled_from([None, 2]))
def test_json_comes_back_equal(document: object, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    event = ce.read_event(envelope(body, "application/json"))
    assert event["data"] == document
    assert type(event["data"]) is type(document)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_numbers_keep_every_digit(number: str) -> None:
    assert f'"data":{number},'.encode() in envelope(number.encode(), "application/json")


@given(st.binary())
def test_bytes_come_back_equal(data: bytes) -> None:
    event = ce.read_event(envelope(data, "application/octet-stream"))
    assert base64.b64decode(event["data_base64"]) == data
    raw = ce.read_event(ce.raw_envelope(data, event_id="i", topic="t", pubsub="p", metadata={}))
    assert base64.b64decode(raw["data_base64"]) == data


@given(texts, texts, texts)
def test_text_comes_back_equal(text: str, topic: str, source: str) -> None:
    made = envelope(text.encode(), "text/plain", topic, source)
    event = json.loads(made)
    assert (event["data"], event["topic"], event["source"]) == (text, topic, source)
    assert not any(mark in made for mark in (b"<", b">", b"&", b"\n"))


@given(st.binary())
def test_any_body_makes_an_envelope(data: bytes) -> None:
    for content_type in ("application/json", "application/x-protobuf", "text/plain", ""):
        made = envelope(data, content_type)
        assert list(json.loads(made)) == sorted(json.loads(made))
        assert ce.read_head(made).traceid == ""


@given(st.dictionaries(texts, documents))
def test_a_ready_event_keeps_its_members(members: dict[str, object]) -> None:
    made = json.loads(
        ce.complete_envelope(json.dumps(members).encode(), time="T", topic="t", pubsub="p", traceparent="x")
    )
    for name, value in members.items():
        if name not in ("topic", "pubsubname", "traceparent") and value is not None:
            assert made[name] == value


@given(st.dictionaries(texts, documents), st.sampled_from(["", " ", "\n\n"]))
def test_a_head_agrees_with_the_event(members: dict[str, object], blank: str) -> None:
    document = (blank + json.dumps(members) + blank).encode()
    assert ce.read_head(document) == ce.head_of(ce.read_event(document))


@given(st.integers(-(10**9), 10**11), st.integers(-840, 840))
def test_times_come_back_equal(second: int, minutes: int) -> None:
    text = ce.rfc3339(second, minutes * 60)
    assert ce.has_expired(text, second + 0.5)
    assert not ce.has_expired(text, second)
