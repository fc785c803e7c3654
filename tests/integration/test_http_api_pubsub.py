"""The publish API of a running sidecar, statement by statement, and the events that its app gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.app import App, Received
from tests.support.raw import NO_APP_ID, Headers, Prefix, ask, check, info, resource, rich
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

PUBLISH = "/v1.0/publish/bus/"
BULK = "/v1.0/publish/bulk/bus/"
JSON = (("Content-Type", "application/json"),)
EVENT = (("Content-Type", "application/cloudevents+json"),)
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)")

RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bulk}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: scoped}
spec: {type: pubsub.in-memory, version: v1, metadata: [
  {name: AllowedTopics, value: "open, mine,theirs,guarded"}, {name: publishingScopes, value: "me= mine ;you=theirs"},
  {name: protectedTopics, value: "guarded"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: shut}
spec: {type: pubsub.in-memory, version: v1, metadata: [{name: publishingScopes, value: "me="}]}
"""


class Setting(NamedTuple):
    port: int
    app: App

    def event(self, target: str, body: bytes | str, headers: Headers = ()) -> dict[str, Any]:
        """Publish, and what the app gets for it."""
        check(ask(self.port, "POST", target, body, headers), 204, None)
        document: dict[str, Any] = self.app.next().json()
        return document


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    place = tmp_path_factory.mktemp("pubsub")
    resources = place / "resources"
    resources.mkdir()
    (resources / "all.yaml").write_text(RESOURCES)
    wanted = [
        {"pubsubname": "bus", "topic": "t", "route": "/got"},
        {"pubsubname": "bus", "topic": "a/b c", "route": "/got"},
        {"pubsubname": "bulk", "topic": "t", "route": "/got"},
        {"pubsubname": "bus", "topic": "raw", "route": "/got", "metadata": {"rawPayload": "true"}},
    ]

    def subscribe(_: Received) -> tuple[int, Any]:
        return 200, wanted

    with App({"/dapr/subscribe": subscribe, "/got": lambda _: (200, {"status": "SUCCESS"})}) as app:
        with Sidecar(place / "node", "--resources-path", str(resources), app_id="me", app_port=app.port) as sidecar:
            yield Setting(sidecar.port, app)


# --- the envelope -----------------------------------------------------------------------------------------------------

ENVELOPE = {
    "specversion": "1.0",
    "source": "me",
    "type": "com.dapr.event.sent",
    "pubsubname": "bus",
    "topic": "t",
    "traceid": "",
    "traceparent": "",
    "tracestate": "",
}

DATA: list[tuple[str | None, bytes, Mapping[str, Any]]] = [
    (None, b"text", {"data": "text", "datacontenttype": "text/plain"}),
    (None, b"", {"data": "", "datacontenttype": "text/plain"}),
    ("text/plain; charset=x", b"<&>", {"data": "<&>", "datacontenttype": "text/plain; charset=x"}),
    ("application/json", b'{"n":9007199254740993}', {"data": {"n": 9007199254740993}}),
    ("Application/JSON; x=y", b"[1, 2]", {"data": [1, 2]}),
    ("application/json", b'{"a":1} {"b":2}', {"data": {"a": 1}}),
    ("application/json", b"{bad", {"data": "{bad"}),
    ("application/json", b"", {"data": ""}),
    ("application/vnd.x+json", b'{"a":1}', {"data": '{"a":1}'}),
    ("application/xml", b"<a/>", {"data": "<a/>"}),
    ("application/octet-stream", b"\x00\xff", {"data_base64": "AP8="}),
]


@pytest.mark.parametrize(("content_type", "body", "expected"), DATA)
def test_bodies_become_data(bus: Setting, content_type: str | None, body: bytes, expected: Mapping[str, Any]) -> None:
    headers = () if content_type is None else (("Content-Type", content_type),)
    event = bus.event(PUBLISH + "t", body, headers)
    assert UUID.fullmatch(event.pop("id"))
    assert TIME.fullmatch(event.pop("time"))
    assert event == {**ENVELOPE, "datacontenttype": content_type, **expected}


