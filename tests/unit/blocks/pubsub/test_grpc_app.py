"""Delivery to gRPC apps: calls, fall-back, lost events, and the app's list of subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import trio
from google.protobuf.message import Message

from edge_runtime.blocks.pubsub.app import Batch, BulkEvent, DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.grpc_app import BULK, BULK_ALPHA, EVENT, LIST, GrpcAppDelivery
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import BulkSettings, DiscoveryError, SubscriptionKind, SubscriptionSpec
from edge_runtime.model.errors import DriverError
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    BulkSubscribeConfig,
    ListTopicSubscriptionsResponse,
    TopicEventBulkResponse,
    TopicEventBulkResponseEntry,
    TopicEventResponse,
    TopicRoutes,
    TopicRule,
    TopicSubscription,
)
from edge_runtime.wire.cloudevents import CLOUD_EVENT
from tests.unit.blocks.pubsub.fakes import TRACE

UNKNOWN, UNIMPLEMENTED = 2, 12
BATCH = Batch("batch", "pubsub", "t", [BulkEvent("a", b"{}", CLOUD_EVENT)])
DONE = TopicEventBulkResponse(statuses=[TopicEventBulkResponseEntry(entry_id="a")])


class Reply(NamedTuple):
    message: Message


class FakeGrpcApp:
    """Answers by path; a path that it does not know is not implemented."""

    def __init__(self, answers: Mapping[str, Message | int] | None = None) -> None:
        self.answers = dict(answers or {})
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[Sequence[tuple[str, str | bytes]]] = []
        self.on_call: Callable[[], None] = lambda: None

    async def unary(
        self,
        path: str,
        request: Message,
        reply_type: type[Message],
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout_s: float | None = None,
    ) -> Reply:
        await trio.lowlevel.checkpoint()
        self.calls.append((path, request))
        self.metadata.append(metadata)
        self.on_call()
        answer = self.answers.get(path, UNIMPLEMENTED)
        if isinstance(answer, int):
            raise DriverError("no", code=answer)
        assert isinstance(answer, reply_type)
        return Reply(answer)

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]


async def test_an_event_is_one_call() -> None:
    app = FakeGrpcApp({EVENT: TopicEventResponse()})
    assert await GrpcAppDelivery(app).deliver(Event("p", "t", b'{"id":"1"}', {"k": "v"}), "/x") is Verdict.SUCCESS
    [(_, request)] = app.calls
    assert (request.id, request.path) == ("1", "/x")
    assert app.metadata == [[("pubsubname", "p"), ("k", "v")]]


async def test_an_app_without_the_call_loses_events(caplog: pytest.LogCaptureFixture) -> None:
    assert await GrpcAppDelivery(FakeGrpcApp()).deliver(Event("p", "t", b"{}"), "") is Verdict.IGNORED
    assert "an event of topic t is lost" in caplog.text


async def test_other_errors_can_be_retried() -> None:
    delivery = GrpcAppDelivery(FakeGrpcApp({EVENT: UNKNOWN, BULK: UNKNOWN}))
    for call in (delivery.deliver(Event("p", "t", b"{}"), ""), delivery.deliver_bulk(BATCH, "")):
        with pytest.raises(DriverError) as raised:
            await call
        assert raised.value.code == UNKNOWN
    retrying = GrpcAppDelivery(FakeGrpcApp({EVENT: TopicEventResponse(status=TopicEventResponse.RETRY)}))
    with pytest.raises(DeliveryFailed):
        await retrying.deliver(Event("p", "t", b"{}"), "")


async def test_a_tracer_makes_a_span_of_each_call() -> None:
    app = FakeGrpcApp({EVENT: TopicEventResponse()})
    delivery = GrpcAppDelivery(app, Tracer(1.0))
    await delivery.deliver(Event("p", "t", b"{}", {}, TRACE), "")
    traceparent = str(dict(app.metadata[0])["traceparent"])
    assert traceparent[:36] == TRACE[:36]
    assert traceparent != TRACE
    await delivery.deliver(Event("p", "t", b"{}", {}, "odd"), "")
    assert app.metadata[1] == [("pubsubname", "p")]


async def test_the_alpha_name_is_tried_and_remembered() -> None:
    app = FakeGrpcApp({BULK_ALPHA: DONE})
    delivery = GrpcAppDelivery(app)
    for _ in range(2):
        assert await delivery.deliver_bulk(BATCH, "/x") == {"a": Verdict.SUCCESS}
    assert app.paths() == [BULK, BULK_ALPHA, BULK_ALPHA]
    app.answers = {BULK: DONE}  # another version of the app
    assert await delivery.deliver_bulk(BATCH, "/x") == {"a": Verdict.SUCCESS}
    assert app.paths()[3:] == [BULK_ALPHA, BULK]
    assert app.metadata[0] == (("pubsubname", "pubsub"),)


async def test_no_bulk_call_at_all_loses_events() -> None:
    app = FakeGrpcApp()
    assert await GrpcAppDelivery(app).deliver_bulk(BATCH, "") == {"a": Verdict.IGNORED}
    assert app.paths() == [BULK, BULK_ALPHA]


async def test_a_batch_of_nothing_is_not_sent() -> None:
    app = FakeGrpcApp({BULK: DONE})
    bad = Batch("batch", "p", "t", [BulkEvent("a", b'{"data_base64":1}', CLOUD_EVENT)])
    assert await GrpcAppDelivery(app).deliver_bulk(bad, "") == {}
    assert app.calls == []


# --- discovery --------------------------------------------------------------------------------------------------------


async def listed(*subscriptions: TopicSubscription) -> Sequence[SubscriptionSpec]:
    app = FakeGrpcApp({LIST: ListTopicSubscriptionsResponse(subscriptions=subscriptions)})
    return await GrpcAppDelivery(app).list_subscriptions()


async def test_the_app_lists_its_subscriptions() -> None:
    rules = [TopicRule(match='event.type == "x"', path="/x"), TopicRule(match="", path="/y")]
    [spec] = await listed(
        TopicSubscription(
            pubsub_name="p",
            topic="t",
            metadata={"rawPayload": "true"},
            routes=TopicRoutes(rules=rules, default="/all"),
            dead_letter_topic="dead",
            bulk_subscribe=BulkSubscribeConfig(enabled=True, max_messages_count=5),
        )
    )
    assert spec == SubscriptionSpec(
        "p",
        "t",
        (Rule('event.type == "x"', "/x"), Rule("", "/y"), Rule("", "/all")),
        {"rawPayload": "true"},
        "dead",
        BulkSettings(True, 5, 1000),
        SubscriptionKind.PROGRAMMATIC,
    )


async def test_without_routes_the_path_is_empty() -> None:
    bare, empty = await listed(
        TopicSubscription(pubsub_name="p", topic="a"),
        TopicSubscription(pubsub_name="p", topic="b", routes=TopicRoutes()),
    )
    assert bare.rules == empty.rules == (Rule("", ""),)


async def test_a_bad_rule_stops_discovery() -> None:
    rules = [TopicRule(match="event.", path="/x")]
    with pytest.raises(DiscoveryError, match="ListTopicSubscriptions"):
        await listed(TopicSubscription(pubsub_name="p", topic="t", routes=TopicRoutes(rules=rules)))


async def test_an_app_without_a_list_subscribes_to_nothing() -> None:
    assert await GrpcAppDelivery(FakeGrpcApp()).list_subscriptions() == ()
    with pytest.raises(DriverError):
        await GrpcAppDelivery(FakeGrpcApp({LIST: UNKNOWN})).list_subscriptions()
