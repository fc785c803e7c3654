"""From one MQTT link to the handlers of its subscriptions.

    Link ── receive ──► the route of the topic ── ready ──► workers of its members ──► handler
              │                    ▲                                    │
              │ nobody subscribes  └──────── again, after a pause ◄─────┤ refused
              ▼                                                         ▼ done
           waiting                                              Link.settle: acknowledged

A message of QoS 1 or 2 stays unacknowledged until a handler took it. Refused, it comes again after a pause that
doubles.
When a subscription ends, what it has not finished waits for the next one, so that an app that is paused misses nothing.
What waits counts against the link's window, and that limits all of this.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import trio

from edge_runtime.components.mqtt.numbers import shown
from edge_runtime.model.ports import Handler, Message, Outcome
from edge_runtime.net.mqtt import BrokerRefused, Delivery, LinkSettings, filter_of
from edge_runtime.net.mqtt_link import Link, open_link
from edge_runtime.observability.metrics import Metrics

logger: Final = logging.getLogger("dapr.contrib")

# How long a message waits for a subscription while others have theirs already.
UNWANTED_AFTER_S: Final = 30.0
# A handler that never waits must not keep the loop from the sockets.
DELIVERIES_PER_TURN: Final = 32

_RETAINED: Final[Mapping[str, str]] = {"retained": "true"}
_FRESH: Final[Mapping[str, str]] = {"retained": "false"}


class DeliverySettings(NamedTuple):
    """How refused messages come again. `redeliveries_max` 0 is no limit."""

    redeliver_first_s: float = 1.0
    redeliver_most_s: float = 60.0
    redeliveries_max: int = 0


class _Entry:
    """A message on its way to a handler."""

    __slots__ = ("attempt", "delivery", "number", "since")

    def __init__(self, delivery: Delivery, number: int) -> None:
        self.delivery = delivery
        self.number = number  # the order of arrival
        self.attempt = 1
        self.since = 0.0  # when it began to wait for a subscription


class _Member:
    """One call of `subscribe`."""

    __slots__ = ("busy", "concurrency", "gone", "handler", "nursery")

    def __init__(self, nursery: trio.Nursery, handler: Handler, concurrency: int) -> None:
        self.nursery = nursery
        self.handler = handler
        self.concurrency = concurrency
        self.busy = 0
        self.gone = False


class _Route:
    """One subscription of the link, shared by the members that made it."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.levels = filter_of(pattern).split("/")
        self.exact = not {"+", "#"} & set(self.levels)
        self.ready: deque[_Entry] = deque()
        self.members: list[_Member] = []
        self.users = 0  # calls of `subscribe`; one without a member yet waits for the broker
        self.strict = False

    def wants(self, topic: str) -> bool:
        return matches(self.levels, topic)

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts the more specific first: a named level before `+`, `+` before `#`."""
        return tuple({"+": 1, "#": 2}.get(level, 0) for level in self.levels)


def matches(levels: list[str], topic: str) -> bool:
    """Whether a topic filter, split into levels, is for the topic. `#` and `+` leave out `$SYS` and its like."""
    parts = topic.split("/")
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return False
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index >= len(parts) or level not in ("+", parts[index]):
            return False
    return len(levels) == len(parts)


class Inbox:
    """The deliveries of one link."""

    def __init__(self, name: str, settings: DeliverySettings, nursery: trio.Nursery) -> None:
        self.link: Link
        self.lost = 0  # messages acknowledged though no handler took them
        self._name = name
        self._settings = settings
        self._nursery = nursery
        self._routes: dict[str, _Route] = {}
        self._by_topic: dict[str, _Route | None] = {}
        self._waiting: list[_Entry] = []
        self._sweeping = False
        self._number = 0

    async def subscribe(
        self,
        pattern: str,
        qos: int,
        handler: Handler,
        concurrency: int,
        *,
        strict: bool = False,
        unsubscribe: bool = False,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver until cancelled. With `unsubscribe` the broker is told at the end, else its session goes on."""
        route = self._join(pattern, strict)
        try:
            refused = await self.link.subscribe(pattern, qos)
            task_status.started()
            async with trio.open_nursery() as nursery:
                member = _Member(nursery, handler, concurrency)
                route.members.append(member)
                try:
                    self._dispatch(route)
                    await refused.wait()
                    nursery.cancel_scope.cancel()
                finally:
                    member.gone = True
        finally:
            route.members = [member for member in route.members if not member.gone]
            self._leave(route, unsubscribe)
        raise BrokerRefused(f"broker {self.link.settings.broker} refuses the subscription to topic {pattern}")

    def receive(self, delivery: Delivery) -> None:
        """The link's receiver."""
        self._number += 1
        self._place(_Entry(delivery, self._number))

    # --- routes

    def _join(self, pattern: str, strict: bool) -> _Route:
        route = self._routes.get(pattern)
        if route is None:
            route = self._routes[pattern] = _Route(pattern)
            self._by_topic.clear()
        route.users += 1
        route.strict = route.strict or strict
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            self._place(entry)
        return route

    def _leave(self, route: _Route, unsubscribe: bool) -> None:
        route.users -= 1
        if route.users:
            self._dispatch(route)
            return
        del self._routes[route.pattern]
        self._by_topic.clear()
        if unsubscribe:
            self.link.unsubscribe(route.pattern)
        else:
            self.link.forget(route.pattern)
        for entry in route.ready:
            self._place(entry)

    def _route(self, topic: str) -> _Route | None:
        """The exact topic's before any pattern's; of those the most specific."""
        if topic in self._by_topic:
            return self._by_topic[topic]
        routes = [route for route in self._routes.values() if route.wants(topic)]
        found = min(routes, key=lambda route: (not route.exact, route.rank), default=None)
        if len(self._by_topic) >= 1000:
            self._by_topic.clear()
        self._by_topic[topic] = found
        return found

    def _place(self, entry: _Entry) -> None:
        route = self._route(entry.delivery.topic)
        if route is not None:
            self._queue(route, entry)
        elif not entry.delivery.qos:
            self._give_up(entry)
        else:
            self._wait(entry)

    def _queue(self, route: _Route, entry: _Entry) -> None:
        ready = route.ready
        ready.append(entry)
        if len(ready) > 1 and ready[-2].number > entry.number:
            route.ready = deque(sorted(ready, key=lambda item: item.number))
        self._dispatch(route)

    # --- nobody subscribes

    def _wait(self, entry: _Entry) -> None:
        entry.since = trio.current_time()
        self._waiting.append(entry)
        if not self._sweeping:
            self._sweeping = True
            self._nursery.start_soon(self._sweep)

    async def _sweep(self) -> None:
        """Lets go what nobody subscribes to although there are subscriptions: left over from earlier ones."""
        while self._waiting:
            await trio.sleep(UNWANTED_AFTER_S)
            if not self._routes:
                continue_at = trio.current_time()
                for entry in self._waiting:
                    entry.since = continue_at
                continue
            due = trio.current_time() - UNWANTED_AFTER_S
            unwanted = [entry for entry in self._waiting if entry.since <= due]
            self._waiting = [entry for entry in self._waiting if entry.since > due]
            for topic in {entry.delivery.topic for entry in unwanted}:
                logger.warning(
                    "%s: the broker keeps sending topic %s for an earlier subscription of client %r, and nothing here"
                    " subscribes to it now: its messages are dropped",
                    self._name,
                    topic,
                    self.link.settings.client_id,
                )
                self.link.unsubscribe(topic)
            for entry in unwanted:
                self._give_up(entry)
        self._sweeping = False

    def _give_up(self, entry: _Entry) -> None:
        self.lost += 1
        self.link.settle(entry.delivery)

    # --- handlers

    def _dispatch(self, route: _Route) -> None:
        """Start workers for what is ready, as many as the members allow."""
        members = [member for member in route.members if not member.gone]
        if not members:
            return
        busy = sum(member.busy for member in members)
        for _ in range(len(route.ready)):
            if route.strict and busy:
                return
            member = min(members, key=lambda member: member.busy / member.concurrency)
            if member.busy >= member.concurrency:
                return
            member.busy += 1
            busy += 1
            member.nursery.start_soon(self._work, route, member, route.ready.popleft())

    async def _work(self, route: _Route, member: _Member, entry: _Entry) -> None:
        handled = 0
        current: _Entry | None = entry
        try:
            while current is not None:
                if await self._handle(member, current):
                    self.link.settle(current.delivery)
                elif self._may_repeat(current):
                    if route.strict:
                        await trio.sleep(self._pause_s(current))
                        current.attempt += 1
                        continue
                    self._nursery.start_soon(self._repeat, current, self._pause_s(current))
                else:
                    self._give_up(current)
                current = route.ready.popleft() if route.ready else None
                handled += 1
                if not handled % DELIVERIES_PER_TURN:
                    await trio.lowlevel.checkpoint()
        finally:
            member.busy -= 1
            if current is not None:  # cancelled, and with it the member
                member.gone = True
                self._queue(route, current)

    async def _handle(self, member: _Member, entry: _Entry) -> bool:
        delivery = entry.delivery
        message = Message(delivery.topic, delivery.data, _RETAINED if delivery.retained else _FRESH, entry.attempt)
        return await member.handler(message) is Outcome.ACK

    def _may_repeat(self, entry: _Entry) -> bool:
        delivery = entry.delivery
        limit = self._settings.redeliveries_max
        if delivery.qos and (not limit or entry.attempt <= limit):
            return True
        logger.error(
            "%s: a message of topic %s was refused by the app %s and is lost",
            self._name,
            delivery.topic,
            f"{entry.attempt} times" if delivery.qos else "(QoS 0)",
        )
        return False

    def _pause_s(self, entry: _Entry) -> float:
        doubled = self._settings.redeliver_first_s * 2.0 ** min(entry.attempt - 1, 32)
        return min(doubled, self._settings.redeliver_most_s) * random.uniform(0.8, 1.2)

    async def _repeat(self, entry: _Entry, pause_s: float) -> None:
        await trio.sleep(pause_s)
        entry.attempt += 1
        self._place(entry)


@asynccontextmanager
async def open_inbox(
    name: str, link: LinkSettings, settings: DeliverySettings, metrics: Metrics | None = None
) -> AsyncIterator[Inbox]:
    """A link to the broker and the deliveries of its subscriptions; `name` is the component's, with its block."""
    receive: Callable[[Delivery], None]
    async with trio.open_nursery() as nursery:
        inbox = Inbox(name, settings, nursery)
        receive = inbox.receive
        async with open_link(link, receive) as inbox.link:
            with shown(inbox.link, name.rpartition(" ")[2], metrics):
                yield inbox
        nursery.cancel_scope.cancel()