@pytest.mark.parametrize(
    ("target", "topic"), [("t", "t"), ("a/b%20c", "a/b c"), ("a%2Fb+c", "a/b c"), ("/a//b%20c/", "a/b c")]
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_topics_may_have_slashes(bus: Setting, method: str, target: str, topic: str) -> None:
    check(ask(bus.port, method, PUBLISH + target, "x"), 204, None)
    assert bus.app.next().json()["topic"] == topic


def test_a_trace_goes_along(bus: Setting) -> None:
    event = bus.event(PUBLISH + "t", "x", (("traceparent", TRACE), ("tracestate", "a=b")))
    assert (event["traceid"], event["traceparent"], event["tracestate"]) == (TRACE, TRACE, "a=b")


OVERRIDES: list[tuple[str, Mapping[str, str]]] = [
    ("metadata.cloudevent.id=i&metadata.CloudEvent.Source=s", {"id": "i", "source": "s"}),
    ("metadata.cloudevent.type=y&metadata.cloudevent.subject=a%20b", {"type": "y", "subject": "a b"}),
    ("metadata.cloudevent.traceid=a", {"traceid": "a", "traceparent": "a"}),
    (
        "metadata.cloudevent.traceid=a&metadata.cloudevent.traceparent=b&metadata.cloudevent.tracestate=c",
        {"traceid": "b", "traceparent": "b", "tracestate": "c"},
    ),
    (
        "&".join(f"metadata.cloudevent.{name}=x" for name in ("topic", "pubsubname", "data", "datacontenttype")),
        {"topic": "t", "pubsubname": "bus", "data": "x", "datacontenttype": "text/plain"},
    ),
    ("cloudevent.id=i&Metadata.cloudevent.source=i", {"source": "me"}),
    ("metadata.cloudevent.id=first&metadata.cloudevent.id=second", {"id": "first"}),
]


@pytest.mark.parametrize(("query", "expected"), OVERRIDES)
def test_metadata_override_the_envelope(bus: Setting, query: str, expected: Mapping[str, str]) -> None:
    event = bus.event(f"{PUBLISH}t?{query}", "x")
    assert {name: event[name] for name in expected} == expected


@pytest.mark.parametrize(("text", "expires"), [("100", True), ("10s", True), ("0", False), ("-1", False), ("x", False)])
@pytest.mark.parametrize("name", ["ttlInSeconds", "ttl", "TTLInSeconds"])
def test_expiry_is_in_the_envelope(bus: Setting, name: str, text: str, expires: bool) -> None:
    event = bus.event(f"{PUBLISH}t?metadata.{name}={text}", "x")
    assert ("expiration" in event) == expires
    if expires:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["expiration"])


def test_a_ready_event_is_completed(bus: Setting) -> None:
    own = {"data": {"n": 2**60 + 1}, "topic": "x", "pubsubname": "x", "traceparent": "mine", "more": [1]}
    event = bus.event(PUBLISH + "t?metadata.cloudevent.id=no", json.dumps(own), (*EVENT, ("traceparent", TRACE)))
    assert TIME.fullmatch(event.pop("time"))
    assert event == {
        **own,
        "topic": "t",
        "pubsubname": "bus",
        "source": "Dapr",
        "type": "com.dapr.event.sent",
        "specversion": "1.0",
        "traceid": TRACE,
        "traceparent": TRACE,
        "tracestate": "",
    }


def test_a_ready_event_keeps_its_own(bus: Setting) -> None:
    own = {
        "id": "1",
        "source": "s",
        "type": "y",
        "specversion": "1.0",
        "time": "2020-01-01T00:00:00Z",
        "data": "x",
        "datacontenttype": "text/plain",
        "traceid": "mine",
        "tracestate": "a=b",
    }
    event = bus.event(PUBLISH + "t?metadata.ttl=5", json.dumps(own), (("Content-Type", EVENT[0][1] + "; charset=u"),))
    assert event.pop("expiration").endswith("Z")
    assert event == {**own, "topic": "t", "pubsubname": "bus"}


