"""What every broker must do, and what some of them declare to do."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import BulkEntry, Message, Outcome
from tests.brokers import Inbox, Mosquitto, open_broker, until


class Driver(NamedTuple):
    """A driver and what it declares. `ordered` names the metadata that asks for order, `pattern` a subscription with a
    topic that it is for and one that it is not for; `keeps_unwanted`: also what was published before any subscription
    is kept; `carries_metadata`: what is published with a message arrives with it."""

    type: str
    ordered: dict[str, str]
    metadata: Mapping[str, str] = {}
    durable: bool = False
    keeps_unwanted: bool = False
    carries_metadata: bool = True
    pattern: tuple[str, str, str] = ("orders*", "orders-eu", "orders")
    names_pattern: bool = True  # what a pattern matched is delivered under the pattern's name
    redelivers: bool = False
    wildcards: bool = False
    atomic_bulk: bool = False


DRIVERS = (
    Driver(
        "pubsub.sqlite",
        {"order": "strict"},
        {"redeliverInterval": "1ms"},
        durable=True,
        keeps_unwanted=True,
        redelivers=True,
        atomic_bulk=True,
    ),
    Driver("pubsub.in-memory", {}, wildcards=True),
    Driver(
        "pubsub.mqtt3",
        {"order": "strict"},
        {"redeliverInterval": "1ms"},
        durable=True,
        carries_metadata=False,
        redelivers=True,
        wildcards=True,
        pattern=("orders/+", "orders/eu", "orders/eu/north"),
        names_pattern=False,
    ),
)


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.type)
def driver(request: pytest.FixtureRequest) -> Driver:
    return request.param


@pytest.fixture
def metadata(driver: Driver, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the component says; where the driver needs a broker elsewhere, that broker runs."""
    if driver.type != "pubsub.mqtt3":
        yield driver.metadata
        return
    with Mosquitto(tmp_path / "mosquitto") as mosquitto:
        yield {**driver.metadata, "url": mosquitto.url}


@pytest.fixture
async def broker(driver: Driver, metadata: dict[str, str], tmp_path: Path) -> AsyncIterator[Any]:
    async with open_broker(tmp_path, driver.type, **metadata) as opened:
        yield opened


def reopen(driver: Driver, metadata: dict[str, str], tmp_path: Path) -> AbstractAsyncContextManager[Any]:
    return open_broker(tmp_path, driver.type, **metadata)


def numbered(count: int) -> list[bytes]:
    return [b"message %d" % number for number in range(count)]


