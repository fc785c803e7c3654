"""Events that go somewhere else as well: there first, once, and in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.blocks.pubsub import Entry, Publisher
from edge_runtime.blocks.pubsub.publish import Failure
from edge_runtime.model.errors import DriverError, EdgeError, Overloaded
from edge_runtime.observability.metrics import Metrics
from tests.unit.blocks.pubsub.fakes import FakeBroker, FakePolicies, Retry, binding_of, publisher_of


class Elsewhere:
    def __init__(self, *refused: bytes) -> None:
        self.taken: list[tuple[bytes, Mapping[str, str]]] = []
        self._refused = refused

    async def take(self, data: bytes, metadata: Mapping[str, str]) -> None:
        if any(text in data for text in self._refused):
            raise Overloaded("the route is full")
        self.taken.append((data, metadata))
        await trio.lowlevel.checkpoint()


def forwarding(broker: FakeBroker, *others: Elsewhere) -> Publisher:
    publisher = publisher_of(binding_of(broker))
    publisher.forwards = {("pubsub", "orders"): [other.take for other in others]}
    return publisher


def entries(count: int) -> list[Entry]:
    return [Entry(str(n), b"<%d>" % n, "text/plain", {"k": str(n)} if n else None) for n in range(count)]


async def test_an_event_goes_to_both() -> None:
    broker, one, two = FakeBroker(), Elsewhere(), Elsewhere()
    publisher = forwarding(broker, one, two)
    await publisher.publish("pubsub", "orders", b"1", metadata={"k": "v"})
    await publisher.publish("pubsub", "others", b"2")
    assert one.taken == two.taken == [(broker.published[0][1], {"k": "v"})]
    assert len(broker.published) == 2


async def test_who_is_refused_tells_nobody() -> None:
    broker = FakeBroker()
    publisher = forwarding(broker, Elsewhere(b"1"))
    with pytest.raises(EdgeError, match="error when publishing to topic orders in pubsub pubsub: the route is full"):
        await publisher.publish("pubsub", "orders", b"1")
    assert broker.published == []


async def test_a_policy_forwards_once(autojump_clock: trio.testing.MockClock) -> None:
    broker, elsewhere = FakeBroker(), Elsewhere()
    broker.failing["orders"] = DriverError("away")
    policies = FakePolicies(outbound=Retry(3))
    publisher = Publisher({"pubsub": binding_of(broker)}, "app", "ns", policies, Metrics("app"))
    publisher.forwards = {("pubsub", "orders"): [elsewhere.take]}
    with pytest.raises(EdgeError):
        await publisher.publish("pubsub", "orders", b"1")
    assert len(elsewhere.taken) == 1


async def test_a_batch_goes_in_order() -> None:
    broker, elsewhere = FakeBroker(), Elsewhere()
    publisher = forwarding(broker, elsewhere)
    assert await publisher.bulk_publish("pubsub", "orders", entries(50), {"all": "yes"}) == []
    assert [metadata.get("k") for _, metadata in elsewhere.taken] == [None, *(str(n) for n in range(1, 50))]
    assert all(metadata["all"] == "yes" for _, metadata in elsewhere.taken)
    assert len(broker.published) == 50


async def test_what_is_refused_of_a_batch_fails_alone() -> None:
    broker = FakeBroker()
    publisher = forwarding(broker, Elsewhere(b"u003c1", b"u003c3"))
    failures = await publisher.bulk_publish("pubsub", "orders", entries(5))
    assert failures == [Failure("1", "the route is full"), Failure("3", "the route is full")]
    assert len(broker.published) == 3


async def test_a_batch_that_is_refused_whole_is_not_tried() -> None:
    broker = FakeBroker()
    publisher = forwarding(broker, Elsewhere(b""))
    failures: list[Any] = await publisher.bulk_publish("pubsub", "orders", entries(2))
    assert len(failures) == 2
    assert broker.published == []


async def test_a_second_place_sees_the_order_of_the_publish(autojump_clock: trio.testing.MockClock) -> None:
    """Also when the first one takes the last entry soonest, and refuses one."""

    class Backwards(Elsewhere):
        async def take(self, data: bytes, metadata: Mapping[str, str]) -> None:
            await super().take(data, metadata)
            await trio.sleep(100 - len(self.taken))

    broker, one, two = FakeBroker(), Backwards(rb"\u003c7\u"), Elsewhere(rb"\u003c3\u")
    publisher = forwarding(broker, one, two)
    failures = await publisher.bulk_publish("pubsub", "orders", entries(20))
    kept = [n for n in range(20) if n not in (3, 7)]
    assert [int(metadata.get("k", 0)) for _, metadata in two.taken] == kept
    assert [int(metadata.get("k", 0)) for _, metadata in one.taken] == [n for n in range(20) if n != 7]
    assert {failure.entry_id for failure in failures} == {"3", "7"}