@pytest.mark.parametrize("flag", ["1", "t", "T", "true", "TRUE", "True"])
def test_raw_payloads_have_no_envelope(bus: Setting, flag: str) -> None:
    event = bus.event(f"{PUBLISH}raw?metadata.rawPayload={flag}&metadata.ttl=50", b"\x00\xffx", JSON)
    assert UUID.fullmatch(event.pop("id"))
    assert event == {
        "source": "Dapr",
        "type": "com.dapr.event.sent",
        "specversion": "1.0",
        "topic": "raw",
        "pubsubname": "bus",
        "datacontenttype": "application/octet-stream",
        "data_base64": "AP94",
    }


@pytest.mark.parametrize("query", ["metadata.rawPayload=0", "metadata.rawpayload=False", "metadata.rawPayload="])
def test_no_raw_payload_has_an_envelope(bus: Setting, query: str) -> None:
    assert bus.event(f"{PUBLISH}t?{query}", "x")["data"] == "x"


def test_subscriptions_are_told(bus: Setting) -> None:
    told = ask(bus.port, "GET", "/v1.0/metadata").json()["subscriptions"]
    plain = {"rules": [{"path": "/got"}], "deadLetterTopic": "", "type": "PROGRAMMATIC"}
    assert sorted(told, key=str) == sorted(
        [
            *({"pubsubname": name, "topic": topic, **plain} for name, topic in (("bus", "t"), ("bus", "a/b c"))),
            {"pubsubname": "bulk", "topic": "t", **plain},
            {"pubsubname": "bus", "topic": "raw", **plain, "metadata": {"rawPayload": "true"}},
        ],
        key=str,
    )


# --- refusals ---------------------------------------------------------------------------------------------------------


def pubsub_error(code: str, reason: str, message: str, metadata: Any, name: str = "bus") -> dict[str, Any]:
    return rich(code, message, resource("pubsub", name, message), info(reason, metadata))


def forbidden(topic: str, name: str = "scoped") -> dict[str, Any]:
    text = f"topic {topic} is not allowed for app id me"
    return pubsub_error("ERR_PUBSUB_FORBIDDEN", "DAPR_PUBSUB_FORBIDDEN", text, {"topic": topic, "error": text}, name)


