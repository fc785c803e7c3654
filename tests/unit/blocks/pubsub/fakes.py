"""The other ends: a broker that remembers, an app that answers by a script, and policies."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from edge_runtime.blocks.pubsub import Publisher, PubSubBinding, bind_pubsub
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.model.ports import BulkEntry, Handler, Message, Outcome, Policy
from edge_runtime.observability.metrics import Metrics

T = TypeVar("T")
NOW = 1_000_000.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class FakeBroker:
    """Remembers what is published; delivers only what a test pushes."""

    def __init__(self, *features: str) -> None:
        self.features = frozenset(features)
        self.published: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.bulk: list[list[BulkEntry]] = []
        self.failing: dict[str, Exception] = {}  # by topic, and by entry id
        self.handlers: dict[str, Handler] = {}
        self.groups: dict[str, tuple[str, Mapping[str, str]]] = {}
        self.subscribe_errors: list[Exception] = []
        self.subscribe_count = 0
        self.cancelled: list[str] = []

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        if topic in self.failing:
            raise self.failing[topic]
        self.published.append((topic, data, metadata))

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> Sequence[Exception | None]:
        if topic in self.failing:
            raise self.failing[topic]
        self.bulk.append(list(entries))
        return [self.failing.get(entry.entry_id) for entry in entries]

    async def subscribe(
        self, topic: str, group: str, metadata: Mapping[str, str], handler: Handler, *, task_status: Any
    ) -> None:
        self.subscribe_count += 1
        if self.subscribe_errors:
            raise self.subscribe_errors.pop(0)
        self.handlers[topic] = handler
        self.groups[topic] = (group, metadata)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.append(topic)
            del self.handlers[topic]

    async def push(self, topic: str, data: bytes, metadata: Mapping[str, str] | None = None) -> Outcome:
        return await self.handlers[topic](Message(topic, data, metadata or {}))


class FakeApp:
    """An AppChannel; `answers` are taken one by one, then every further answer is an empty 200."""

    def __init__(self, *answers: tuple[int, bytes] | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.hold: trio.Event | None = None

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.pop(0) if self.answers else (200, b"")
        if isinstance(answer, Exception):
            raise answer
        return Response(answer[0], (), Body(answer[1]))

    def bodies(self) -> list[Any]:
        return [json.loads(request.body.data) for request in self.requests if request.body.data]


class Once:
    """No policy."""

    active = False
    retries = False

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await operation()


class Retry:
    """Tries a number of times, a second apart."""

    active = True
    retries = True

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        for _ in range(self._attempts - 1):
            try:
                return await operation()
            except DriverError:
                await trio.sleep(1)
        return await operation()


class FakePolicies:
    def __init__(self, *, inbound: Policy | None = None, outbound: Policy | None = None) -> None:
        self._inbound = inbound or Once()
        self._outbound = outbound or Once()

    def for_component(self, name: str, kind: str, direction: str) -> Policy:
        assert kind == "Pubsub"
        return self._inbound if direction == "Inbound" else self._outbound

    def builtin(self, name: str) -> Policy:
        assert name == "DaprBuiltInInitializationRetries"
        return Retry(4)


class Counting:
    """Ids 1, 2, 3, …"""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"id-{self.count}"


def binding_of(broker: FakeBroker, metadata: Mapping[str, str] | None = None, **more: Any) -> PubSubBinding:
    return bind_pubsub("pubsub", metadata or {}, broker, "app", "ns", **more)


def publisher_of(
    binding: PubSubBinding, *, policies: FakePolicies | None = None, metrics: Metrics | None = None
) -> Publisher:
    return Publisher(
        {binding.name: binding},
        "app",
        "ns",
        policies or FakePolicies(),
        metrics or Metrics("app"),
        new_id=Counting(),
        now=lambda: NOW,
    )
