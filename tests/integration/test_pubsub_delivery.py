"""From publish to the app and back through the real brokers: one event, routes, refusals, dead letters, batches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.blocks.pubsub import Entry, Publisher, Subscriber, SubscriptionSpec, bind_pubsub
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import BulkSettings
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency.policies import Policies
from tests.brokers import open_broker

pytestmark = pytest.mark.slow
DRIVERS = ("pubsub.sqlite", "pubsub.in-memory")
ALL = (Rule("", "/all"),)


class App:
    """An app whose `answer` decides by path and body; a test waits until it has been called often enough."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.answer: Callable[[str, Any], tuple[int, bytes]] = lambda path, body: (200, b"")
        self._called = trio.Condition()

    async def send(self, request: Request) -> Response:
        if request.method == "GET":
            return Response(404)
        path, body = request.target.decode(), json.loads(request.body.data)
        async with self._called:
            self.calls.append((path, body))
            self._called.notify_all()
        status, data = self.answer(path, body)
        return Response(status, (), Body(data))

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(10):
            async with self._called:
                while len(self.calls) < count:
                    await self._called.wait()

    def data(self, path: str) -> list[Any]:
        return [body["data"] for called, body in self.calls if called == path]


class Node:
    def __init__(self, publisher: Publisher, app: App) -> None:
        self.publisher = publisher
        self.app = app

    async def publish(self, *documents: object, topic: str = "orders") -> None:
        for document in documents:
            await self.publisher.publish("pubsub", topic, json.dumps(document).encode(), "application/json")


@pytest.fixture(params=DRIVERS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens a node with one app and its subscriptions."""

    @asynccontextmanager
    async def node(*specs: SubscriptionSpec) -> AsyncIterator[Node]:
        app, metrics, policies = App(), Metrics("app"), Policies((), Metrics("app"), "app")
        async with open_broker(tmp_path, request.param) as broker, trio.open_nursery() as nursery:
            bindings = {"pubsub": bind_pubsub("pubsub", {}, broker, "app")}
            publisher = Publisher(bindings, "app", "", policies, metrics)
            subscriber = Subscriber(bindings, "app", "", app, policies, publisher, metrics, specs)
            await subscriber.discover()
            await nursery.start(subscriber.run)
            yield Node(publisher, app)
            nursery.cancel_scope.cancel()

    return node


def spec(topic: str = "orders", rules: tuple[Rule, ...] = ALL, **more: Any) -> SubscriptionSpec:
    return SubscriptionSpec("pubsub", topic, rules, **more)


async def test_an_event_comes_through(opened: Any) -> None:
    async with opened(spec()) as node:
        await node.publish({"n": 2**60})
        await node.app.wait_for(1)
        [(path, event)] = node.app.calls
    assert path == "/all"
    assert (event["data"], event["topic"], event["source"]) == ({"n": 2**60}, "orders", "app")


async def test_events_follow_their_routes(opened: Any) -> None:
    rules = (Rule("event.data.n > 5", "/many"), Rule("", "/few"))
    async with opened(spec(rules=rules)) as node:
        await node.publish(*({"n": n} for n in range(10)))
        await node.app.wait_for(10)
        assert sorted(row["n"] for row in node.app.data("/many")) == [6, 7, 8, 9]
        assert sorted(row["n"] for row in node.app.data("/few")) == [0, 1, 2, 3, 4, 5]


async def test_refused_events_become_dead_letters(opened: Any) -> None:
    async with opened(spec(dead_letter_topic="dead"), spec("dead", (Rule("", "/dead"),))) as node:
        node.app.answer = lambda path, body: (500 if path == "/all" and body["data"] == "bad" else 200, b"")
        await node.publish("good", "bad")
        await node.app.wait_for(3)
        assert sorted(node.app.data("/all")) == ["bad", "good"]
        assert node.app.data("/dead") == ["bad"]
        [dead] = [body for path, body in node.app.calls if path == "/dead"]
        assert dead["topic"] == "orders"  # the envelope stays as it was published


async def test_batches_come_through(opened: Any) -> None:
    def answer(path: str, body: Any) -> tuple[int, bytes]:
        statuses = [{"entryId": entry["entryId"], "status": "SUCCESS"} for entry in body["entries"]]
        return 200, json.dumps({"statuses": statuses}).encode()

    async with opened(spec(bulk=BulkSettings(True, 4, 20))) as node:
        node.app.answer = answer
        entries = [Entry(str(n), json.dumps(n).encode(), "application/json") for n in range(8)]
        assert await node.publisher.bulk_publish("pubsub", "orders", entries) == []
        seen: list[int] = []
        with trio.fail_after(10):
            while len(seen) < 8:
                await node.app.wait_for(len(node.app.calls) + 1 if len(seen) else 1)
                seen = [entry["event"]["data"] for _, body in node.app.calls for entry in body["entries"]]
    assert sorted(seen) == list(range(8))


async def test_a_durable_event_outlasts_a_restart(tmp_path: Path) -> None:
    policies, metrics = Policies((), Metrics("app"), "app"), Metrics("app")
    async with open_broker(tmp_path, "pubsub.sqlite") as broker:
        bindings = {"pubsub": bind_pubsub("pubsub", {}, broker, "app")}
        await Publisher(bindings, "app", "", policies, metrics).publish(
            "pubsub", "orders", b'"kept"', "application/json"
        )
    app = App()
    async with open_broker(tmp_path, "pubsub.sqlite") as broker, trio.open_nursery() as nursery:
        bindings = {"pubsub": bind_pubsub("pubsub", {}, broker, "app")}
        publisher = Publisher(bindings, "app", "", policies, metrics)
        subscriber = Subscriber(bindings, "app", "", app, policies, publisher, metrics, [spec()])
        await subscriber.discover()
        await nursery.start(subscriber.run)
        await app.wait_for(1)
        nursery.cancel_scope.cancel()
    assert app.data("/all") == ["kept"]