async def test_subscribers_get_what_is_published(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
    for data in numbered(30):
        await broker.publish("orders", data, {"key": "value"})
    await inbox.wait_for(30)
    assert sorted(inbox.data) == sorted(numbered(30))
    assert {message.topic for message in inbox.messages} == {"orders"}
    first = next(message for message in inbox.messages if message.data == b"message 0")
    assert first._replace(metadata={}) == Message("orders", b"message 0")
    assert first.metadata.get("key") == ("value" if driver.carries_metadata else None)


async def test_order_is_kept_when_asked(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    await nursery.start(broker.subscribe, "orders", "app", driver.ordered, inbox)
    for data in numbered(50):
        await broker.publish("orders", data, {})
    await inbox.wait_for(50)
    assert inbox.data == numbered(50)
    assert inbox.busy_most == 1


async def test_the_next_waits_for_the_last(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    await nursery.start(broker.subscribe, "orders", "app", driver.ordered, inbox)
    await broker.publish("orders", b"1", {})
    await broker.publish("orders", b"2", {})
    await inbox.wait_for(1)
    await trio.testing.wait_all_tasks_blocked()
    assert inbox.data == [b"1"]
    inbox.gate.set()
    await inbox.wait_for(2)


async def test_each_group_gets_everything(broker: Any, nursery: trio.Nursery) -> None:
    inboxes = [Inbox(), Inbox()]
    for number, inbox in enumerate(inboxes):
        await nursery.start(broker.subscribe, "orders", f"app-{number}", {}, inbox)
    for data in numbered(10):
        await broker.publish("orders", data, {})
    for inbox in inboxes:
        await inbox.wait_for(10)
        assert sorted(inbox.data) == sorted(numbered(10))


async def test_members_of_a_group_share(broker: Any, nursery: trio.Nursery) -> None:
    inboxes = [Inbox(), Inbox()]
    for inbox in inboxes:
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
    for data in numbered(40):
        await broker.publish("orders", data, {})
    await until(lambda: sum(len(inbox.messages) for inbox in inboxes) >= 40)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(inboxes[0].data + inboxes[1].data) == sorted(numbered(40))


async def test_topics_are_apart(broker: Any, nursery: trio.Nursery) -> None:
    inboxes = {topic: Inbox() for topic in ("a", "b", "ab")}
    for topic, inbox in inboxes.items():
        await nursery.start(broker.subscribe, topic, "app", {}, inbox)
    for topic in inboxes:
        await broker.publish(topic, topic.encode(), {})
    for topic, inbox in inboxes.items():
        await inbox.wait_for(1)
        assert inbox.data == [topic.encode()]


async def test_cancelling_stops_one_subscription(broker: Any, nursery: trio.Nursery) -> None:
    stopped, other, again = Inbox(), Inbox(), Inbox()
    await nursery.start(broker.subscribe, "b", "app", {}, other)
    async with trio.open_nursery() as inner:
        await inner.start(broker.subscribe, "a", "app", {}, stopped)
        await broker.publish("a", b"1", {})
        await stopped.wait_for(1)
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    await broker.publish("b", b"2", {})
    await other.wait_for(1)
    await nursery.start(broker.subscribe, "a", "app", {}, again)
    await broker.publish("a", b"3", {})
    await again.wait_for(1)
    assert (stopped.data, other.data, again.data) == ([b"1"], [b"2"], [b"3"])


async def test_bulk_arrives_like_single(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    await nursery.start(broker.subscribe, "orders", "app", driver.ordered, inbox)
    entries = [BulkEntry(str(number), data, {"n": str(number)}) for number, data in enumerate(numbered(20))]
    assert await broker.bulk_publish("orders", entries, {"common": "yes"}) == [None] * 20
    await inbox.wait_for(20)
    assert inbox.data == numbered(20)
    if driver.carries_metadata:
        assert inbox.messages[3].metadata == {"common": "yes", "n": "3"}
    assert await broker.bulk_publish("orders", [], {}) == []


async def test_failing_bulk_says_so_everywhere(broker: Any) -> None:
    failures = await broker.bulk_publish("", [BulkEntry("1", b"x"), BulkEntry("2", b"y")], {})
    assert [type(failure) for failure in failures] == [type(failures[0])] * 2
    assert isinstance(failures[0], DriverError)


@pytest.mark.parametrize("data", [b"", b"\0\xff", b"x" * 100_000], ids=["empty", "binary", "long"])
async def test_bytes_arrive_as_sent(broker: Any, nursery: trio.Nursery, data: bytes) -> None:
    inbox = Inbox()
    await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
    await broker.publish("orders", data, {})
    await inbox.wait_for(1)
    assert inbox.data == [data]


async def test_handlers_may_publish(broker: Any, nursery: trio.Nursery) -> None:
    last = Inbox()

    async def forward(message: Message) -> Outcome:
        await broker.publish("out", message.data, {})
        return Outcome.ACK

    await nursery.start(broker.subscribe, "out", "app", {}, last)
    await nursery.start(broker.subscribe, "in", "app", {}, forward)
    for data in numbered(5):
        await broker.publish("in", data, {})
    await last.wait_for(5)


async def test_a_refused_message_comes_again_or_not(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    inbox = Inbox([Outcome.NACK])
    await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
    await broker.publish("orders", b"1", {})
    await inbox.wait_for(1)
    await broker.publish("orders", b"2", {})
    await inbox.wait_for(3 if driver.redelivers else 2)
    assert sorted(inbox.data) == ([b"1", b"1", b"2"] if driver.redelivers else [b"1", b"2"])
    attempts = [message.attempt for message in inbox.messages if message.data == b"1"]
    assert attempts == ([1, 2] if driver.redelivers else [1])


async def test_published_before_subscribed(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    await broker.publish("orders", b"early", {})
    await nursery.start(broker.subscribe, "orders", "app", driver.ordered, inbox)
    await broker.publish("orders", b"late", {})
    await inbox.wait_for_all([b"late"])
    assert inbox.data == ([b"early", b"late"] if driver.keeps_unwanted else [b"late"])


async def test_published_while_away(driver: Driver, metadata: dict[str, str], tmp_path: Path) -> None:
    async with reopen(driver, metadata, tmp_path) as broker, trio.open_nursery() as nursery:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.publish("orders", b"1", {})
        await inbox.wait_for(1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with reopen(driver, metadata, tmp_path) as broker:
        await broker.publish("orders", b"2", {})
    async with reopen(driver, metadata, tmp_path) as broker, trio.open_nursery() as nursery:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", driver.ordered, inbox)
        await broker.publish("orders", b"3", {})
        await inbox.wait_for_all([b"3"])
        assert inbox.data == ([b"2", b"3"] if driver.durable else [b"3"])
        nursery.cancel_scope.cancel()


async def test_wildcards_when_declared(driver: Driver, broker: Any, nursery: trio.Nursery) -> None:
    pattern, matching, other = driver.pattern
    inbox, last = Inbox(), Inbox()
    await nursery.start(broker.subscribe, pattern, "app", driver.ordered, inbox)
    await nursery.start(broker.subscribe, "last", "app", driver.ordered, last)
    for topic in (other, matching, "last"):
        await broker.publish(topic, topic.encode(), {})
    await last.wait_for(1)
    if driver.wildcards:
        await inbox.wait_for(1)
        assert inbox.messages[0].topic == (pattern if driver.names_pattern else matching)
    assert inbox.data == ([matching.encode()] if driver.wildcards else [])


async def test_features_tell_the_truth(driver: Driver, broker: Any) -> None:
    assert ("SUBSCRIBE_WILDCARDS" in broker.features) == driver.wildcards
    assert ("BULK_PUBSUB" in broker.features) == driver.atomic_bulk
    assert "MESSAGE_TTL" not in broker.features
