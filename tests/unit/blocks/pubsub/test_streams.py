"""Streaming subscriptions: order, replies, leaving, stopping, limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.blocks.pubsub.app import Batch, DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.streams import (
    ClientStream,
    End,
    NotSubscribed,
    Outcome,
    StreamLimits,
    Streams,
    StreamsFull,
    StreamsStopped,
)
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import Outcome as BrokerOutcome
from edge_runtime.observability.metrics import Metrics
from tests.unit.blocks.pubsub.fakes import NOW, Counting, FakeBroker, FakePolicies, Retry, binding_of, publisher_of

ACK, NACK = BrokerOutcome.ACK, BrokerOutcome.NACK


class FakeClient:
    """The other end of a stream. Reads at once unless `reading` is replaced."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reading = trio.Event()
        self.reading.set()
        self.too_large = ""
        self.lost = False
        self._put, self._replies = trio.open_memory_channel[Outcome](100)

    async def opened(self) -> None:
        self.said.append("opened")

    def prepare(self, event: Event, path: str) -> tuple[str, str]:
        document = json.loads(event.data)
        if "bad" in document:
            raise DeliveryFailed("no message")
        event_id = document.get("id", "")
        return event_id, f"{event_id}{path}"

    async def send(self, message: str) -> None:
        if message == self.too_large:
            raise DeliveryFailed("too large", code=8)
        if self.lost:
            raise DriverError("lost")
        await self.reading.wait()
        self.said.append(message)

    async def receive(self) -> Outcome | None:
        try:
            return self._replies.receive_nowait()
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            return None
        try:
            return await self._replies.receive()
        except trio.EndOfChannel:
            return None

    def reply(self, event_id: str, verdict: Verdict | DeliveryFailed = Verdict.SUCCESS) -> None:
        self._put.send_nowait(Outcome(event_id, verdict))

    def half_close(self) -> None:
        self._put.close()

    @property
    def events(self) -> list[str]:
        return [message.removesuffix("/") for message in self.said if message != "opened"]


class Setting:
    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        limits: StreamLimits = StreamLimits(),  # noqa: B008
        component: dict[str, str] | None = None,
        policies: FakePolicies | None = None,
        broker: Any = None,
    ) -> None:
        self.nursery = nursery
        self.broker: Any = broker or FakeBroker()
        binding = binding_of(self.broker, component)
        self.metrics = Metrics("app")
        publisher = publisher_of(binding)
        self.streams = Streams(
            "app",
            "ns",
            policies or FakePolicies(),
            publisher,
            self.metrics,
            limits,
            new_id=Counting(),
            now=lambda: NOW,
        )
        self.outcomes: dict[str, Any] = {}
        self.running = trio.CancelScope()

    async def open(self, client: FakeClient, topic: str = "t", **more: Any) -> Stream:
        stream = Stream(self, client, topic, more)
        self.nursery.start_soon(stream.run)
        await wait_all_tasks_blocked()
        return stream

    async def push(self, *events: dict[str, Any], topic: str = "t") -> None:
        """Start a delivery for each event; what becomes of it is found in `outcomes` by its name."""
        for event in events:
            self.nursery.start_soon(self._push, event, topic)
            await wait_all_tasks_blocked()

    async def _push(self, event: dict[str, Any], topic: str) -> None:
        name = event.pop("name", event.get("id", ""))
        self.outcomes[name] = await self.broker.push(topic, json.dumps(event).encode())

    async def run(self) -> None:
        with self.running:
            await self.streams.run()

    async def stop(self) -> None:
        """Begin to stop deliveries."""
        self.nursery.start_soon(self.run)
        await wait_all_tasks_blocked()
        self.running.cancel()
        await wait_all_tasks_blocked()


class Stream:
    def __init__(self, setting: Setting, client: FakeClient, topic: str, more: dict[str, Any]) -> None:
        self._setting = setting
        self._client = client
        self._topic = topic
        self._metadata: dict[str, str] = more.get("metadata", {})
        self._dead: str = more.get("dead", "")
        self.scope = trio.CancelScope()
        self.end: End | Exception | None = None

    async def run(self) -> None:
        with self.scope:
            try:
                self.end = await self._setting.streams.serve(
                    "pubsub", self._topic, self._metadata, self._dead, self._client
                )
            except (DriverError, EdgeError) as error:
                self.end = error


