"""The body of a bulk publish."""

from __future__ import annotations

import pytest

from edge_runtime.blocks.pubsub import Entry
from edge_runtime.blocks.pubsub.entries import read_entries
from edge_runtime.model.errors import EdgeError, Kind


def read(body: str) -> list[Entry]:
    return read_entries("p", "t", body.encode())


@pytest.mark.parametrize(
    ("content_type", "event", "data"),
    [
        ("application/octet-stream", '"AAE="', b"\x00\x01"),
        ("text/plain", '"hi \\u00e9"', "hi é".encode()),
        ("text/html;charset=utf-8", '"<p>"', b"<p>"),
        ("application/xml", '"<p/>"', b"<p/>"),
        ("application/json", '{"b": 12345678901234567890, "a": 1.0}', b'{"b": 12345678901234567890, "a": 1.0}'),
        ("application/JSON", "null", b"null"),
        ("application/cloudevents+json", '{"id": "1"}', b'{"id": "1"}'),
    ],
)
def test_an_event_is_what_its_type_says(content_type: str, event: str, data: bytes) -> None:
    [entry] = read(f'[{{"entryId": "1", "event": {event}, "contentType": "{content_type}"}}]')
    assert entry == Entry("1", data, content_type, None)


@pytest.mark.parametrize(
    ("content_type", "event"),
    [
        ("application/octet-stream", "5"),
        ("application/octet-stream", '"no base64!"'),
        ("text/plain", "{}"),
        ("application/xml", "null"),
        ("", '"x"'),
        ("image/png", '"x"'),
    ],
)
def test_an_event_must_fit_its_type(content_type: str, event: str) -> None:
    with pytest.raises(EdgeError, match=r"^error when marshalling cloud event envelope for topic t") as caught:
        read(f'[{{"entryId": "1", "event": {event}, "contentType": "{content_type}"}}]')
    assert caught.value.kind is Kind.PUBSUB_MARSHAL_ENVELOPE


@pytest.mark.parametrize(
    "body",
    ["", "{", "{}", "5", "[5]", '[{"entryId": 5}]', '[{"metadata": {"a": 1}}]', '[{"contentType": []}]', "[" * 99999],
)
def test_a_body_that_cannot_be_read_is_refused(body: str) -> None:
    with pytest.raises(EdgeError, match=r"^error when unmarshaling the request for topic t") as caught:
        read(body)
    assert caught.value.kind is Kind.PUBSUB_UNMARSHAL_EVENTS


def test_names_come_in_any_case() -> None:
    [entry] = read('[{"ENTRYID": "1", "Event": "x", "contenttype": "text/plain", "Metadata": {"a": "b"}, "z": 1}] tail')
    assert entry == Entry("1", b"x", "text/plain", {"a": "b"})


def test_null_is_as_good_as_absent() -> None:
    assert read("null") == []
    assert read("[]") == []
    [entry] = read('[{"entryId": null, "contentType": "application/json", "metadata": null}]')
    assert entry == Entry("", b"null", "application/json", None)
