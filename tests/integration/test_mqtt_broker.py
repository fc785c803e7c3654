"""pubsub.mqtt3 against a real mosquitto: sessions, losses, limits, TLS."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.components.mqtt import deliveries
from edge_runtime.model.errors import BadMetadata, DriverError
from edge_runtime.model.ports import BulkEntry, Message, Outcome
from edge_runtime.store.database import Databases, open_databases
from tests.brokers import Inbox, Mosquitto, open_broker, until
from tests.support.cable import open_cable
from tests.support.sidecar import Program, free_port

pytestmark = pytest.mark.slow

Open = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
async def databases() -> AsyncIterator[Databases]:
    async with open_databases() as opened:
        yield opened


@pytest.fixture
def component(tmp_path: Path, mosquitto: Mosquitto) -> Open:
    def opened(**metadata: str) -> AbstractAsyncContextManager[Any]:
        return open_broker(tmp_path, "pubsub.mqtt3", **{"url": mosquitto.url, **metadata})

    return opened


@asynccontextmanager
async def subscribed(broker: Any, topic: str, inbox: Any, **metadata: str) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.subscribe, topic, "app", metadata, inbox)
        yield
        nursery.cancel_scope.cancel()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# --- qualities of service, retained, topics ---------------------------------------------------------------------------


@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_each_quality_arrives(component: Open, mosquitto: Mosquitto, qos: str) -> None:
    inbox = Inbox()
    async with component(qos=qos) as broker, subscribed(broker, "a/b", inbox):
        for data in numbered(50):
            await broker.publish("a/b", data, {})
        await inbox.wait_for(50)
        kinds = {"0": "Sending PUBLISH to app", "1": "Received PUBACK from app", "2": "Received PUBREC from app"}
        await mosquitto.said(kinds[qos], 50)
    assert sorted(inbox.data) == sorted(numbered(50))


async def test_retained_come_to_new_subscribers(component: Open) -> None:
    first, second = Inbox(), Inbox()
    async with component(cleanSession="true") as broker:
        await broker.publish("state", b"on", {"Retain": "true"})
        async with subscribed(broker, "state", first):
            await first.wait_for(1)
            await broker.publish("state", b"off", {"retain": "false"})
            await first.wait_for(2)
        async with subscribed(broker, "#", second):
            await second.wait_for_all([b"on"])
        with pytest.raises(BadMetadata, match="'retain' is 'perhaps'; expected true or false"):
            await broker.publish("state", b"x", {"retain": "perhaps"})
    assert [(message.data, message.metadata) for message in first.messages] == [
        (b"on", {"retained": "true"}),
        (b"off", {"retained": "false"}),
    ]
    # What the first had not answered when it ended may have come here too.
    assert Message("state", b"on", {"retained": "true"}) in second.messages


async def test_one_retains_by_setting(component: Open) -> None:
    inbox = Inbox()
    async with component(retain="true") as broker:
        await broker.publish("state", b"on", {})
        async with subscribed(broker, "state", inbox):
            await inbox.wait_for(1)


async def test_the_exact_topic_goes_first(component: Open) -> None:
    inboxes = {topic: Inbox() for topic in ("#", "a/#", "a/+", "a/b")}
    async with component() as broker, trio.open_nursery() as nursery:
        for topic, inbox in inboxes.items():
            await nursery.start(broker.subscribe, topic, "app", {}, inbox)
        for topic in ("a/b", "a/c", "a/c/d", "b"):
            await broker.publish(topic, topic.encode(), {})
        for inbox in inboxes.values():
            await inbox.wait_for(1)
        nursery.cancel_scope.cancel()
    assert {topic: set(inbox.data) for topic, inbox in inboxes.items()} == {
        "#": {b"b"},
        "a/#": {b"a/c/d"},
        "a/+": {b"a/c"},
        "a/b": {b"a/b"},
    }


async def test_shared_subscriptions_share(component: Open) -> None:
    inboxes = [Inbox(), Inbox()]
    async with component(consumerID="one") as one, component(consumerID="two") as two, trio.open_nursery() as nursery:
        await nursery.start(one.subscribe, "$share/workers/jobs/+", "one", {}, inboxes[0])
        await nursery.start(two.subscribe, "$share/workers/jobs/+", "two", {}, inboxes[1])
        for data in numbered(40):
            await one.publish("jobs/new", data, {})
        await until(lambda: sum(len(inbox.messages) for inbox in inboxes) >= 40)
        nursery.cancel_scope.cancel()
    assert sorted(inboxes[0].data + inboxes[1].data) == sorted(numbered(40))
    assert all(inbox.messages for inbox in inboxes)


@pytest.mark.parametrize("topic", ["", "a+", "a/#/b", "$share/group", "$share//a", "x\0"])
async def test_impossible_filters_are_told(component: Open, topic: str) -> None:
    async with component() as broker:
        with pytest.raises(BadMetadata, match="expected a topic filter such as"):
            await broker.subscribe(topic, "app", {}, Inbox())


async def test_bulk_keeps_its_order(component: Open) -> None:
    inbox = Inbox()
    async with component() as broker, subscribed(broker, "bulk", inbox, order="strict"):
        entries = [BulkEntry(str(number), data) for number, data in enumerate(numbered(500))]
        assert set(await broker.bulk_publish("bulk", entries, {})) == {None}
        await inbox.wait_for(500)
    assert inbox.data == numbered(500)


# --- sessions and losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", ["1", "2"])
async def test_a_killed_process_loses_nothing(component: Open, mosquitto: Mosquitto, tmp_path: Path, qos: str) -> None:
    """It has taken one message, is at work on the next, and more come while it is dead."""
    child = [sys.executable, "-u", "-m", "tests.support.mqtt_child", mosquitto.url, qos, str(tmp_path / "child")]
    async with component(consumerID="publisher", qos=qos) as publisher:
        with Program(child) as process:
            await trio.to_thread.run_sync(process.wait_line, "ready")
            await publisher.publish("work", b"done", {})
            await trio.to_thread.run_sync(process.wait_line, "took done")
            await mosquitto.said("Received PUBACK from app" if qos == "1" else "Received PUBREC from app")
            await publisher.publish("work", b"begun", {})
            await trio.to_thread.run_sync(process.wait_line, "took begun")
            process.kill()
        await publisher.publish("work", b"while dead", {})
        inbox = Inbox()
        async with component(qos=qos) as broker, subscribed(broker, "work", inbox):
            await inbox.wait_for(2)
            await publisher.publish("work", b"last", {})
            await inbox.wait_for_all([b"last"])
    assert sorted(inbox.data) == [b"begun", b"last", b"while dead"]


@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_a_restarted_broker_is_found_again(component: Open, mosquitto: Mosquitto, qos: str) -> None:
    inbox = Inbox()
    async with component(qos=qos) as broker, subscribed(broker, "a", inbox):
        await broker.publish("a", b"1", {})
        await inbox.wait_for(1)
        mosquitto.stop()
        await until(lambda: not broker.inbox.link.connected)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.publish, "a", b"2", {})  # waits for the broker
            await trio.testing.wait_all_tasks_blocked()
            mosquitto.start()
        await broker.publish("a", b"3", {})
        await inbox.wait_for_all([b"1", b"3"])


async def test_publishes_survive_a_killed_broker(tmp_path: Path) -> None:
    inbox = Inbox()
    mosquitto = Mosquitto(tmp_path / "broker", "autosave_interval 1", "autosave_on_changes true")
    opened = open_broker(tmp_path, "pubsub.mqtt3", url=mosquitto.url)
    with mosquitto:
        async with opened as broker, subscribed(broker, "a", inbox):
            await _kill_while_publishing(broker, mosquitto, inbox)


async def _kill_while_publishing(broker: Any, mosquitto: Mosquitto, inbox: Inbox) -> None:
    async with trio.open_nursery() as nursery:
        for data in numbered(500):
            nursery.start_soon(broker.publish, "a", data, {})
        await inbox.wait_for(20)
        mosquitto.kill()
        mosquitto.start()
    await broker.publish("a", b"last", {})
    await inbox.wait_for_all([b"last"])
    missing = set(numbered(500)) - set(inbox.data)
    # What the broker acknowledged a moment before it was killed, it may not have written down.
    assert len(missing) < 200


@pytest.mark.parametrize("qos", ["1", "2"])
async def test_what_is_in_hand_is_not_repeated(tmp_path: Path, mosquitto: Mosquitto, qos: str) -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with open_cable(mosquitto.port) as cable:
        url = f"mqtt://127.0.0.1:{cable.port}"
        async with open_broker(tmp_path, "pubsub.mqtt3", url=url, qos=qos) as broker, subscribed(broker, "a", inbox):
            for data in numbered(5):
                await broker.publish("a", data, {})
            await inbox.wait_for(5)
            await cable.drop()
            await until(lambda: cable.connections == 2 and broker.inbox.link.counts.repeated == 5)
            inbox.gate.set()
            await broker.publish("a", b"last", {})
            await inbox.wait_for_all([b"last"])
            await mosquitto.said("Received PUBACK from app" if qos == "1" else "Received PUBCOMP from app", 6)
    assert sorted(inbox.data) == sorted([*numbered(5), b"last"])


@pytest.mark.parametrize("qos", ["1", "2"])
async def test_what_was_done_meanwhile_is_acknowledged_later(tmp_path: Path, mosquitto: Mosquitto, qos: str) -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with open_cable(mosquitto.port) as cable:
        url = f"mqtt://127.0.0.1:{cable.port}"
        async with open_broker(tmp_path, "pubsub.mqtt3", url=url, qos=qos) as broker, subscribed(broker, "a", inbox):
            await broker.publish("a", b"1", {})
            await inbox.wait_for(1)
            cable.cut()
            await cable.drop()
            await until(lambda: not broker.inbox.link.connected)
            inbox.gate.set()
            await until(lambda: not inbox.busy)
            cable.mend()
            await mosquitto.said("Received PUBACK from app" if qos == "1" else "Received PUBCOMP from app")
            await broker.publish("a", b"2", {})
            await inbox.wait_for_all([b"2"])
    assert inbox.data == [b"1", b"2"]


async def test_a_silent_loss_is_noticed(tmp_path: Path, mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    async with open_cable(mosquitto.port) as cable:
        url = f"mqtt://127.0.0.1:{cable.port}"
        opened = open_broker(tmp_path, "pubsub.mqtt3", url=url, keepAlive="1s", pingTimeout="200ms")
        async with opened as broker, subscribed(broker, "a", inbox):
            cable.cut()
            await until(lambda: not broker.inbox.link.connected)
            assert "no answer to a ping" in broker.inbox.link.reason
            cable.mend()
            await broker.publish("a", b"1", {})
            await inbox.wait_for(1)


async def test_messages_wait_for_a_paused_app(component: Open) -> None:
    """The subscriptions end and begin again while the process and its connection live on."""
    before, after = Inbox(), Inbox()
    async with component() as broker:
        before.gate = trio.Event()
        async with subscribed(broker, "a", before):
            await broker.publish("a", b"1", {})
            await before.wait_for(1)
        await broker.publish("a", b"2", {})
        async with subscribed(broker, "a", after, order="strict"):
            await after.wait_for(2)
    assert after.data == [b"1", b"2"]


async def test_leftovers_are_let_go(component: Open, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(deliveries, "UNWANTED_AFTER_S", 0.01)
    inbox = Inbox()
    async with component() as broker:
        async with subscribed(broker, "old", Inbox()):
            pass
        async with subscribed(broker, "new", inbox):
            await broker.publish("old", b"1", {})
            await until(lambda: broker.inbox.lost == 1)
            await broker.publish("old", b"2", {})
            await broker.publish("new", b"3", {})
            await inbox.wait_for(1)
    assert "keeps sending topic old for an earlier subscription of client 'app'" in caplog.text
    assert broker.inbox.lost == 1


async def test_unsubscribed_on_close(component: Open, mosquitto: Mosquitto) -> None:
    async with component() as broker, subscribed(broker, "a", Inbox(), unsubscribeOnClose="true"):
        pass
    assert any("Received UNSUBSCRIBE from app" in line for line in mosquitto.process.lines)


async def test_given_up_after_redeliveries(component: Open, mosquitto: Mosquitto, caplog: Any) -> None:
    inbox = Inbox(decide=lambda message: Outcome.NACK if message.data == b"bad" else Outcome.ACK)
    async with component(maxRedeliveries="2", redeliverInterval="1ms") as broker, subscribed(broker, "a", inbox):
        await broker.publish("a", b"bad", {})
        await mosquitto.said("Received PUBACK from app")
    assert [message.attempt for message in inbox.messages] == [1, 2, 3]
    assert "was refused by the app 3 times and is lost" in caplog.text


async def test_refused_hold_up_the_rest_when_strict(component: Open) -> None:
    inbox = Inbox([Outcome.NACK, Outcome.NACK])
    async with component(redeliverInterval="1ms", order="strict") as broker, subscribed(broker, "a", inbox):
        for data in numbered(3):
            await broker.publish("a", data, {})
        await inbox.wait_for(5)
    assert inbox.data == [b"0", b"0", b"0", b"1", b"2"]


# --- the will ---------------------------------------------------------------------------------------------------------


async def test_the_will_follows_a_loss_only(tmp_path: Path, mosquitto: Mosquitto, component: Open) -> None:
    inbox = Inbox()
    will = {"willTopic": "gone", "willPayload": "with a bang", "willQos": "2", "willRetain": "true"}
    async with component(consumerID="watcher") as watcher, trio.open_nursery() as nursery:
        await nursery.start(watcher.subscribe, "gone", "watcher", {}, inbox)
        async with component(**{**will, "willPayload": "with a goodbye"}):
            pass
        async with open_cable(mosquitto.port) as cable:
            async with open_broker(tmp_path, "pubsub.mqtt3", url=f"mqtt://127.0.0.1:{cable.port}", **will):
                await cable.drop()
                await inbox.wait_for(1)
        nursery.cancel_scope.cancel()
    assert inbox.data == [b"with a bang"]


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_slow_consumer_keeps_order_and_memory(tmp_path: Path) -> None:
    """10,000 messages of QoS 0, which no window of the broker holds back: reading stops instead."""
    most = 0

    async def handle(message: Message) -> Outcome:
        nonlocal most
        most = max(most, broker.inbox.link.held)
        got.append(message.data)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        if len(got) == 10_000:
            done.set()
        return Outcome.ACK

    got: list[bytes] = []
    done = trio.Event()
    with Mosquitto(tmp_path / "broker", "max_queued_messages 0") as mosquitto:
        url = mosquitto.url
        sender = open_broker(tmp_path, "pubsub.mqtt3", url=url, consumerID="sender", qos="0")
        opened = open_broker(tmp_path, "pubsub.mqtt3", url=url, receiveMessagesMax="50", qos="0", order="strict")
        async with sender as publisher, opened as broker, subscribed(broker, "a", handle):
            for data in numbered(10_000):
                await publisher.publish("a", data, {})
            await done.wait()
    assert got == numbered(10_000)
    assert most <= 50


async def test_no_more_are_under_way_than_set(component: Open, mosquitto: Mosquitto) -> None:
    """Publishes on their way to the broker, and messages in the app's hands."""
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with component(publishInFlightMax="3", qos="2", concurrency="4") as broker, subscribed(broker, "a", inbox):
        engine, most = broker.inbox.link._engine, 0

        async def publish(data: bytes) -> None:
            nonlocal most
            await broker.publish("a", data, {})
            most = max(most, len(engine._out_messages))

        async with trio.open_nursery() as nursery:
            for data in numbered(30):
                nursery.start_soon(publish, data)
        assert 1 <= most <= 3
        await inbox.wait_for(4)
        await trio.testing.wait_all_tasks_blocked()
        assert len(inbox.messages) == 4
        inbox.gate.set()
        await inbox.wait_for(30)
    assert inbox.busy_most == 4
    assert sorted(inbox.data) == sorted(numbered(30))