@asynccontextmanager
async def setting(**more: Any) -> AsyncIterator[tuple[Setting, FakeClient]]:
    async with trio.open_nursery() as nursery:
        yield Setting(nursery, **more), FakeClient()
        nursery.cancel_scope.cancel()


# --- events and replies -----------------------------------------------------------------------------------------------


async def test_the_stream_opens_before_its_events() -> None:
    async with setting() as (node, client):
        await node.open(client, metadata={"k": "v"})
        assert node.broker.groups["t"] == ("app", {"concurrency": "64", "k": "v"})
        await node.push({"id": "1"})
        assert client.said == ["opened", "1/"]
        client.reply("1")
        await wait_all_tasks_blocked()
        assert node.outcomes == {"1": ACK}


async def test_replies_come_in_any_order() -> None:
    async with setting() as (node, client):
        await node.open(client)
        await node.push({"id": "1"}, {"id": "2"}, {"id": "3"})
        for event_id in ("3", "nobody's", "1", "1", "2"):
            client.reply(event_id)
            await wait_all_tasks_blocked()
        assert list(node.outcomes) == ["3", "1", "2"]


@pytest.mark.parametrize("dead", ["", "dead"])
async def test_what_a_reply_means(dead: str) -> None:
    async with setting() as (node, client):
        await node.open(client, dead=dead)
        await node.push({"id": "retry"}, {"id": "drop"}, {"id": "bad", "bad": True})
        client.reply("retry", DeliveryFailed("RETRY"))
        client.reply("drop", Verdict.DROP)
        await wait_all_tasks_blocked()
        refused = ACK if dead else NACK
        assert node.outcomes == {"retry": refused, "drop": ACK, "bad": refused}
        assert len(node.broker.published) == (3 if dead else 0)


async def test_a_failed_event_is_tried_again(autojump_clock: object) -> None:
    async with setting(policies=FakePolicies(inbound=Retry(2))) as (node, client):
        await node.open(client)
        await node.push({"id": "1"})
        client.reply("1", DeliveryFailed("RETRY"))
        await trio.sleep(2)
        assert client.events == ["1", "1"]
        client.reply("1")
        await wait_all_tasks_blocked()
        assert node.outcomes == {"1": ACK}


async def test_events_of_one_id_go_one_after_the_other() -> None:
    async with setting() as (node, client):
        await node.open(client)
        await node.push(*({"id": "1", "name": name} for name in "abc"), {"id": "2"}, {"name": "none"})
        assert client.events == ["1", "2", ""]
        client.reply("1", DeliveryFailed("RETRY"))
        await wait_all_tasks_blocked()
        assert client.events == ["1", "2", "", "1"]
        client.reply("1")
        client.reply("")
        await wait_all_tasks_blocked()
        assert client.events == ["1", "2", "", "1", "1"]
        assert node.outcomes == {"a": NACK, "b": ACK, "none": ACK}


async def test_a_held_event_can_be_given_up() -> None:
    async with setting() as (node, client):
        await node.open(client)
        await node.push({"id": "1", "name": "a"})
        with trio.move_on_after(0) as given_up:
            await node.broker.push("t", b'{"id":"1"}')
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.broker.push, "t", b'{"id":"1"}')
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        client.reply("1")
        await wait_all_tasks_blocked()
        assert given_up.cancelled_caught
        assert client.events == ["1"]
        assert node.outcomes == {"a": ACK}


async def test_an_attempt_that_is_given_up_makes_room() -> None:
    async with setting() as (node, client):
        await node.open(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.broker.push, "t", b'{"id":"1"}')
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await node.push({"id": "1"})
        client.reply("1")
        await wait_all_tasks_blocked()
        assert client.events == ["1", "1"]
        assert node.outcomes == {"1": ACK}


async def test_a_message_that_is_too_large_fails_alone() -> None:
    async with setting() as (node, client):
        client.too_large = "1/"
        await node.open(client)
        await node.push({"id": "1"}, {"id": "2"})
        assert node.outcomes == {"1": NACK}
        assert client.events == ["2"]


async def test_raw_payloads_are_wrapped() -> None:
    async with setting() as (node, client):
        await node.open(client, metadata={"rawPayload": "true"})
        await node.push({"anything": 1})
        assert client.events == ["id-1"]


