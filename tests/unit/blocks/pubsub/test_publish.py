"""Publishing: envelopes, scopes, ttl, raw payloads, policies, bulk and what is counted."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from edge_runtime.blocks.pubsub import Entry, Failure, Publisher, is_namespaced
from edge_runtime.blocks.pubsub.publish import random_id, ttl_of
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.trace import Trace
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.observability.trace import Tracer
from tests.unit.blocks.pubsub.fakes import TRACE, FakeBroker, FakePolicies, Retry, binding_of, publisher_of


def events(broker: FakeBroker) -> list[dict[str, Any]]:
    return [json.loads(data) for _, data, _ in broker.published]


async def test_an_event_reaches_the_broker() -> None:
    broker = FakeBroker()
    await publisher_of(binding_of(broker)).publish(
        "pubsub", "orders", b'{"a":1}', "application/json", {}, Trace(TRACE, "k=v")
    )
    [event] = events(broker)
    assert broker.published[0][0] == "orders"
    assert event.pop("time").startswith("1970-01-1")
    assert event == {
        "data": {"a": 1},
        "datacontenttype": "application/json",
        "id": "id-1",
        "pubsubname": "pubsub",
        "source": "app",
        "specversion": "1.0",
        "topic": "orders",
        "traceid": TRACE,
        "traceparent": TRACE,
        "tracestate": "k=v",
        "type": "com.dapr.event.sent",
    }


async def test_an_unknown_component_is_not_found() -> None:
    with pytest.raises(EdgeError, match="pubsub nosuch is not found") as caught:
        await publisher_of(binding_of(FakeBroker())).publish("nosuch", "t", b"", metadata={"x": "y"})
    assert caught.value.kind is Kind.PUBSUB_NOT_FOUND
    assert caught.value.metadata == {"x": "y"}
    assert caught.value.resource is None


async def test_a_topic_outside_the_scopes_is_forbidden() -> None:
    broker = FakeBroker()
    publisher = publisher_of(binding_of(broker, {"allowedTopics": "a"}))
    with pytest.raises(EdgeError) as caught:
        await publisher.publish("pubsub", "b", b"")
    text = "topic b is not allowed for app id app"
    assert (caught.value.kind, caught.value.message) == (Kind.PUBSUB_FORBIDDEN, text)
    assert caught.value.metadata == {"topic": "b", "error": text}
    assert caught.value.resource == ("pubsub", "pubsub")
    assert caught.value.description == text
    with pytest.raises(EdgeError):
        await publisher.bulk_publish("pubsub", "b", [Entry("1", b"", "text/plain")])
    with pytest.raises(EdgeError):
        await publisher.publish_raw_all("pubsub", "b", [])
    assert broker.published == []


async def test_a_brokers_refusal_is_a_publish_error() -> None:
    broker = FakeBroker()
    broker.failing["t"] = DriverError("the disk is full")
    with pytest.raises(EdgeError) as caught:
        await publisher_of(binding_of(broker)).publish("pubsub", "t", b"")
    assert caught.value.kind is Kind.PUBSUB_PUBLISH
    assert caught.value.message == "error when publishing to topic t in pubsub pubsub: the disk is full"
    assert caught.value.metadata == {"topic": "t", "error": "the disk is full"}


async def test_a_raw_payload_has_no_envelope() -> None:
    broker = FakeBroker()
    publisher = publisher_of(binding_of(broker))
    await publisher.publish("pubsub", "t", b"\xff", "x/y", {"RawPayload": "T", "ttl": "5", "own": "1"})
    assert broker.published == [("t", b"\xff", {"RawPayload": "T", "ttl": "5", "own": "1"})]
    await publisher.publish("pubsub", "t", b"x", "", {"rawPayload": "0"})
    await publisher.publish("pubsub", "t", b"x", "", {"rawPayload": ""})
    assert events(FakeBroker()) == []
    assert all(json.loads(data)["data"] == "x" for _, data, _ in broker.published[1:])


async def test_a_raw_flag_is_a_strict_boolean() -> None:
    with pytest.raises(EdgeError) as caught:
        await publisher_of(binding_of(FakeBroker())).publish("pubsub", "t", b"", metadata={"rawPayload": "yes"})
    assert caught.value.kind is Kind.PUBSUB_METADATA
    assert caught.value.message == (
        "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is 'yes'"
    )


async def test_a_ttl_becomes_an_expiration() -> None:
    broker = FakeBroker()
    publisher = publisher_of(binding_of(broker))
    await publisher.publish("pubsub", "t", b"", metadata={"TtlInSeconds": "60"})
    await publisher.publish("pubsub", "t", b"{}", "application/cloudevents+json", metadata={"ttl": "1m"})
    await publisher.publish("pubsub", "t", b"", metadata={"ttl": "-1"})
    assert [event.get("expiration") for event in events(broker)] == [
        "1970-01-12T13:47:40Z",
        "1970-01-12T13:47:40Z",
        None,
    ]


async def test_a_broker_with_ttl_expires_itself() -> None:
    broker = FakeBroker("MESSAGE_TTL")
    await publisher_of(binding_of(broker)).publish("pubsub", "t", b"", metadata={"ttl": "60"})
    assert "expiration" not in events(broker)[0]


@pytest.mark.parametrize(
    ("text", "ttl_s"),
    [("10", 10), ("+3", 3), ("1m30s", 90), ("0", None), ("-5", None), ("soon", None), ("", None), ("9" * 400, None)],
)
def test_a_ttl_is_seconds_or_a_duration(text: str, ttl_s: float | None) -> None:
    assert ttl_of({"ttl": text}) == ttl_s
    assert ttl_of({"TTLINSECONDS": text}) == ttl_s
    assert ttl_of({}) is None


async def test_overrides_reach_the_envelope() -> None:
    broker = FakeBroker()
    await publisher_of(binding_of(broker)).publish(
        "pubsub", "t", b"", metadata={"cloudevent.type": "mine", "cloudevent.subject": "s", "cloudevent.id": "7"}
    )
    [event] = events(broker)
    assert (event["type"], event["subject"], event["id"], event["source"]) == ("mine", "s", "7", "app")


async def test_a_ready_event_stays_as_it_is() -> None:
    broker = FakeBroker()
    await publisher_of(binding_of(broker)).publish(
        "pubsub", "t", b'{"id":"1","type":"x"}', "application/cloudevents+json; v=1", {"cloudevent.type": "y"}
    )
    [event] = events(broker)
    assert (event["id"], event["type"], event["source"], event["topic"]) == ("1", "x", "Dapr", "t")


async def test_a_broken_event_cannot_be_created() -> None:
    with pytest.raises(EdgeError, match="cannot create cloudevent") as caught:
        await publisher_of(binding_of(FakeBroker())).publish("pubsub", "t", b"no", "application/cloudevents+json")
    assert caught.value.kind is Kind.PUBSUB_CLOUD_EVENT
    assert set(caught.value.metadata or ()) == {"appID", "error"}


async def test_a_namespace_stands_before_topics() -> None:
    broker = FakeBroker()
    binding = binding_of(broker, {"consumerID": "{namespace}"})
    assert binding.namespaced
    await publisher_of(binding).publish("pubsub", "t", b"")
    assert broker.published[0][0] == "nst"
    assert events(broker)[0]["topic"] == "t"
    # Templates are filled in before the driver gets them; the caller then says what the raw values were.
    assert not binding_of(broker, {"consumerID": "ns.app"}, namespaced=False).namespaced
    assert binding_of(broker, {"consumerID": "ns.app"}, namespaced=True).topic_prefix == "ns"
    assert not is_namespaced({"a": "namespace"})


def test_the_group_is_the_consumer_id() -> None:
    assert binding_of(FakeBroker(), {"consumerID": " g "}).consumer_group == "g"
    assert binding_of(FakeBroker(), {"consumerid": "g"}).consumer_group == "app"
    assert binding_of(FakeBroker(), {"consumerID": " "}).consumer_group == "app"


async def test_a_policy_tries_again(autojump_clock: object) -> None:
    broker = FakeBroker()
    broker.failing["t"] = DriverError("no")
    metrics = Metrics("app")
    publisher = publisher_of(binding_of(broker), policies=FakePolicies(outbound=Retry(3)), metrics=metrics)
    with pytest.raises(EdgeError):
        await publisher.publish("pubsub", "t", b"")
    assert (
        'component_pubsub_egress_count{app_id="app",component="pubsub",namespace="ns",success="false",topic="t"} 1'
        in (render([metrics]))
    )


async def test_a_publish_is_counted() -> None:
    metrics = Metrics("app")
    publisher = publisher_of(binding_of(FakeBroker()), metrics=metrics)
    await publisher.publish("pubsub", "t", b"")
    await publisher.bulk_publish("pubsub", "t", [Entry("1", b"", "text/plain")])
    page = render([metrics])
    labels = '{app_id="app",component="pubsub",namespace="ns",success="true",topic="t"} 1'
    assert f"dapr_component_pubsub_egress_count{labels}" in page
    assert f"dapr_component_pubsub_egress_bulk_count{labels}" in page


async def test_slow_publishes_have_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    metrics = Metrics("app")
    publisher = publisher_of(binding_of(FakeBroker("BULK_PUBSUB")), metrics=metrics)
    await publisher.publish("pubsub", "t", b"")
    await publisher.bulk_publish("pubsub", "t", [Entry("1", b"", "text/plain")])
    labels = '{app_id="app",component="pubsub",namespace="ns",success="true",topic="t"}'
    assert f"component_pubsub_egress_latencies_sum{labels} 250\n" in render([metrics])
    assert f"component_pubsub_egress_bulk_latencies_sum{labels} 500\n" in render([metrics])


async def test_raw_bytes_can_be_sent_on() -> None:
    broker = FakeBroker()
    await publisher_of(binding_of(broker)).publish_raw("pubsub", "dead", b"{}", {"k": "v"})
    assert broker.published == [("dead", b"{}", {"k": "v"})]


# --- bulk -------------------------------------------------------------------------------------------------------------


def entry(entry_id: str, **metadata: str) -> Entry:
    return Entry(entry_id, b"x", "text/plain", metadata or None)


async def bulk(publisher: Publisher, *entries: Entry, **metadata: str) -> list[Failure]:
    return await publisher.bulk_publish("pubsub", "t", entries, metadata)


async def test_every_entry_gets_its_envelope() -> None:
    broker = FakeBroker("BULK_PUBSUB")
    assert await bulk(publisher_of(binding_of(broker)), entry("1"), entry("2", own="o"), ttl="60") == []
    [[first, second]] = broker.bulk
    assert (first.entry_id, first.metadata) == ("1", {})
    assert "expiration" not in json.loads(first.data)  # request metadata reach only entries that have some
    assert second.metadata == {"ttl": "60", "own": "o"}
    assert json.loads(second.data)["expiration"] == "1970-01-12T13:47:40Z"


async def test_an_entrys_own_metadata_win() -> None:
    broker = FakeBroker("BULK_PUBSUB")
    await bulk(publisher_of(binding_of(broker)), entry("1", **{"cloudevent.type": "b"}), **{"cloudevent.type": "a"})
    assert json.loads(broker.bulk[0][0].data)["type"] == "b"


@pytest.mark.parametrize(("sampling", "spans"), [(1.0, 2), (None, 1)])
async def test_entries_are_spans_of_their_own(sampling: float | None, spans: int) -> None:
    broker = FakeBroker("BULK_PUBSUB")
    policies, tracer = FakePolicies(), Tracer(sampling)
    publisher = Publisher({"pubsub": binding_of(broker)}, "app", "ns", policies, Metrics("app"), tracer=tracer)
    await publisher.bulk_publish("pubsub", "t", [entry("1"), entry("2")], trace=Trace(TRACE, "k=v"))
    events = [json.loads(one.data) for one in broker.bulk[0]]
    assert len({event["traceparent"] for event in events}) == spans
    assert {(event["traceparent"][:36], event["tracestate"]) for event in events} == {(TRACE[:36], "k=v")}
    assert (events[0]["traceparent"] == TRACE) is (sampling is None)


async def test_a_raw_bulk_has_no_envelopes() -> None:
    broker = FakeBroker("BULK_PUBSUB")
    await bulk(publisher_of(binding_of(broker)), entry("1"), rawPayload="true")
    assert broker.bulk[0][0].data == b"x"


@pytest.mark.parametrize("ids", [("1", "1"), ("",)])
async def test_entry_ids_are_unique(ids: tuple[str, ...]) -> None:
    broker = FakeBroker()
    with pytest.raises(EdgeError) as caught:
        await bulk(publisher_of(binding_of(broker)), *(entry(one) for one in ids))
    assert caught.value.kind is Kind.PUBSUB_MARSHAL_EVENTS
    assert caught.value.message == (
        "error marshaling events to bytes for topic t pubsub pubsub. "
        "error: entryId is duplicated or not present for entry"
    )
    assert broker.published == []


async def test_an_empty_bulk_publishes_nothing() -> None:
    assert await bulk(publisher_of(binding_of(FakeBroker("BULK_PUBSUB")))) == []


async def test_failed_entries_are_named() -> None:
    broker = FakeBroker("BULK_PUBSUB")
    broker.failing["2"] = DriverError("too long")
    failures = await bulk(publisher_of(binding_of(broker)), entry("1"), entry("2"), entry("3"))
    assert failures == [Failure("2", "too long")]


async def test_a_policy_sends_only_what_failed(autojump_clock: object) -> None:
    broker = FakeBroker("BULK_PUBSUB")
    broker.failing["2"] = DriverError("too long")
    publisher = publisher_of(binding_of(broker), policies=FakePolicies(outbound=Retry(2)))
    assert await bulk(publisher, entry("1"), entry("2")) == [Failure("2", "too long")]
    assert [[one.entry_id for one in batch] for batch in broker.bulk] == [["1", "2"], ["2"]]


async def test_a_broken_broker_fails_every_entry() -> None:
    broker = FakeBroker("BULK_PUBSUB")
    broker.failing["t"] = DriverError("away")
    failures = await bulk(publisher_of(binding_of(broker)), entry("1"), entry("2"))
    assert failures == [Failure("1", "away"), Failure("2", "away")]


async def test_a_plain_broker_gets_them_one_by_one() -> None:
    broker = FakeBroker()
    many = [entry(str(number)) for number in range(250)]
    assert await bulk(publisher_of(binding_of(broker)), *many) == []
    assert len(broker.published) == 250
    broker.failing["t"] = DriverError("away")
    assert await bulk(publisher_of(binding_of(broker)), entry("1")) == [Failure("1", "away")]


def test_random_ids_are_uuids() -> None:
    made = {random_id() for _ in range(100)}
    assert len(made) == 100
    assert {uuid.UUID(one).version for one in made} == {4}
    assert {uuid.UUID(one).variant for one in made} == {uuid.RFC_4122}