async def test_bytes_in_hand_are_limited(tmp_path: Path, mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    sender = open_broker(tmp_path, "pubsub.mqtt3", url=mosquitto.url, consumerID="sender")
    opened = open_broker(tmp_path, "pubsub.mqtt3", url=mosquitto.url, receiveBytesMax="100Ki", keepAlive="1s")
    async with sender as publisher, opened as broker, subscribed(broker, "a", inbox):
        for _ in range(15):
            await publisher.publish("a", b"x" * 40_000, {})
        await mosquitto.said("Received PINGREQ from app", 2)
        assert broker.inbox.link.held == 3, "two of them fit, and reading stops with the third"
        inbox.gate.set()
        await inbox.wait_for(15)


async def test_pings_go_on_while_nothing_is_read(tmp_path: Path) -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    with Mosquitto(tmp_path / "broker", "max_queued_messages 0") as mosquitto:
        url = mosquitto.url
        sender = open_broker(tmp_path, "pubsub.mqtt3", url=url, consumerID="sender", qos="0")
        slow = {"receiveMessagesMax": "10", "keepAlive": "1s", "qos": "0", "concurrency": "1"}
        async with sender as publisher, open_broker(tmp_path, "pubsub.mqtt3", url=url, **slow) as broker:
            async with subscribed(broker, "a", inbox):
                for data in numbered(2000):
                    await publisher.publish("a", data, {})
                await mosquitto.said("Received PINGREQ from app", 3)
                assert broker.inbox.link.held == 10
                inbox.gate.set()
                await inbox.wait_for(2000)
                assert broker.inbox.link.counts.connected == 1
    assert inbox.data == numbered(2000)


async def test_handlers_publish_while_nothing_is_read(component: Open) -> None:
    """Their answers come behind the messages that are not read."""
    last = Inbox()

    async def forward(message: Message) -> Outcome:
        await broker.publish("out", message.data, {})
        return Outcome.ACK

    async with component(receiveMessagesMax="1") as broker, subscribed(broker, "out", last):
        async with subscribed(broker, "in", forward), component(consumerID="sender") as sender:
            entries = [BulkEntry(str(number), data) for number, data in enumerate(numbered(100))]
            await sender.bulk_publish("in", entries, {})
            await last.wait_for(100)
    assert sorted(last.data) == sorted(numbered(100))


async def test_a_too_large_message_is_let_go(component: Open, caplog: Any) -> None:
    inbox = Inbox()
    async with component(maxMessageBytes="1000") as broker, subscribed(broker, "a", inbox, order="strict"):
        for size in (1000, 1001, 500_000, 10):
            await broker.publish("a", b"x" * size, {})
        await inbox.wait_for(2)
    assert [len(data) for data in inbox.data] == [1000, 10]
    assert caplog.text.count("is dropped; the limit is the metadata maxMessageBytes (1000)") == 2


async def test_no_thread_is_pahos(component: Open) -> None:
    inbox = Inbox()
    async with component() as broker, subscribed(broker, "a", inbox):
        await broker.publish("a", b"1", {})
        await inbox.wait_for(1)
        assert not [thread.name for thread in threading.enumerate() if "paho" in thread.name]
        assert broker.inbox.link._engine._thread is None


async def test_idle_connections_sleep(component: Open, mosquitto: Mosquitto) -> None:
    class Wakes(trio.abc.Instrument):
        count = 0

        def after_io_wait(self, timeout: float) -> None:
            self.count += 1

    async with component(keepAlive="1s") as broker, subscribed(broker, "a", Inbox()):
        wait_line = mosquitto.process.wait_line
        await trio.to_thread.run_sync(wait_line, "Received PINGREQ")
        wakes = Wakes()
        trio.lowlevel.add_instrument(wakes)
        for _ in range(2):
            await trio.to_thread.run_sync(wait_line, "Received PINGREQ")
        trio.lowlevel.remove_instrument(wakes)
    assert wakes.count < 20


# --- who may connect --------------------------------------------------------------------------------------------------


async def test_an_absent_broker_is_waited_for(tmp_path: Path, caplog: Any) -> None:
    port = free_port()
    inbox = Inbox()
    async with open_broker(tmp_path, "pubsub.mqtt3", url=f"tcp://127.0.0.1:{port}", publishTimeout="100ms") as broker:
        with pytest.raises(DriverError, match=f"not connected to broker 127.0.0.1:{port}: .*refused"):
            await broker.publish("a", b"1", {})
        with Mosquitto(tmp_path / "broker", port=port):
            async with subscribed(broker, "a", inbox):
                await broker.publish("a", b"2", {})
                await inbox.wait_for(1)
    assert f"starts without its broker 127.0.0.1:{port}" in caplog.text
    assert inbox.data == [b"2"]


async def test_wrong_passwords_fail_the_start(tmp_path: Path, databases: Databases) -> None:
    passwords = tmp_path / "passwords"
    if (
        await trio.run_process(["mosquitto_passwd", "-b", "-c", str(passwords), "me", "a:b@c"], check=False)
    ).returncode:
        pytest.skip("mosquitto_passwd does not work here")
    lines = ("allow_anonymous false", f"password_file {passwords}")
    with Mosquitto(tmp_path / "broker", *lines) as mosquitto:
        for user in ("me:wrong@", ""):
            url = f"mqtt://{user}127.0.0.1:{mosquitto.port}"
            with pytest.raises(DriverError, match="the broker refuses the connection: not authorized"):
                async with open_broker(tmp_path, "pubsub.mqtt3", databases=databases, url=url):
                    pass
        url = f"mqtt://me:a%3Ab%40c@127.0.0.1:{mosquitto.port}"
        async with open_broker(tmp_path, "pubsub.mqtt3", url=url) as broker:
            await broker.publish("a", b"1", {})


async def test_evictions_are_explained(component: Open, caplog: Any) -> None:
    async with component(reconnectIntervalMax="500ms"), component(reconnectIntervalMax="500ms"):
        await until(lambda: "the two evict each other" in caplog.text)


async def test_two_components_of_one_id_are_told(tmp_path: Path, mosquitto: Mosquitto, caplog: Any) -> None:
    caplog.set_level(logging.ERROR)
    first = open_broker(tmp_path, "pubsub.mqtt3", component="one", url=mosquitto.url)
    async with first, open_broker(tmp_path, "pubsub.mqtt3", component="two", url=mosquitto.url):
        pass
    assert "pub/sub two and one use the same client id 'app'" in caplog.text