async def test_a_stream_takes_no_batches() -> None:
    with pytest.raises(DeliveryFailed):
        await ClientStream(FakeClient(), 1).deliver_bulk(Batch("b", "p", "t", []), "/")


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_so_many_events_are_in_flight() -> None:
    async with setting(limits=StreamLimits(in_flight_max=2)) as (node, client):
        await node.open(client)
        assert node.broker.groups["t"][1] == {"concurrency": "2"}
        await node.push({"id": "1"}, {"id": "2"}, {"id": "3"})
        assert client.events == ["1", "2"]
        client.reply("2")
        await wait_all_tasks_blocked()
        assert client.events == ["1", "2", "3"]


async def test_who_does_not_read_holds_events_up() -> None:
    async with setting() as (node, client):
        await node.open(client)
        client.reading = trio.Event()
        await node.push({"id": "1"}, {"id": "2"})
        assert client.events == []
        client.reading.set()
        await wait_all_tasks_blocked()
        assert client.events == ["1", "2"]


async def test_an_attempt_given_up_while_it_is_sent_leaves_the_stream_whole() -> None:
    async with setting() as (node, client):
        await node.open(client)
        client.reading = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.broker.push, "t", b'{"id":"1"}')
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await node.push({"id": "2"})
        client.reading.set()
        await wait_all_tasks_blocked()
        assert client.events == ["1", "2"]


async def test_an_app_has_so_many_streams() -> None:
    async with setting(limits=StreamLimits(streams_max=1)) as (node, client):
        first = await node.open(client)
        assert isinstance((await node.open(FakeClient(), "other")).end, StreamsFull)
        client.half_close()
        await wait_all_tasks_blocked()
        assert first.end is End.CLIENT
        assert (await node.open(FakeClient(), "other")).end is None


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_component_is_an_error() -> None:
    async with setting() as (node, client):
        with pytest.raises(EdgeError) as raised:
            await node.streams.serve("other", "t", {}, "", client)
        assert raised.value.kind is Kind.PUBSUB_NOT_FOUND


async def test_scopes_refuse_a_stream() -> None:
    async with setting(component={"allowedTopics": "a"}) as (node, client):
        stream = await node.open(client)
        assert isinstance(stream.end, NotSubscribed)
        assert str(stream.end) == "subscription to topic 't' on pubsub 'pubsub' is not allowed"
        assert client.said == []


async def test_a_broker_that_refuses_ends_the_stream() -> None:
    async with setting() as (node, client):
        node.broker.subscribe_errors = [DriverError("away")]
        stream = await node.open(client)
        assert isinstance(stream.end, NotSubscribed)
        assert str(stream.end) == "away"
        assert client.said == []
        assert node.streams.active() == []


