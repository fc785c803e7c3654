"""Publishing over gRPC through the face: envelopes, and every documented refusal."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo
from grpclib.const import Status

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.pubsub import Publisher
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import BulkEntry
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    BulkPublishRequest,
    BulkPublishRequestEntry,
    BulkPublishResponse,
    PublishEventRequest,
)
from tests.support.grpc_call import FakeCall, answer, unpacked
from tests.unit.blocks.pubsub.fakes import TRACE, FakeBroker, FakePolicies, binding_of, publisher_of

BULK = ["BulkPublishEvent", "BulkPublishEventAlpha1"]
RPCS = ["PublishEvent", *BULK]
Entry = BulkPublishRequestEntry


async def ask(
    to: FakeBroker | Publisher, rpc: str, request: Message, component: dict[str, str] | None = None
) -> FakeCall:
    publisher = publisher_of(binding_of(to, component)) if isinstance(to, FakeBroker) else to
    blocks: Any = SimpleNamespace(publisher=publisher)
    face = GrpcFace(blocks, FaceSettings(), Tracer(None), None, None)
    return await answer(face, FakeCall(rpc, request, [("traceparent", TRACE)]))


def request_of(rpc: str, pubsub: str = "pubsub", topic: str = "t", **metadata: str) -> Message:
    if rpc == "PublishEvent":
        return PublishEventRequest(pubsub_name=pubsub, topic=topic, data=b"x", metadata=metadata)
    return BulkPublishRequest(
        pubsub_name=pubsub, topic=topic, entries=[Entry(entry_id="1", event=b"x")], metadata=metadata
    )


# --- what goes out


async def test_a_message_is_published() -> None:
    broker = FakeBroker()
    request = PublishEventRequest(
        pubsub_name="pubsub",
        topic="a/b",
        data=b'{"n": 9007199254740993}',
        data_content_type="application/json",
        metadata={"CloudEvent.ID": "7", "ttlInSeconds": "10"},
    )
    call = await ask(broker, "PublishEvent", request)
    assert call.status is Status.OK
    [(topic, data, metadata)] = broker.published
    assert (topic, metadata) == ("a/b", {"CloudEvent.ID": "7", "ttlInSeconds": "10"})
    assert b'"data":{"n":9007199254740993}' in data
    event = json.loads(data)
    assert (event["id"], event["source"], event["traceparent"], event["topic"]) == ("7", "app", TRACE, "a/b")
    assert event["expiration"]


@pytest.mark.parametrize(
    ("content_type", "data", "shown"),
    [
        ("", b"hi", {"data": "hi", "datacontenttype": "text/plain"}),
        ("application/json", b"no json", {"data": "no json"}),
        ("application/x+json", b"[1]", {"data": "[1]"}),
        ("application/octet-stream", b"\xff", {"data_base64": "/w=="}),
        ("application/cloudevents+protobuf", b"\xff", {"data_base64": "/w=="}),
        ("application/cloudevents+json", b'{"id":"1","x":2}', {"id": "1", "x": 2, "topic": "t", "source": "Dapr"}),
    ],
)
async def test_data_follow_their_type(content_type: str, data: bytes, shown: dict[str, Any]) -> None:
    broker = FakeBroker()
    request = PublishEventRequest(pubsub_name="pubsub", topic="t", data=data, data_content_type=content_type)
    await ask(broker, "PublishEvent", request)
    event = json.loads(broker.published[0][1])
    assert {name: event[name] for name in shown} == shown


async def test_a_raw_payload_has_no_envelope() -> None:
    broker = FakeBroker()
    await ask(broker, "PublishEvent", request_of("PublishEvent", rawPayload="true"))
    assert broker.published[0][1] == b"x"


@pytest.mark.parametrize("rpc", BULK)
async def test_many_are_published(rpc: str) -> None:
    broker = FakeBroker("BULK_PUBSUB")
    entries = [
        Entry(entry_id="1", event=b"{}", content_type="application/json", metadata={"own": "1"}),
        Entry(entry_id="2", event=b"hi", content_type="text/plain"),
    ]
    request = BulkPublishRequest(pubsub_name="pubsub", topic="t", entries=entries, metadata={"all": "2"})
    call = await ask(broker, rpc, request)
    assert (call.status, call.replies) == (Status.OK, [BulkPublishResponse()])
    [[first, second]] = broker.bulk
    # The request's metadata reach the entries that have some of their own.
    assert (first.entry_id, first.metadata, second.metadata) == ("1", {"all": "2", "own": "1"}, {})
    assert json.loads(first.data)["data"] == {}
    assert json.loads(second.data)["data"] == "hi"


@pytest.mark.parametrize("rpc", BULK)
async def test_none_of_many_is_fine(rpc: str) -> None:
    call = await ask(FakeBroker("BULK_PUBSUB"), rpc, BulkPublishRequest(pubsub_name="pubsub", topic="t"))
    assert (call.status, call.replies) == (Status.OK, [BulkPublishResponse()])


# --- refusals

APP = {"appID": "app"}
RAW = "rawPayload value must be a valid boolean: actual is 'maybe'"
FORBIDDEN = "topic no is not allowed for app id app"


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize(
    ("pubsub", "topic", "metadata", "status", "reason", "text", "info"),
    [
        ("", "", {}, "INVALID_ARGUMENT", "NAME_EMPTY", "pubsub name is empty", APP),
        ("x", "", {}, "INVALID_ARGUMENT", "TOPIC_NAME_EMPTY", "topic is empty in pubsub x", APP),
        ("x", "t", {"rawPayload": "maybe"}, "INVALID_ARGUMENT", "NOT_FOUND", "pubsub x is not found", APP),
        (
            "pubsub",
            "t",
            {"rawPayload": "maybe"},
            "INVALID_ARGUMENT",
            "METADATA_DESERIALIZATION",
            f"failed deserializing metadata. Error: {RAW}",
            {**APP, "error": RAW},
        ),
        ("pubsub", "no", {}, "PERMISSION_DENIED", "FORBIDDEN", FORBIDDEN, {"topic": "no", "error": FORBIDDEN}),
    ],
)
async def test_refusals_come_in_order(
    rpc: str,
    pubsub: str,
    topic: str,
    metadata: dict[str, str],
    status: str,
    reason: str,
    text: str,
    info: dict[str, str],
) -> None:
    call = await ask(FakeBroker(), rpc, request_of(rpc, pubsub, topic, **metadata), {"allowedTopics": "t,broken"})
    assert (call.status, call.message) == (Status[status], text)
    *before, last = unpacked(call.details)
    assert last == ErrorInfo(reason=f"DAPR_PUBSUB_{reason}", domain="dapr.io", metadata=info)
    resource = ResourceInfo(resource_type="pubsub", resource_name=pubsub, description=text)
    assert before == ([] if reason == "NOT_FOUND" else [resource])


@pytest.mark.parametrize("rpc", RPCS)
async def test_without_components_nothing_is_configured(rpc: str) -> None:
    publisher = Publisher({}, "app", "ns", FakePolicies(), Metrics("app"))
    call = await ask(publisher, rpc, request_of(rpc))
    assert (call.status, call.message) == (Status.FAILED_PRECONDITION, "pubsub pubsub is not configured")
    info = ErrorInfo(reason="DAPR_PUBSUB_NOT_CONFIGURED", domain="dapr.io", metadata=APP)
    assert unpacked(call.details) == [info]


@pytest.mark.parametrize("rpc", RPCS)
async def test_a_broker_that_fails_is_internal(rpc: str) -> None:
    broker = FakeBroker()
    broker.failing["broken"] = DriverError("away")
    call = await ask(broker, rpc, request_of(rpc, topic="broken"))
    text = "error when publishing to topic broken in pubsub pubsub: away"
    assert (call.status, call.message) == (Status.INTERNAL, text)
    metadata = {"topic": "broken", "error": "away"}
    assert unpacked(call.details) == [
        ResourceInfo(resource_type="pubsub", resource_name="pubsub", description=text),
        ErrorInfo(reason="DAPR_PUBSUB_PUBLISH_MESSAGE", domain="dapr.io", metadata=metadata),
    ]


async def test_a_broken_envelope_is_refused() -> None:
    request = PublishEventRequest(
        pubsub_name="pubsub", topic="t", data=b"{", data_content_type="application/cloudevents+json"
    )
    call = await ask(FakeBroker(), "PublishEvent", request)
    assert (call.status, call.message) == (Status.INVALID_ARGUMENT, "cannot create cloudevent")
    info = unpacked(call.details)[1]
    assert isinstance(info, ErrorInfo)
    assert (info.reason, info.metadata["appID"]) == ("DAPR_PUBSUB_CLOUD_EVENT_CREATION", "app")
    assert info.metadata["error"]


@pytest.mark.parametrize("rpc", BULK)
@pytest.mark.parametrize("ids", [["1", "1"], ["1", ""]])
async def test_entries_need_ids_of_their_own(rpc: str, ids: list[str]) -> None:
    broker = FakeBroker()
    request = BulkPublishRequest(pubsub_name="pubsub", topic="t", entries=[Entry(entry_id=one) for one in ids])
    call = await ask(broker, rpc, request)
    assert call.status is Status.INVALID_ARGUMENT
    info = unpacked(call.details)[1]
    assert isinstance(info, ErrorInfo)
    assert info.reason == "DAPR_PUBSUB_MARSHAL_EVENTS"
    assert not broker.published


@pytest.mark.parametrize("rpc", BULK)
async def test_one_failed_entry_fails_the_call(rpc: str) -> None:
    broker = FakeBroker("BULK_PUBSUB")
    broker.failing["2"] = DriverError("too large")
    entries = [Entry(entry_id="1", event=b"x"), Entry(entry_id="2", event=b"x")]
    call = await ask(broker, rpc, BulkPublishRequest(pubsub_name="pubsub", topic="t", entries=entries))
    assert (call.status, call.replies) == (Status.INTERNAL, [])
    assert call.message == "error when publishing to topic t in pubsub pubsub: too large"
    sent: list[BulkEntry] = broker.bulk[0]
    assert [entry.entry_id for entry in sent] == ["1", "2"]