def not_found(name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    return rich("ERR_PUBSUB_NOT_FOUND", f"pubsub {name} is not found", info("DAPR_PUBSUB_NOT_FOUND", dict(metadata)))


def bad_flag(text: str) -> dict[str, Any]:
    message = f"failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is '{text}'"
    reason = "DAPR_PUBSUB_METADATA_DESERIALIZATION"
    return pubsub_error("ERR_PUBSUB_REQUEST_METADATA", reason, message, {"rawPayload": text})


REFUSED: list[tuple[str, str, int, Any]] = [
    ("/v1.0/publish/none/t", "x", 404, not_found("none", {})),
    ("/v1.0/publish/none/t?metadata.a=1&metadata.a=2&b=3", "x", 404, not_found("none", {"a": "1"})),
    ("/v1.0/publish/bulk/none/t?metadata.a=1", "not JSON", 404, not_found("none", {"a": "1"})),
    ("/v1.0/publish/scoped/mine", "x", 204, None),
    ("/v1.0/publish/scoped/theirs", "x", 403, forbidden("theirs")),
    ("/v1.0/publish/scoped/guarded", "x", 403, forbidden("guarded")),
    ("/v1.0/publish/scoped/unlisted", "x", 403, forbidden("unlisted")),
    ("/v1.0/publish/scoped/Mine", "x", 403, forbidden("Mine")),
    ("/v1.0/publish/shut/any", "x", 403, forbidden("any", "shut")),
    ("/v1.0/publish/bulk/scoped/theirs", "[]", 403, forbidden("theirs")),
    ("/v1.0/publish/bus/t?metadata.rawPayload=yes", "x", 400, bad_flag("yes")),
    ("/v1.0/publish/bulk/bus/t?metadata.rawPayload=tRUE", "[]", 400, bad_flag("tRUE")),
    ("/v1.0/publish/bus", "x", 404, NO_APP_ID),
    ("/v1.0/publish/bus/", "x", 404, NO_APP_ID),
    ("/v1.0/publish", "x", 404, NO_APP_ID),
    ("/v1.0-alpha1/publish/bus/t", "x", 404, NO_APP_ID),
]


@pytest.mark.parametrize(("target", "body", "status", "expected"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refusals_are_rich(bus: Setting, target: str, body: str, status: int, expected: Any) -> None:
    check(ask(bus.port, "POST", target, body), status, expected)


@pytest.mark.parametrize("body", ["", "{bad", "[]", '"x"', "null"])
def test_a_bad_ready_event_is_refused(bus: Setting, body: str) -> None:
    expected = pubsub_error(
        "ERR_PUBSUB_CLOUD_EVENTS_SER",
        "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
        "cannot create cloudevent",
        {"appID": "me", "error": Prefix("")},
    )
    check(ask(bus.port, "POST", PUBLISH + "t", body, EVENT), 500, expected)


def test_a_get_is_no_publish(bus: Setting) -> None:
    check(ask(bus.port, "GET", PUBLISH + "t"), 404, NO_APP_ID)


def test_a_component_may_be_named_bulk(bus: Setting) -> None:
    """Only with a topic of one segment; else the bulk route hides it."""
    assert bus.event("/v1.0/publish/bulk/t", "x")["pubsubname"] == "bulk"
    check(ask(bus.port, "POST", "/v1.0/publish/bulk/t/u", "[]"), 404, not_found("t", {}))


# --- bulk -------------------------------------------------------------------------------------------------------------

ENTRIES: list[tuple[str, Any, Mapping[str, Any]]] = [
    ("application/json", {"n": 2**60 + 1}, {"data": {"n": 2**60 + 1}}),
    ("application/json", "s", {"data": "s"}),
    ("text/x", "s", {"data": "s"}),
    ("application/xml", "<a/>", {"data": "<a/>"}),
    ("application/octet-stream", "AP8=", {"data_base64": "AP8="}),
]


@pytest.mark.parametrize("version", ["v1.0", "v1.0-alpha1"])
@pytest.mark.parametrize(("content_type", "event", "expected"), ENTRIES)
def test_entries_become_events(
    bus: Setting, version: str, content_type: str, event: Any, expected: Mapping[str, Any]
) -> None:
    body = json.dumps([{"entryId": "1", "event": event, "contentType": content_type, "more": 1}])
    found = bus.event(f"/{version}/publish/bulk/bus/t", body)
    assert {name: found[name] for name in ("datacontenttype", *expected)} == {
        "datacontenttype": content_type,
        **expected,
    }


def test_request_metadata_reach_entries_with_their_own(bus: Setting) -> None:
    entries = [
        {"entryId": "1", "event": "none", "contentType": "text/plain"},
        {"entryId": "2", "event": "some", "contentType": "text/plain", "metadata": {"cloudevent.type": "own"}},
        {"entryId": "3", "event": "empty", "contentType": "text/plain", "metadata": {}},
    ]
    query = "?metadata.cloudevent.type=query&metadata.cloudevent.source=query&metadata.ttl=50"
    check(ask(bus.port, "POST", BULK + "t" + query, json.dumps(entries)), 204, None)
    events = {event["data"]: event for event in (bus.app.next().json() for _ in entries)}
    shown = {name: (event["type"], event["source"], "expiration" in event) for name, event in events.items()}
    assert shown == {
        "none": ("com.dapr.event.sent", "me", False),
        "some": ("own", "query", True),
        "empty": ("query", "query", True),
    }


def test_raw_entries_have_no_envelope(bus: Setting) -> None:
    entry = {"entryId": "1", "event": {"a": 1}, "contentType": "application/json"}
    body = json.dumps([entry], separators=(",", ":"))
    assert bus.event(BULK + "raw?metadata.rawPayload=true", body)["data_base64"] == "eyJhIjoxfQ=="


@pytest.mark.parametrize("body", ["[]", "null"])
def test_no_entries_are_published(bus: Setting, body: str) -> None:
    check(ask(bus.port, "PUT", BULK + "t", body), 204, None)


def events_error(reason: str, message: str) -> dict[str, Any]:
    text = Prefix(message)
    metadata = {"topic": "t", "error": Prefix("")}
    return pubsub_error("ERR_PUBSUB_EVENTS_SER", reason, text, metadata)


UNMARSHAL = events_error("DAPR_PUBSUB_UNMARSHAL_EVENTS", "error when unmarshaling the request for topic t pubsub bus: ")
MARSHAL = events_error(
    "DAPR_PUBSUB_MARSHAL_EVENTS",
    "error marshaling events to bytes for topic t pubsub bus. error: entryId is duplicated or not present for entry",
)
ENVELOPES = events_error(
    "DAPR_PUBSUB_MARSHAL_ENVELOPE", "error when marshalling cloud event envelope for topic t pubsub bus: "
)
BAD_BULK: list[tuple[str, Any]] = [
    ("", UNMARSHAL),
    ("{}", UNMARSHAL),
    ("[", UNMARSHAL),
    ("[1]", UNMARSHAL),
    ('[{"entryId":1}]', UNMARSHAL),
    ('[{"entryId":"1","event":NaN,"contentType":"application/json"}]', UNMARSHAL),
    ('[{"event":"x","contentType":"text/plain"}]', MARSHAL),
    ('[{"entryId":"","event":"x","contentType":"text/plain"}]', MARSHAL),
    (
        '[{"entryId":"1","event":"x","contentType":"text/plain"},{"entryId":"1","event":"x","contentType":"text/a"}]',
        MARSHAL,
    ),
    ('[{"entryId":"1","event":"x"}]', ENVELOPES),
    ('[{"entryId":"1","event":"x","contentType":"foo/bar"}]', ENVELOPES),
    ('[{"entryId":"1","event":1,"contentType":"text/plain"}]', ENVELOPES),
    ('[{"entryId":"1","event":{},"contentType":"application/xml"}]', ENVELOPES),
    ('[{"entryId":"1","event":"!","contentType":"application/octet-stream"}]', ENVELOPES),
    ('[{"entryId":"1","event":1,"contentType":"application/octet-stream"}]', ENVELOPES),
]


@pytest.mark.parametrize(("body", "expected"), BAD_BULK, ids=[row[0][:50] for row in BAD_BULK])
def test_bad_entries_are_refused(bus: Setting, body: str, expected: Any) -> None:
    check(ask(bus.port, "POST", BULK + "t", body), 400, expected)


def test_a_brokers_refusal_is_told(tmp_path: Path) -> None:
    """The durable log takes no topic that long; both forms of publish say so in their own way."""
    topic = "t" * 2000
    failure = f"error when publishing to topic {topic} in pubsub pubsub: "
    entries = [{"entryId": name, "event": "x", "contentType": "text/plain"} for name in ("1", "2")]
    with Sidecar(tmp_path) as sidecar:
        expected = pubsub_error(
            "ERR_PUBSUB_PUBLISH_MESSAGE",
            "DAPR_PUBSUB_PUBLISH_MESSAGE",
            Prefix(failure),
            {"topic": topic, "error": Prefix("")},
            "pubsub",
        )
        check(ask(sidecar.port, "POST", f"/v1.0/publish/pubsub/{topic}", "x"), 500, expected)
        reply = ask(sidecar.port, "POST", f"/v1.0/publish/bulk/pubsub/{topic}", json.dumps(entries))
    failed = [{"entryId": name, "error": Prefix("")} for name in ("1", "2")]
    check(reply, 500, {"failedEntries": failed, "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE"})
    assert reply.headers["metadata.responsedata"] == reply.body.decode()
    assert reply.headers["metadata.error"].startswith(failure)
