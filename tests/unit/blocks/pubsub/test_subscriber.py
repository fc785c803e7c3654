"""The subscriber: discovery, running, health, reload, stopping."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.blocks.pubsub import PubSubBinding, Subscriber, SubscriptionSpec
from edge_runtime.blocks.pubsub.app import Batch, Event, Verdict
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import BulkSettings, DiscoveryError
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import Outcome
from edge_runtime.observability.metrics import Metrics
from tests.unit.blocks.pubsub.fakes import FakeApp, FakeBroker, FakePolicies, binding_of, publisher_of


def declared(topic: str = "t", path: str = "/orders", pubsub: str = "pubsub", **more: Any) -> SubscriptionSpec:
    return SubscriptionSpec(pubsub, topic, (Rule("", path),), **more)


def answer(*items: object) -> tuple[int, bytes]:
    return 200, json.dumps(items).encode()


NONE = (404, b"")


class Setting:
    def __init__(
        self,
        *answers: tuple[int, bytes] | Exception,
        declarative: Sequence[SubscriptionSpec] = (),
        broker: FakeBroker | None = None,
        bindings: dict[str, PubSubBinding] | None = None,
        component: dict[str, str] | None = None,
        channel: bool = True,
        **more: Any,
    ) -> None:
        self.broker = broker or FakeBroker()
        self.app = FakeApp(*answers)
        binding = binding_of(self.broker, component)
        self.bindings = {"pubsub": binding} if bindings is None else bindings
        self.subscriber = Subscriber(
            self.bindings,
            "app",
            "ns",
            self.app if channel else None,
            FakePolicies(),
            publisher_of(binding),
            Metrics("app"),
            declarative,
            **more,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await self.subscriber.discover()
            await nursery.start(self.subscriber.run)
            yield
            nursery.cancel_scope.cancel()

    def topics(self) -> list[str]:
        return sorted(self.broker.handlers)


async def test_the_app_is_asked_and_served() -> None:
    setting = Setting(answer({"pubsubname": "pubsub", "topic": "t", "route": "orders"}))
    async with setting.running():
        assert await setting.broker.push("t", b'{"id":"1"}') is Outcome.ACK
    ask, event = setting.app.requests
    assert (ask.method, ask.target) == ("GET", b"/dapr/subscribe")
    assert list(ask.headers) == [(b"content-type", b"application/json"), (b"dapr-app-id", b"app")]
    assert (event.target, event.body.data) == (b"/orders", b'{"id":"1"}')
    assert setting.broker.groups["t"] == ("app", {})
    assert setting.broker.cancelled == ["t"]


async def test_both_kinds_run_together() -> None:
    asked = {"pubsubname": "pubsub", "topic": "b", "route": "/asked", "metadata": {"k": "v"}, "deadLetterTopic": "dead"}
    setting = Setting(answer(asked), declarative=[declared("a"), declared("b")])
    async with setting.running():
        assert setting.topics() == ["a", "b"]
        assert setting.subscriber.active() == [
            {
                "pubsubname": "pubsub",
                "topic": "a",
                "rules": [{"path": "/orders"}],
                "deadLetterTopic": "",
                "type": "DECLARATIVE",
            },
            {
                "pubsubname": "pubsub",
                "topic": "b",
                "metadata": {"k": "v"},
                "rules": [{"path": "/asked"}],
                "deadLetterTopic": "dead",
                "type": "PROGRAMMATIC",
            },
        ]


@pytest.mark.parametrize("reply", [NONE, (500, b"oops"), (200, b"")])
async def test_no_list_leaves_the_declared(reply: tuple[int, bytes]) -> None:
    setting = Setting(reply, declarative=[declared()])
    async with setting.running():
        assert setting.topics() == ["t"]
    assert len(setting.app.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [(200, b"{"), answer({"topic": "x", "route": "/r", "routes": {"rules": [{"match": "event.", "path": "/"}]}})],
)
async def test_a_bad_list_stops_the_round(reply: tuple[int, bytes], caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(reply, declarative=[declared()])
    async with setting.running():
        assert setting.topics() == []
        setting.subscriber.replace_declarative([declared("other")])
        await wait_all_tasks_blocked()
        assert setting.topics() == []
        setting.subscriber.pause()
        await wait_all_tasks_blocked()
        setting.subscriber.resume()  # the next round: what is declared runs, the app is not asked again
        await wait_all_tasks_blocked()
        assert setting.topics() == ["other"]
    assert len(setting.app.requests) == 1
    assert "no subscription of app app starts" in caplog.text


async def test_an_app_that_is_away_is_asked_again(autojump_clock: object) -> None:
    setting = Setting(DriverError("away"), DriverError("away"), NONE, declarative=[declared()])
    async with setting.running():
        assert setting.topics() == ["t"]
    assert len(setting.app.requests) == 3
    setting = Setting(*[DriverError("away")] * 9, declarative=[declared()])
    async with setting.running():
        assert setting.topics() == []
    assert len(setting.app.requests) == 4


async def test_discovery_happens_once() -> None:
    setting = Setting(NONE)
    await setting.subscriber.discover()
    await setting.subscriber.discover()
    assert len(setting.app.requests) == 1


async def test_discovery_can_be_left_out() -> None:
    setting = Setting(declarative=[declared()], discovery=False)
    async with setting.running():
        assert setting.topics() == ["t"]
    assert setting.app.requests == []
    setting = Setting(bindings={})
    await setting.subscriber.discover()
    assert setting.app.requests == []


async def test_no_channel_means_no_subscription() -> None:
    setting = Setting(declarative=[declared()], channel=False)
    async with setting.running():
        assert setting.topics() == []


async def test_nothing_runs_before_discovery() -> None:
    setting = Setting(NONE, declarative=[declared()])
    async with trio.open_nursery() as nursery:
        await nursery.start(setting.subscriber.run)
        assert setting.topics() == []
        await setting.subscriber.discover()
        await wait_all_tasks_blocked()
        assert setting.topics() == ["t"]
        nursery.cancel_scope.cancel()


async def test_an_endless_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.blocks.pubsub.subscriber.DISCOVERY_BYTES_MAX", 10)
    setting = Setting((200, b"[          ]"), declarative=[declared()])
    async with setting.running():
        assert setting.topics() == []


async def test_an_unknown_component_waits_for_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(NONE, declarative=[declared(pubsub="later")])
    async with setting.running():
        assert "no pub/sub component 'later'" in caplog.text
        setting.bindings["later"] = setting.bindings["pubsub"]._replace(name="later")
        setting.subscriber.rebind()
        await wait_all_tasks_blocked()
        assert setting.topics() == ["t"]


async def test_a_new_driver_gets_the_subscription() -> None:
    setting = Setting(NONE, declarative=[declared()])
    other = FakeBroker()
    async with setting.running():
        setting.bindings["pubsub"] = binding_of(other)
        setting.subscriber.rebind()
        await wait_all_tasks_blocked()
        assert (setting.topics(), sorted(other.handlers)) == ([], ["t"])
        del setting.bindings["pubsub"]
        setting.subscriber.rebind()
        await wait_all_tasks_blocked()
        assert other.handlers == {}


async def test_a_failing_subscription_is_tried_for_ever(autojump_clock: object) -> None:
    broker = FakeBroker()
    broker.subscribe_errors = [DriverError("away"), OSError("odd"), *[DriverError("away")] * 12]
    setting = Setting(NONE, declarative=[declared()], broker=broker)
    async with setting.running():
        await trio.sleep(400)
        assert setting.topics() == ["t"]
    assert broker.subscribe_count == 15


async def test_a_start_does_not_wait_for_ever(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(NONE, declarative=[declared()])

    async def silent(*arguments: object, task_status: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(setting.broker, "subscribe", silent)
    started = trio.current_time()
    async with setting.running():
        assert trio.current_time() - started == 5


async def test_a_broker_that_ends_is_asked_again(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(NONE, declarative=[declared()])
    calls: list[str] = []

    async def short(topic: str, *arguments: object, task_status: Any) -> None:
        task_status.started()
        calls.append(topic)

    monkeypatch.setattr(setting.broker, "subscribe", short)
    async with setting.running():
        await trio.sleep(1.6)
    assert calls == ["t", "t", "t", "t"]


async def test_scopes_refuse_a_subscription(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(NONE, declarative=[declared()], component={"subscriptionScopes": "app=other"})
    async with setting.running():
        await trio.sleep(2)
        assert setting.topics() == []
    assert "the scopes of the component do not allow this app to subscribe to topic t" in caplog.text
    assert setting.broker.subscribe_count == 0


async def test_a_namespace_stands_before_topics() -> None:
    setting = Setting(NONE, declarative=[declared()], component={"consumerID": "{namespace}"})
    async with setting.running():
        assert setting.topics() == ["nst"]


async def test_an_unhealthy_app_gets_nothing() -> None:
    setting = Setting(NONE, declarative=[declared()])
    async with setting.running():
        setting.subscriber.pause()
        await wait_all_tasks_blocked()
        assert setting.topics() == []
        assert len(setting.subscriber.active()) == 1
        setting.subscriber.resume()
        await wait_all_tasks_blocked()
        assert setting.topics() == ["t"]
    assert len(setting.app.requests) == 1


async def test_a_reload_touches_only_what_changed() -> None:
    setting = Setting(NONE, declarative=[declared("a"), declared("b"), declared("c")])
    async with setting.running():
        setting.subscriber.replace_declarative([declared("a"), declared("b", "/new"), declared("d")])
        await wait_all_tasks_blocked()
        assert setting.topics() == ["a", "b", "d"]
        assert sorted(setting.broker.cancelled) == ["b", "c"]
        await setting.broker.push("b", b"{}")
    assert setting.app.requests[-1].target == b"/new"


async def test_a_bulk_subscription_is_batched(autojump_clock: object) -> None:
    spec = declared(bulk=BulkSettings(True, 2, 1000))
    setting = Setting(NONE, declarative=[spec])
    setting.app.answers.append((404, b""))
    async with setting.running():
        assert await setting.broker.push("t", b'{"id":"1"}') is Outcome.ACK
    assert json.loads(setting.app.requests[-1].body.data)["type"] == "com.dapr.event.sent.bulk"


# --- stopping ---------------------------------------------------------------------------------------------------------


async def deliver_while_stopping(setting: Setting, hold_s: float) -> list[Outcome]:
    """Cancel the subscriber while the app takes `hold_s` over an event."""
    outcomes: list[Outcome] = []

    async def push() -> None:
        outcomes.append(await setting.broker.push("t", b'{"id":"1"}'))

    async with trio.open_nursery() as pushes:
        async with setting.running():
            setting.app.hold = trio.Event()
            pushes.start_soon(push)
            await wait_all_tasks_blocked()
            pushes.start_soon(_release, setting.app.hold, hold_s)
        pushes.cancel_scope.cancel()
    return outcomes


async def _release(event: trio.Event, after_s: float) -> None:
    await trio.sleep(after_s)
    event.set()


async def test_deliveries_in_flight_finish(autojump_clock: object) -> None:
    setting = Setting(NONE, declarative=[declared()])
    assert await deliver_while_stopping(setting, 10) == [Outcome.ACK]
    assert setting.broker.cancelled == ["t"]


async def test_a_stop_in_the_first_moment_ends(autojump_clock: object) -> None:
    """Also when it comes before the subscriber has run at all: what is shielded must not outlive it."""
    for steps in range(6):
        setting = Setting(NONE, declarative=[declared()])
        await setting.subscriber.discover()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setting.subscriber.run)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert setting.topics() == []


async def test_a_stop_waits_no_longer_than_its_limit(autojump_clock: object) -> None:
    setting = Setting(NONE, declarative=[declared()])
    started = trio.current_time()
    assert await deliver_while_stopping(setting, 100) == []
    assert trio.current_time() - started == 30


async def test_failures_in_flight_do_not_hold_a_stop(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(NONE, (500, b""), declarative=[declared(dead_letter_topic="dead")])
    started = trio.current_time()
    with caplog.at_level(logging.WARNING):
        assert await deliver_while_stopping(setting, 3) == []
    assert trio.current_time() - started == 3
    assert setting.broker.published == []


# --- apps that list their subscriptions -------------------------------------------------------------------------------


class ListingApp:
    """A kind of app that has a call of its own for what it subscribes to."""

    def __init__(self, *answers: Sequence[SubscriptionSpec] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def list_subscriptions(self) -> Sequence[SubscriptionSpec]:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def deliver(self, event: Event, path: str) -> Verdict:
        return Verdict.IGNORED

    async def deliver_bulk(self, batch: Batch, path: str) -> dict[str, Verdict]:
        return {}


async def test_a_listing_app_is_asked_whenever_it_turns_healthy() -> None:
    app = ListingApp([declared("a"), declared("b")], [declared("b"), declared("c")])
    setting = Setting(app=app)
    async with setting.running():
        assert setting.topics() == ["a", "b"]
        setting.subscriber.pause()
        await wait_all_tasks_blocked()
        assert setting.topics() == []
        setting.subscriber.resume()
        await wait_all_tasks_blocked()
        assert setting.topics() == ["b", "c"]
        assert (app.asked, setting.app.requests) == (2, [])


async def test_a_list_is_kept_while_the_app_cannot_be_asked(autojump_clock: object) -> None:
    failures = [DriverError("away")] * 4
    app = ListingApp(DriverError("away"), [declared("a")], *failures, DiscoveryError("bad"), [])
    setting = Setting(app=app)
    async with setting.running():
        for topics in (["a"], ["a"], []):
            setting.subscriber.pause()
            setting.subscriber.resume()
            await trio.sleep(10)
            assert setting.topics() == topics


async def test_an_app_that_never_listed_starts_nothing(autojump_clock: object) -> None:
    setting = Setting(app=ListingApp(DiscoveryError("bad"), [declared("a")]), declarative=[declared("d")])
    async with setting.running():
        assert setting.topics() == []
        setting.subscriber.pause()
        setting.subscriber.resume()
        await wait_all_tasks_blocked()
        assert setting.topics() == ["a", "d"]


async def test_an_event_that_the_app_cannot_take_has_no_dead_letter() -> None:
    setting = Setting(app=ListingApp([declared("t", dead_letter_topic="dead")]))
    async with setting.running():
        assert await setting.broker.push("t", b"{}") is Outcome.ACK
    assert setting.broker.published == []