class _Interrupted(FakeBroker):
    """Loses its first subscription when `broken` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = trio.Event()

    async def subscribe(self, *arguments: Any, **more: Any) -> None:
        if self.subscribe_count:
            await super().subscribe(*arguments, **more)
        self.subscribe_count += 1
        more["task_status"].started()
        await self.broken.wait()
        raise DriverError("gone")


async def test_a_broker_that_comes_back_goes_on(autojump_clock: object) -> None:
    async with setting(broker=_Interrupted()) as (node, client):
        stream = await node.open(client)
        assert client.said == ["opened"]
        node.broker.broken.set()
        await trio.sleep(1)
        await node.push({"id": "1"})
        assert client.said == ["opened", "1/"]
        assert stream.end is None
        client.half_close()
        await wait_all_tasks_blocked()
        assert stream.end is End.CLIENT


async def test_metadata_show_open_streams() -> None:
    async with setting() as (node, client):
        await node.open(client, dead="dead")
        assert node.streams.active() == [
            {
                "pubsubname": "pubsub",
                "topic": "t",
                "rules": [{"path": "/"}],
                "deadLetterTopic": "dead",
                "type": "STREAMING",
            }
        ]


# --- the client leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["half-close", "cancel"])
async def test_unanswered_events_go_back_to_the_broker(how: str) -> None:
    async with setting() as (node, client):
        stream = await node.open(client, dead="dead")
        await node.push({"id": "1"}, {"id": "2"})
        client.reply("2")
        if how == "cancel":
            stream.scope.cancel()  # together with a reply, which still counts
        else:
            client.half_close()
        await wait_all_tasks_blocked()
        assert node.outcomes == {"2": ACK}  # the other is neither acknowledged nor refused
        assert node.broker.cancelled == ["t"]
        assert node.broker.published == []
        assert stream.end is (None if how == "cancel" else End.CLIENT)
        assert node.streams.active() == []


async def test_a_policy_does_not_outlast_the_stream(autojump_clock: object) -> None:
    async with setting(policies=FakePolicies(inbound=Retry(100))) as (node, client):
        await node.open(client)
        await node.push({"id": "1"})
        client.reply("1", DeliveryFailed("RETRY"))
        await wait_all_tasks_blocked()
        client.half_close()
        await trio.sleep(0.1)  # the next attempt would be in a second
        assert node.broker.cancelled == ["t"]


async def test_what_was_answered_is_finished() -> None:
    async with setting() as (node, client):
        stream = await node.open(client, dead="dead")
        await node.push({"id": "1"})
        client.reply("1", Verdict.DROP)
        await trio.lowlevel.checkpoint()
        stream.scope.cancel()
        await wait_all_tasks_blocked()
        assert [topic for topic, _, _ in node.broker.published] == ["dead"]
        assert node.outcomes == {"1": ACK}


async def test_a_lost_stream_ends_with_its_reader() -> None:
    async with setting() as (node, client):
        client.lost = True
        stream = await node.open(client)
        await node.push({"id": "1"})
        client.half_close()
        await wait_all_tasks_blocked()
        assert stream.end is End.CLIENT
        assert node.outcomes == {}


# --- deliveries are stopped -------------------------------------------------------------------------------------------


async def test_a_stop_waits_for_replies_in_flight() -> None:
    async with setting() as (node, client):
        stream = await node.open(client)
        client.reading = trio.Event()
        await node.push({"id": "1"}, {"id": "2"})  # the second is not sent yet
        await node.stop()
        assert not node.running.cancelled_caught
        client.reading.set()
        client.reply("1")
        await wait_all_tasks_blocked()
        assert node.running.cancelled_caught
        assert node.outcomes == {"1": ACK}
        assert client.events == ["1"]
        assert node.broker.cancelled == ["t"]
        assert stream.end is None  # held open until everything is over
        node.streams.release()
        await wait_all_tasks_blocked()
        assert stream.end is End.STOPPED


async def test_a_failure_during_a_stop_goes_back_to_the_broker() -> None:
    async with setting() as (node, client):
        await node.open(client, dead="dead")
        await node.push({"id": "1"})
        await node.stop()
        client.reply("1", DeliveryFailed("RETRY"))
        await wait_all_tasks_blocked()
        assert node.running.cancelled_caught
        assert node.outcomes == {}
        assert node.broker.published == []


async def test_nothing_is_tried_again_during_a_stop(autojump_clock: object) -> None:
    async with setting(policies=FakePolicies(inbound=Retry(2))) as (node, client):
        await node.open(client)
        await node.push({"id": "1"}, {"id": "2"})
        client.reply("1", DeliveryFailed("RETRY"))
        await wait_all_tasks_blocked()
        await node.stop()
        await trio.sleep(2)
        assert client.events == ["1", "2"]
        client.reply("2")
        await wait_all_tasks_blocked()
        assert node.running.cancelled_caught
        assert node.outcomes == {"2": ACK}


async def test_a_stop_is_bounded(autojump_clock: object) -> None:
    async with setting(limits=StreamLimits(drain_s=3)) as (node, client):
        await node.open(client)
        await node.push({"id": "1"})
        await node.stop()
        await trio.sleep(2.9)
        assert not node.running.cancelled_caught
        await trio.sleep(0.2)
        assert node.running.cancelled_caught
        assert node.outcomes == {}


async def test_a_client_may_leave_during_a_stop() -> None:
    async with setting() as (node, client):
        stream = await node.open(client)
        await node.push({"id": "1"})
        await node.stop()
        client.half_close()
        await wait_all_tasks_blocked()
        assert node.running.cancelled_caught
        assert stream.end is End.CLIENT


async def test_a_stop_without_streams_is_at_once() -> None:
    async with setting() as (node, _):
        await node.stop()
        assert node.running.cancelled_caught


async def test_who_comes_after_a_stop_waits_for_what_follows() -> None:
    async with setting() as (node, client):
        await node.stop()
        stream = await node.open(client)
        assert stream.end is None
        node.streams.release()
        await wait_all_tasks_blocked()
        assert isinstance(stream.end, StreamsStopped)
