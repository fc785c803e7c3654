"""The publish API of a running sidecar over gRPC, and the events that its app gets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo

from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    BulkPublishRequest,
    BulkPublishRequestEntry,
    BulkPublishResponse,
    PublishEventRequest,
)
from tests.support.app import App, Received
from tests.support.grpc_client import DaprClient
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BULK = ["BulkPublishEvent", "BulkPublishEventAlpha1"]
RPCS = ["PublishEvent", *BULK]
APP = {"appID": "me"}
Entry = BulkPublishRequestEntry

RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: log}
spec: {type: pubsub.sqlite, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: scoped}
spec: {type: pubsub.in-memory, version: v1, metadata: [{name: publishingScopes, value: "me=mine"}]}
"""


class Setting(NamedTuple):
    client: DaprClient
    app: App

    def event(self, data: bytes, content_type: str = "", topic: str = "t", **metadata: str) -> dict[str, Any]:
        """Publish, and what the app gets for it."""
        request = PublishEventRequest(
            pubsub_name="bus", topic=topic, data=data, data_content_type=content_type, metadata=metadata
        )
        self.client.reply("PublishEvent", request, ("traceparent", TRACE))
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
        {"pubsubname": "log", "topic": "t", "route": "/got"},
        {"pubsubname": "bus", "topic": "raw", "route": "/got", "metadata": {"rawPayload": "true"}},
    ]

    def subscribe(_: Received) -> tuple[int, Any]:
        return 200, wanted

    with (
        App({"/dapr/subscribe": subscribe, "/got": lambda _: (200, {"status": "SUCCESS"})}) as app,
        Sidecar(place / "node", "--resources-path", str(resources), app_id="me", app_port=app.port) as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        yield Setting(client, app)


# --- the envelope -----------------------------------------------------------------------------------------------------

DATA: list[tuple[str, bytes, Mapping[str, Any]]] = [
    ("", b"text", {"data": "text", "datacontenttype": "text/plain"}),
    ("application/json", b'{"n":9007199254740993}', {"data": {"n": 9007199254740993}}),
    ("application/json", b"{bad", {"data": "{bad"}),
    ("application/octet-stream", b"\x00\xff", {"data_base64": "AP8="}),
    ("application/cloudevents+protobuf", b"\x00\xff", {"data_base64": "AP8="}),
    ("application/xml", b"<a/>", {"data": "<a/>"}),
]


@pytest.mark.parametrize(("content_type", "data", "shown"), DATA)
def test_data_are_wrapped(bus: Setting, content_type: str, data: bytes, shown: Mapping[str, Any]) -> None:
    event = bus.event(data, content_type)
    assert UUID.fullmatch(event.pop("id"))
    assert event.pop("time")
    common = {"specversion": "1.0", "source": "me", "type": "com.dapr.event.sent", "pubsubname": "bus", "topic": "t"}
    traced = {"traceid": TRACE, "traceparent": TRACE, "tracestate": ""}
    assert event == {"datacontenttype": content_type, **common, **traced, **shown}


def test_attributes_can_be_overridden(bus: Setting) -> None:
    other = TRACE.replace("0123", "4567")
    overrides = {"cloudevent.id": "7", "CloudEvent.Source": "s", "cloudevent.type": "ty", "cloudevent.subject": "su"}
    event = bus.event(b"x", **overrides, **{"cloudevent.traceid": other})
    expected = {"id": "7", "source": "s", "type": "ty", "subject": "su", "traceid": other, "traceparent": other}
    assert {name: event[name] for name in expected} == expected


def test_an_event_is_completed(bus: Setting) -> None:
    event = bus.event(b'{"id":"1","topic":"x","data":2,"more":3}', "application/cloudevents+json")
    expected = {"id": "1", "topic": "t", "pubsubname": "bus", "data": 2, "more": 3, "source": "Dapr", "traceid": TRACE}
    assert {name: event[name] for name in expected} == expected


def test_a_raw_payload_stays_raw(bus: Setting) -> None:
    event = bus.event(b"\x00\xff", topic="raw", rawPayload="true")
    assert event["data_base64"] == "AP8="


def test_a_ttl_becomes_an_expiration(bus: Setting) -> None:
    assert bus.event(b"x", ttlInSeconds="60")["expiration"]


@pytest.mark.parametrize("pubsub", ["bus", "log"])
@pytest.mark.parametrize("rpc", BULK)
def test_many_are_published(bus: Setting, rpc: str, pubsub: str) -> None:
    entries = [
        Entry(entry_id="1", event=b'{"n":9007199254740993}', content_type="application/json"),
        Entry(entry_id="2", event=b"hi", content_type="text/plain", metadata={"cloudevent.id": "mine"}),
    ]
    request = BulkPublishRequest(pubsub_name=pubsub, topic="t", entries=entries, metadata={"cloudevent.type": "all"})
    assert bus.client.reply(rpc, request) == BulkPublishResponse()
    events = sorted((bus.app.next().json() for _ in entries), key=lambda event: str(event["data"]))
    assert [event["data"] for event in events] == ["hi", {"n": 9007199254740993}]
    # What the request says is for the entries that have metadata of their own.
    assert [event["type"] for event in events] == ["all", "com.dapr.event.sent"]
    assert events[0]["id"] == "mine"


# --- every rpc, every error -------------------------------------------------------------------------------------------


def request_of(rpc: str, pubsub: str = "bus", topic: str = "t", **metadata: str) -> Message:
    if rpc == "PublishEvent":
        return PublishEventRequest(pubsub_name=pubsub, topic=topic, data=b"x", metadata=metadata)
    entries = [Entry(entry_id="1", event=b"x")]
    return BulkPublishRequest(pubsub_name=pubsub, topic=topic, entries=entries, metadata=metadata)


RAW = "rawPayload value must be a valid boolean: actual is 'maybe'"
FORBIDDEN = "topic no is not allowed for app id me"
REFUSED: list[tuple[str, str, dict[str, str], str, str, str, dict[str, str]]] = [
    ("", "", {}, "INVALID_ARGUMENT", "NAME_EMPTY", "pubsub name is empty", APP),
    ("x", "", {}, "INVALID_ARGUMENT", "TOPIC_NAME_EMPTY", "topic is empty in pubsub x", APP),
    ("x", "t", {"rawPayload": "maybe"}, "INVALID_ARGUMENT", "NOT_FOUND", "pubsub x is not found", APP),
    (
        "bus",
        "t",
        {"rawPayload": "maybe"},
        "INVALID_ARGUMENT",
        "METADATA_DESERIALIZATION",
        f"failed deserializing metadata. Error: {RAW}",
        {**APP, "error": RAW},
    ),
    ("scoped", "no", {}, "PERMISSION_DENIED", "FORBIDDEN", FORBIDDEN, {"topic": "no", "error": FORBIDDEN}),
]


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize(("pubsub", "topic", "metadata", "code", "reason", "text", "info"), REFUSED)
def test_errors_are_told(
    bus: Setting,
    rpc: str,
    pubsub: str,
    topic: str,
    metadata: dict[str, str],
    code: str,
    reason: str,
    text: str,
    info: dict[str, str],
) -> None:
    answered = bus.client.ask(rpc, request_of(rpc, pubsub, topic, **metadata))
    assert (answered.code, answered.message) == (code, text)
    shown = ErrorInfo(reason=f"DAPR_PUBSUB_{reason}", domain="dapr.io", metadata=info)
    resource = ResourceInfo(resource_type="pubsub", resource_name=pubsub, description=text)
    assert answered.parts == ([shown] if reason == "NOT_FOUND" else [resource, shown])


def test_a_broken_envelope_is_refused(bus: Setting) -> None:
    request = PublishEventRequest(
        pubsub_name="bus", topic="t", data=b"{", data_content_type="application/cloudevents+json"
    )
    answered = bus.client.ask("PublishEvent", request)
    assert (answered.code, answered.reason) == ("INVALID_ARGUMENT", "DAPR_PUBSUB_CLOUD_EVENT_CREATION")


@pytest.mark.parametrize("rpc", BULK)
@pytest.mark.parametrize("ids", [["1", "1"], [""]])
def test_entries_need_ids_of_their_own(bus: Setting, rpc: str, ids: list[str]) -> None:
    request = BulkPublishRequest(pubsub_name="bus", topic="t", entries=[Entry(entry_id=one) for one in ids])
    answered = bus.client.ask(rpc, request)
    assert (answered.code, answered.reason) == ("INVALID_ARGUMENT", "DAPR_PUBSUB_MARSHAL_EVENTS")


def test_a_refusing_broker_fails_the_call(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "a.yaml").write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: small}\n"
        "spec: {type: pubsub.sqlite, version: v1, metadata: [{name: maxMessageBytes, value: 1Ki}]}\n"
    )
    with (
        Sidecar(tmp_path / "node", "--resources-path", str(resources), app_id="me") as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        for rpc in RPCS:
            request: Any = request_of(rpc, "small")
            if rpc == "PublishEvent":
                request.data = b"x" * 4096
            else:
                request.entries.add(entry_id="2", event=b"x" * 4096)
            answered = client.ask(rpc, request)
            assert (answered.code, answered.reason) == ("INTERNAL", "DAPR_PUBSUB_PUBLISH_MESSAGE"), rpc
            assert answered.message.startswith("error when publishing to topic t in pubsub small: "), rpc


def test_without_components_nothing_is_configured(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "a.yaml").write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\n"
        "spec: {type: state.in-memory, version: v1}\n"
    )
    with (
        Sidecar(tmp_path / "node", "--resources-path", str(resources), app_id="me") as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        for rpc in RPCS:
            answered = client.ask(rpc, request_of(rpc, ""))
            assert (answered.code, answered.reason) == ("FAILED_PRECONDITION", "DAPR_PUBSUB_NOT_CONFIGURED"), rpc
            assert len(answered.parts) == 1, rpc
