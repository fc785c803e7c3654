"""What of an event crosses a link, up and down, and how links are shared by apps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
from google.protobuf.json_format import ParseDict

from edge_runtime.config.links import CloudLink, TopicDown, TopicUp
from edge_runtime.model.errors import BadMetadata, DriverError, Overloaded, StoreUnavailable
from edge_runtime.model.ports import Entry, EntryId, RouteSettings, Send
from edge_runtime.observability.metrics import Metrics
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_settings import Clocks, LinkMetrics, LinkSettings, LinkState
from edge_runtime.sync.links import Links
from edge_runtime.sync.outbox_route import Expired
from edge_runtime.sync.remote import RemoteSidecar
from edge_runtime.sync.topics_down import DROP, SUCCESS, TopicDownRoute, event_members
from edge_runtime.sync.topics_up import TopicUpRoute, route_settings
from edge_runtime.wire import cloudevents
from tests.brokers import until

TOPIC = TopicUp("pubsub", "orders", "kafka", "edge-orders", 7, 1000, 60.0, "drop-oldest", 9)
EVENT = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":1.10,"edgenode":"older"}'
MARKS = {"edgenode": "n", "edgeepoch": "1", "edgesequence": "2"}


class Published(NamedTuple):
    pubsub: str
    topic: str
    data: bytes
    content_type: str
    metadata: Mapping[str, str]


class FarPublish(RemoteSidecar):
    def __init__(self) -> None:
        self.published: list[Published] = []

    async def publish(
        self, pubsub: str, topic: str, data: bytes, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        self.published.append(Published(pubsub, topic, data, content_type, metadata))


class FakeRoute:
    def __init__(self) -> None:
        self.appended: list[tuple[str, Mapping[str, Any]]] = []
        self.states: list[str] = []

    backlog = False

    async def append(
        self, key: str, payload: Any, *, priority: int | None = None, size_bytes: int | None = None
    ) -> EntryId:
        if len(payload["data"]) > 500:
            raise Overloaded("the route is full")
        self.appended.append((key, payload))
        return EntryId("n", 1, len(self.appended))

    def up(self) -> None:
        self.states.append("up")

    def down(self, reason: str) -> None:
        self.states.append(reason)


def up_route(now: float = 100.0) -> tuple[TopicUpRoute, FakeRoute, FarPublish]:
    remote, route = FarPublish(), FakeRoute()
    up = TopicUpRoute(TOPIC, remote, lambda: now)
    up.route = route
    return up, route, remote


async def sent(data: bytes, metadata: Mapping[str, str] | None = None, *, waited_s: float = 0.0) -> Published:
    up, route, remote = up_route(1000.0 + waited_s)
    await up.take(data, metadata or {})
    ((key, payload),) = route.appended
    await up.send(Entry(EntryId("n", 1, 2), "r", key, payload, "", 1000.0, 0))
    return remote.published[0]


def test_a_route_has_the_limits_of_its_topic() -> None:
    assert route_settings("cloud", TOPIC) == RouteSettings(
        "link/cloud/pubsub/orders",
        1000,
        60.0,
        7,
        "drop-oldest",
        attempts_max=9,
        limit_name="limits.size of the CloudLink's route",
    )


async def test_an_event_gets_its_identity() -> None:
    published = await sent(EVENT)
    assert (published.pubsub, published.topic, published.content_type) == (
        "kafka",
        "edge-orders",
        "application/cloudevents+json",
    )
    assert json.loads(published.data) == {**json.loads(EVENT), **MARKS}
    assert b'"data":1.10' in published.data
    assert published.metadata == MARKS


@pytest.mark.parametrize("data", [b"\x00raw", b"[1]", b'{"no":"event"}'])
async def test_what_is_no_event_goes_raw(data: bytes) -> None:
    published = await sent(data)
    assert (published.data, published.content_type) == (data, "application/octet-stream")
    assert published.metadata == {"rawPayload": "true", **MARKS}


async def test_raw_stays_raw() -> None:
    published = await sent(EVENT, {"RawPayload": "true"})
    assert (published.data, published.metadata) == (EVENT, {"RawPayload": "true", **MARKS})
    assert (await sent(EVENT, {"rawPayload": "perhaps"})).content_type == "application/cloudevents+json"


async def test_metadata_go_along_without_what_is_done() -> None:
    published = await sent(EVENT, {"partitionKey": "k", "cloudevent.id": "x", "ttl": "no time"})
    assert published.metadata == {"partitionKey": "k", **MARKS}


async def test_time_to_live_goes_on_while_waiting() -> None:
    assert (await sent(EVENT, {"ttlInSeconds": "60"}, waited_s=20))[4]["ttlInSeconds"] == "40"
    assert (await sent(EVENT, {"ttl": "1m"}, waited_s=59.5))[4]["ttlInSeconds"] == "1"
    assert "ttlInSeconds" not in (await sent(EVENT, {"ttl": "-5"}))[4]
    with pytest.raises(Expired, match="60, passed before") as caught:
        await sent(EVENT, {"ttlInSeconds": "60"}, waited_s=60)
    assert caught.value.permanent


async def test_the_key_is_the_partition_key_or_the_topic() -> None:
    up, route, _ = up_route()
    await up.take(EVENT, {"PartitionKey": "k"})
    await up.take(EVENT, {"partitionKey": ""})
    assert [key for key, _ in route.appended] == ["k", "orders"]
    with pytest.raises(Overloaded):
        await up.take(b"x" * 501, {})


def test_attributes_are_put_into_events_only() -> None:
    assert json.loads(cloudevents.with_attributes(b'{"specversion":"1.0"}', {"a": "<"})) == {
        "specversion": "1.0",
        "a": "<",
    }
    for document in (b"{", b"1", b"{}", b'{"specversion":null}'):
        with pytest.raises(ValueError):
            cloudevents.with_attributes(document, {})


# --- down -------------------------------------------------------------------------------------------------------------


def message(data: bytes, content_type: str, extensions: Mapping[str, Any] | None = None) -> TopicEventRequest:
    event = TopicEventRequest(
        id="1", source="s", type="t", spec_version="1.0", data=data, data_content_type=content_type
    )
    ParseDict(extensions or {}, event.extensions)
    return event


def members(*arguments: Any) -> Mapping[str, Any]:
    import msgspec

    decoded: Mapping[str, Any] = json.loads(msgspec.json.encode(event_members(message(*arguments), "pubsub", "todo")))
    return decoded


def test_an_event_from_a_stream_is_whole() -> None:
    found = members(b'{"n":1}', "application/json", {"traceid": "x", "count": 5, "half": 0.5, "none": None, "l": [1]})
    assert found == {
        "id": "1",
        "source": "s",
        "type": "t",
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "data": {"n": 1},
        "pubsubname": "pubsub",
        "topic": "todo",
        "traceid": "x",
        "count": 5,
        "half": 0.5,
        "l": [1],
    }


@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        (b"text", "text/plain", {"data": "text"}),
        (b"<a/>", "application/xml", {"data": "<a/>"}),
        (b"no json", "application/json", {"data": "no json"}),
        (b"\xff", "text/plain", {"data_base64": "/w=="}),
        (b"\x00", "application/octet-stream", {"data_base64": "AA=="}),
        (b"plain", "", {"data": "plain"}),
    ],
)
def test_data_keep_their_form(data: bytes, content_type: str, expected: Mapping[str, str]) -> None:
    found = members(data, content_type)
    assert {name: value for name, value in found.items() if name.startswith("data") and "type" not in name} == expected


def test_digits_of_numbers_stay() -> None:
    encoded = event_members(message(b'{"n":12345678901234567890.10}', "application/json"), "p", "t")["data"]
    assert bytes(encoded) == b'{"n":12345678901234567890.10}'


class Here:
    def __init__(self) -> None:
        self.published: list[tuple[str, str, Any]] = []
        self.failure: DriverError | None = None

    async def publish(self, pubsub: str, topic: str, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.published.append((pubsub, topic, json.loads(data)))


def idle_link(**fields: Any) -> Link:
    return Link(LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", **fields)), LinkMetrics(Metrics()))


async def test_repeats_and_own_events_are_dropped(autojump_clock: trio.testing.MockClock) -> None:
    here = Here()
    down = TopicDownRoute(TopicDown("kafka", "x", "pubsub", "todo"), idle_link(), here.publish, lambda: "me")
    other = message(b"1", "application/json", {"edgenode": "other", "edgeepoch": "1", "edgesequence": "5"})
    mine = message(b"1", "application/json", {"edgenode": "me", "edgeepoch": "1", "edgesequence": "5"})
    assert [await down.take(event) for event in (other, other, mine)] == [SUCCESS] * 3
    assert len(here.published) == 1
    assert here.published[0][2]["edgenode"] == "other"
    assert await down.take(message(b"1", "")) == await down.take(message(b"1", "")) == SUCCESS
    assert len(here.published) == 3


def down_route(here: Here) -> TopicDownRoute:
    return TopicDownRoute(TopicDown("kafka", "x", "pubsub", "todo"), idle_link(), here.publish, lambda: "me")


async def test_what_cannot_be_published_now_is_held(autojump_clock: trio.testing.MockClock) -> None:
    """An answer would let later events overtake it."""
    here = Here()
    here.failure = DriverError("disk full")
    down = down_route(here)
    answers: list[Any] = []

    async def take() -> None:
        answers.append(await down.take(message(b"1", "application/json")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await trio.sleep(3600)
        assert answers == []
        assert (await down.status())["lastError"] == "disk full"
        here.failure = None
        down.hurry()
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [SUCCESS]
    assert (await down.status())["lastError"] == ""
    assert (await down.status())["received"] == 1


async def test_what_never_can_be_published_is_dropped() -> None:
    here = Here()
    here.failure = BadMetadata("too large")
    down = down_route(here)
    assert await down.take(message(b"1", "application/json")) == DROP
    assert ((await down.status())["refused"], (await down.status())["lastError"]) == (1, "too large")


async def test_a_node_that_does_not_know_itself_holds_what_may_be_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    here = Here()
    known = trio.Event()

    def node() -> str:
        if not known.is_set():
            raise DriverError("not open yet")
        return "me"

    down = TopicDownRoute(TopicDown("kafka", "x", "pubsub", "todo"), idle_link(), here.publish, node)
    mine = message(b"1", "application/json", {"edgenode": "me", "edgeepoch": "1", "edgesequence": "5"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(down.take, mine)
        await trio.sleep(10)
        known.set()
    assert here.published == []


# --- shared by apps ---------------------------------------------------------------------------------------------------


class Broker:
    features: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.published: list[tuple[str, Any]] = []

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        self.published.append((topic, json.loads(data)))

    async def bulk_publish(self, topic: str, entries: Sequence[Any], metadata: Mapping[str, str]) -> Sequence[Any]:
        raise NotImplementedError

    async def subscribe(self, *arguments: Any, task_status: Any) -> None:
        raise NotImplementedError


class Component(NamedTuple):
    driver: Broker
    topic_prefix: str = ""


class FakeOutbox:
    def __init__(self) -> None:
        self.open: list[FakeRoute] = []
        self.failures: dict[str, list[Exception]] = {}
        self.gate: trio.Event | None = None

    @asynccontextmanager
    async def open_route(self, settings: RouteSettings, send: Send) -> AsyncIterator[FakeRoute]:
        if self.gate is not None:
            await self.gate.wait()
        if self.failures.get(settings.name):
            raise self.failures[settings.name].pop()
        route = FakeRoute()
        self.open.append(route)
        try:
            yield route
        finally:
            self.open.remove(route)


UPS = (TopicUp("pubsub", "orders", "kafka", "orders"),)


async def test_apps_share_a_link_while_one_has_it(tmp_path: Path, nursery: trio.Nursery) -> None:
    outbox = FakeOutbox()
    links = Links(outbox, lambda: "me", Metrics(), str(tmp_path), nursery)
    settings = LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", topics_up=UPS))
    first, second = {"pubsub": Component(Broker())}, {"pubsub": Component(Broker(), "ns-")}
    async with links.join(settings, first) as one:
        async with links.join(settings, second) as two:
            assert one is two
            assert len(outbox.open) == 1
            await one.publish_here("pubsub", "todo", b"1")
            assert ("ns-todo", 1) in second["pubsub"].driver.published
            await one.forwards()["pubsub", "orders"](EVENT, {})
            assert outbox.open[0].appended == [("orders", {"data": EVENT})]
            with pytest.raises(DriverError, match="has a pub/sub component 'other'"):
                await one.publish_here("other", "todo", b"1")
        other = settings._replace(resource=settings.resource._replace(metered=True))
        async with links.join(other, second) as three:
            assert three is not one
        await one.publish_here("pubsub", "todo", b"2")
        assert ("todo", 2) in first["pubsub"].driver.published
    assert outbox.open == []


async def test_two_links_of_one_name_are_told(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    links = Links(FakeOutbox(), lambda: "me", Metrics(), str(tmp_path), nursery)
    settings = LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", topics_up=UPS))
    other = settings._replace(resource=settings.resource._replace(metered=True))
    async with links.join(settings, {}, "a"):
        async with links.join(settings, {}, "b"), links.join(other, {}, "a"):  # alike, and a reload's
            (told,) = [record.getMessage() for record in caplog.records if "otherwise" in record.getMessage()]
            assert told.startswith("CloudLink 'cloud' of app 'a' is written otherwise than that of 'b': they share")
            assert told.endswith("write both alike, or name one differently")
        caplog.clear()
        async with links.join(other, {}, "a"):
            pass
        async with links.join(settings._replace(resource=settings.resource._replace(name="west")), {}, "b"):
            pass
        assert not [record for record in caplog.records if "otherwise" in record.getMessage()]


async def test_a_link_that_is_being_opened_is_paused_too(tmp_path: Path, nursery: trio.Nursery) -> None:
    outbox = FakeOutbox()
    outbox.gate = gate = trio.Event()
    links = Links(outbox, lambda: "me", Metrics(), str(tmp_path), nursery)
    settings = LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", topics_up=UPS))

    async def pause() -> None:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(links.pause, "cloud", True)
        await trio.testing.wait_all_tasks_blocked(0.05)
        gate.set()

    nursery.start_soon(pause)
    async with links.join(settings, {}) as shared:
        with trio.fail_after(5):
            while not shared.link.paused:  # noqa: ASYNC110
                await trio.sleep(0.01)


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), RuntimeError("the disk is full")])
async def test_a_route_that_cannot_be_opened_stops_no_other(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    outbox = FakeOutbox()
    outbox.failures["link/cloud/pubsub/a"] = [error, error]
    ups = tuple(TopicUp("pubsub", topic, "kafka", topic) for topic in "ab")
    links = Links(outbox, lambda: "me", Metrics(), str(tmp_path), nursery)
    settings = LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", topics_up=ups), fault="no secret")
    async with links.join(settings, {}) as shared:
        forwards = shared.forwards()
        await forwards["pubsub", "b"](EVENT, {})
        with pytest.raises(StoreUnavailable, match=r"the event cannot be kept for the cloud link: .*the disk is full"):
            await forwards["pubsub", "a"](EVENT, {})
        assert "the disk is full" in (await shared.routes[0].status())["lastError"]
        await trio.sleep(10)
        await forwards["pubsub", "a"](EVENT, {})
        assert [route.states for route in outbox.open] == [["not tried yet", "no secret"], ["no secret"]]


async def test_a_broken_listener_stops_nobody() -> None:
    link = idle_link()
    seen: list[LinkState] = []

    def broken(state: LinkState) -> None:
        raise RuntimeError("a mistake")

    link.listeners += [broken, seen.append]
    link._set(LinkState("up"))
    assert seen == [("up", "")]


async def test_states_are_told_once_for_all_apps(tmp_path: Path, nursery: trio.Nursery) -> None:
    outbox = FakeOutbox()
    links = Links(outbox, lambda: "me", Metrics(), str(tmp_path), nursery, Clocks(lambda: 1e9))
    broker = Broker()
    settings = LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", topics_up=UPS), fault="no secret")
    async with links.join(settings, {"pubsub": Component(broker)}), links.join(settings, {"x": Component(Broker())}):
        with trio.fail_after(5):
            await until(lambda: broker.published)
        ((topic, event),) = broker.published
        assert topic == "edge.links"
        assert (event["type"], event["source"]) == ("io.edge-runtime.link.state", "edge-runtime/links/cloud")
        assert event["data"] == {"link": "cloud", "state": "down", "reason": "no secret"}
        assert outbox.open[0].states[-1] == "no secret"


def test_a_route_follows_its_link() -> None:
    link = idle_link()
    seen: list[LinkState] = []
    link.listeners.append(seen.append)
    link._set(LinkState("up"))
    link._set(LinkState("up"))
    link._set(LinkState("down", "cut"))
    assert seen == [("up", ""), ("down", "cut")]
