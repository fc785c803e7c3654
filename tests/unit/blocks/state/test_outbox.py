"""The transactional outbox: what is staged, and what becomes of it when the internal topic brings it back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.blocks.state import Operation, Outbox, OutboxSettings, SaveItem, State
from edge_runtime.blocks.state.outbox import Source, stage
from edge_runtime.model.errors import CircuitOpen, DriverError, EdgeError, EtagMismatch, Kind
from edge_runtime.model.ports import Handler, Item, Message, Outcome
from edge_runtime.model.trace import Trace
from tests.unit.blocks.state.stores import MapStore, bound, state_of

SOURCE = Source("app", "inner", "2026-01-02T03:04:05Z", Trace("00-1-2-01", "a=b"))
SETTINGS = OutboxSettings("out", "orders", "inner")


class Broker:
    """Both ends of publish and subscribe, seen from the outbox."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, dict[str, Any]]] = []
        self.handlers: dict[tuple[str, str], Handler] = {}
        self.fault: Exception | None = None
        self.delay_s = 0.0

    async def publish_raw(self, pubsub: str, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        if self.fault is not None:
            raise self.fault
        await trio.sleep(self.delay_s)
        self.published.append((pubsub, topic, json.loads(data)))

    async def subscribe_internal(self, pubsub: str, topic: str, handler: Handler, *, task_status: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.handlers[pubsub, topic] = handler
        task_status.started()
        await trio.sleep_forever()

    async def bring(self, event: Mapping[str, Any] | bytes) -> Outcome:
        (handler,) = self.handlers.values()
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await handler(Message("any", data))


def events(*operations: Operation) -> list[dict[str, Any]]:
    numbers = iter(range(9))
    staged = stage(operations, SOURCE, lambda: f"outbox-{next(numbers)}")
    return [json.loads(event) for event in staged.events.values()]


def upsert(key: str, value: bytes = b"1", **more: Any) -> Operation:
    return Operation("upsert", SaveItem(key, value, **more))


def test_each_upsert_has_its_event() -> None:
    assert events(
        upsert("a", b'{"n":1}', content_type="application/json"), Operation("delete", SaveItem("b", b""))
    ) == [
        {
            "data": {"n": 1},
            "datacontenttype": "application/json",
            "id": "outbox-0",
            "pubsubname": "inner",
            "source": "app",
            "specversion": "1.0",
            "time": "2026-01-02T03:04:05Z",
            "topic": "",
            "traceid": "00-1-2-01",
            "traceparent": "00-1-2-01",
            "tracestate": "a=b",
            "type": "com.dapr.event.sent",
        }
    ]


@pytest.mark.parametrize(
    ("value", "item", "content_type", "data"),
    [
        (b'"text"', {}, "text/plain", "text"),
        (b"12345678901234567890", {}, "text/plain", "12345678901234567890"),
        (b'{"v":1}', {}, "application/json", {"v": 1}),
        (b"[1]", {}, "application/json", [1]),
        (b'{"v":1}', {"content_type": "text/plain"}, "text/plain", '{"v":1}'),
        (b'"text"', {"metadata": {"contentType": "application/json; charset=utf-8"}}, None, "text"),
        (b"1", {"metadata": {"datacontenttype": "application/json"}}, "application/json", 1),
        (b"no json", {"content_type": "application/json"}, "application/json", "no json"),
        (b"no json", {}, "text/plain", "no json"),
    ],
)
def test_payload_follows_content_type(value: bytes, item: dict[str, Any], content_type: str | None, data: Any) -> None:
    (event,) = events(upsert("a", value, **item))
    assert event["data"] == data
    assert event["datacontenttype"] == content_type or content_type is None


def test_metadata_becomes_fields() -> None:
    (event,) = events(upsert("a", metadata={"type": "order.made", "shop": "7", "id": "no", "data": "no"}))
    assert (event["type"], event["shop"], event["id"], event["data"]) == ("order.made", "7", "outbox-0", "1")


def test_projection_replaces_the_payload() -> None:
    operations = [
        upsert("a", b'{"full":1}', content_type="application/json"),
        upsert("a", b'{"part":1}', metadata={"outbox.projection": "True", "x": "y"}),
        upsert("b"),
    ]
    staged = stage(operations, SOURCE, iter(["m1", "m2"]).__next__)
    assert [operation.item.value for operation in staged.operations] == [b'{"full":1}', b"1"]
    first, second = (json.loads(event) for event in staged.events.values())
    assert (first["data"], first["x"], "outbox.projection" in first) == ({"part": 1}, "y", False)
    assert second["data"] == "1"
    assert [(marker.key, marker.value) for marker in staged.markers] == [("m1", b"0"), ("m2", b"0")]


# --- the whole way


class Setup:
    def __init__(
        self, settings: OutboxSettings = SETTINGS, wired: bool = True, policies: Mapping[str, Any] | None = None
    ) -> None:
        self.store = MapStore()
        self.broker = Broker()
        store = bound(self.store, outbox=settings)
        self.outbox = Outbox({"store": store, "plain": bound(MapStore(), "plain")}, "app", "ns", self.broker)
        self.state: State = state_of(store, policies=policies, outbox=self.outbox if wired else None)


async def test_event_follows_its_transaction(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)
    await setup.state.transact("store", [upsert("a", b'"x"'), Operation("delete", SaveItem("gone", b""))])
    assert list(setup.broker.handlers) == [("inner", "nsappordersoutbox")]
    ((pubsub, topic, event),) = setup.broker.published
    assert (pubsub, topic, event["topic"]) == ("inner", "nsappordersoutbox", "")
    assert setup.store.rows[event["id"]].value == b"0"
    assert await setup.broker.bring(event) is Outcome.ACK
    assert setup.broker.published[1] == ("out", "orders", event | {"topic": "orders", "pubsubname": "out"})
    assert list(setup.store.rows) == ["app||a"]
    assert trio.current_time() == 0


async def test_late_transaction_is_waited_for(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)

    async def commit_later() -> None:
        await trio.sleep(5)
        setup.store.rows["outbox-1"] = Item(b"0", "1")

    nursery.start_soon(commit_later)
    assert await setup.broker.bring({"id": "outbox-1"}) is Outcome.ACK
    assert trio.current_time() == 6.0
    assert len(setup.broker.published) == 1


@pytest.mark.parametrize(("discard", "outcome"), [(False, Outcome.NACK), (True, Outcome.ACK)])
async def test_missing_transaction_publishes_nothing(
    discard: bool, outcome: Outcome, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    setup = Setup(SETTINGS._replace(discard=discard))
    await nursery.start(setup.outbox.run)
    assert await setup.broker.bring({"id": "outbox-1"}) is outcome
    assert not setup.broker.published
    assert math.isclose(trio.current_time(), 9.0)


async def test_refused_transaction_is_not_waited_for(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)
    with pytest.raises(EdgeError):
        await setup.state.transact("store", [upsert("a", etag="9")])
    ((_, _, event),) = setup.broker.published
    assert await setup.broker.bring(event) is Outcome.ACK
    assert len(setup.broker.published) == 1
    assert trio.current_time() == 0


async def test_uncertain_transaction_is_waited_for(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)
    setup.store.faults = [DriverError("who knows")]
    with pytest.raises(EdgeError):
        await setup.state.transact("store", [upsert("a")])
    ((_, _, event),) = setup.broker.published
    assert await setup.broker.bring(event) is Outcome.NACK


@pytest.mark.parametrize("last", [EtagMismatch("own write"), CircuitOpen("circuit breaker is open")])
async def test_doubt_outlasts_later_refusals(
    last: DriverError, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    targets = {"components": {"store": {"outbound": {"retry": "r"}}}}
    setup = Setup(policies={"policies": {"retries": {"r": {"duration": "1s"}}}, "targets": targets})
    await nursery.start(setup.outbox.run)
    setup.store.faults = [DriverError("timed out after the commit"), last]
    with pytest.raises(EdgeError):
        await setup.state.transact("store", [upsert("a")])
    ((_, _, event),) = setup.broker.published
    setup.store.rows[event["id"]] = Item(b"0", "1")
    assert await setup.broker.bring(event) is Outcome.ACK
    assert len(setup.broker.published) == 2


async def test_events_of_callers_who_left_are_dropped(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)
    setup.broker.delay_s = 1.0
    with trio.move_on_after(1.5):
        await setup.state.transact("store", [upsert("a"), upsert("b")])
    ((_, _, event),) = setup.broker.published
    setup.broker.delay_s = 0.0
    assert await setup.broker.bring(event) is Outcome.ACK
    assert len(setup.broker.published) == 1
    assert not setup.store.rows


async def test_failed_publish_keeps_the_marker(nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)
    setup.store.rows["outbox-1"] = Item(b"0", "1")
    setup.broker.fault = DriverError("broker away")
    assert await setup.broker.bring({"id": "outbox-1"}) is Outcome.NACK
    setup.broker.fault = None
    assert await setup.broker.bring({"id": "outbox-1"}) is Outcome.ACK
    assert not setup.store.rows


@pytest.mark.parametrize("data", [b"no json", b"[]", b"{}", b'{"id": 5}'])
async def test_foreign_messages_are_dropped(data: bytes, nursery: trio.Nursery) -> None:
    setup = Setup()
    await nursery.start(setup.outbox.run)
    assert await setup.broker.bring(data) is Outcome.ACK
    assert not setup.broker.published


async def test_failed_subscription_is_tried_again(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup()
    setup.broker.fault = EdgeError(Kind.PUBSUB_NOT_FOUND, "pubsub inner is not found")
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.outbox.run)
        assert "pub/sub inner cannot be subscribed to, trying again in 1 s: pubsub inner is not found" in caplog.text
        await trio.sleep(2.5)
        setup.broker.fault = None
        await trio.sleep(1)
        assert list(setup.broker.handlers) == [("inner", "nsappordersoutbox")]
        nursery.cancel_scope.cancel()


async def test_failed_internal_publish_fails_the_call() -> None:
    setup = Setup()
    setup.broker.fault = EdgeError(Kind.PUBSUB_NOT_FOUND, "pubsub inner is not found")
    with pytest.raises(EdgeError) as caught:
        await setup.state.transact("store", [upsert("a")])
    assert caught.value.kind is Kind.OUTBOX_PUBLISH
    assert caught.value.message == "error while publishing outbox message: pubsub inner is not found"
    assert caught.value.metadata == {"appID": "app", "error": "pubsub inner is not found"}
    assert not setup.store.rows


async def test_outbox_without_pubsub_fails_the_call() -> None:
    setup = Setup(wired=False)
    with pytest.raises(EdgeError) as caught:
        await setup.state.transact("store", [upsert("a")])
    assert caught.value.kind is Kind.OUTBOX_PUBLISH
    assert not setup.store.rows


def test_withdrawn_markers_are_limited() -> None:
    setup = Setup()
    for _ in range(1030):
        setup.outbox.withdraw(setup.outbox.stage(SETTINGS, [upsert("a")], Trace()))
    assert len(setup.outbox._withdrawn) == 1024
