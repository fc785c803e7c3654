"""pubsub.mqtt3: publish and subscribe on an MQTT 3.1.1 broker.

A component is one client of the broker, whose id is the consumer group: `consumerID`, or the app-id. All of its topics
share the connection. A group of another name, which the runtime never asks for, gets a client of its own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.components.mqtt.deliveries import DeliverySettings, Inbox, open_inbox
from edge_runtime.components.mqtt.order import PublishOrder
from edge_runtime.components.mqtt.settings import (
    DELIVERY_FIELDS,
    LINK_FIELDS,
    read_deliveries,
    read_link,
    read_qos,
)
from edge_runtime.config.values import go_bool
from edge_runtime.model.errors import BadMetadata, ConfigError, DriverError, Unreachable
from edge_runtime.model.ports import BulkEntry, Entry, Handler, Outbox, PubSub, Route, RouteSettings
from edge_runtime.net.mqtt import BrokerAway, LinkSettings, check_size, check_topic
from edge_runtime.net.mqtt_link import do_nothing
from edge_runtime.observability.metrics import Metrics

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

logger: Final = logging.getLogger("dapr.contrib")

FIRST_ATTEMPT_LIMIT_S: Final = 3.0  # how long the start waits for a broker that does not answer
ANSWER_TIMEOUT_S: Final = 20.0

_OUTBOX_FIELDS: Final = ("outboxBytesMax", "outboxAgeMax", "outboxPriority", "outboxWhenFull")
_FIELDS: Final = (*LINK_FIELDS, *DELIVERY_FIELDS, "qos", "retain", "concurrency", "order", *_OUTBOX_FIELDS)
_ORDERS: Final = ("none", "strict")

# The clients of this process, by broker and client id, with the components that use them.
_clients: dict[tuple[str, str], list[str]] = {}


class Settings(NamedTuple):
    """What a component says beside how to connect."""

    link: LinkSettings
    deliveries: DeliverySettings
    qos: int
    retain: bool
    concurrency: int
    strict: bool
    route: RouteSettings


def read_settings(fields: Fields, name: str, app_id: str) -> Settings:
    client_id = fields.text("consumerID", "").strip() or app_id
    return Settings(
        read_link(fields, client_id, answer_timeout_s=ANSWER_TIMEOUT_S),
        read_deliveries(fields),
        read_qos(fields),
        fields.flag("retain"),
        fields.integer("concurrency", 10, minimum=1, maximum=1000),
        fields.choice("order", "none", _ORDERS) == "strict",
        _read_route(fields, f"pubsub.mqtt3/{app_id}/{name}"),
    )


def _read_route(fields: Fields, name: str) -> RouteSettings:
    """How much is kept while the broker is away, and for how long."""
    full = fields.choice("outboxWhenFull", "refuse", ("refuse", "drop-oldest", "drop-lowest-priority"))
    return RouteSettings(
        name,
        bytes_max=fields.size_bytes("outboxBytesMax", 64 * 2**20, minimum=1),
        age_max_s=fields.duration_s("outboxAgeMax", 7 * 86400, minimum_s=1),
        priority=fields.integer("outboxPriority", 4, minimum=0, maximum=9),
        when_full=cast(Literal["refuse", "drop-oldest", "drop-lowest-priority"], full),
        limit_name="outboxBytesMax",
    )


class Mqtt3PubSub:
    """One component."""

    features = frozenset({"SUBSCRIBE_WILDCARDS"})

    def __init__(self, name: str, settings: Settings, nursery: trio.Nursery, metrics: Metrics | None = None) -> None:
        self._name = name
        self._settings = settings
        self._nursery = nursery
        self._metrics = metrics
        self._inboxes: dict[str, Inbox] = {}
        self._opening = trio.Lock()
        self._route: Route | None = None
        self._order = PublishOrder()
        self.inbox: Inbox  # of the component's own client

    async def open_own_client(self) -> None:
        """Raises `DriverError` when the broker refuses us in a way that no further attempt will change."""
        self.inbox = inbox = await self._client(self._settings.link.client_id)
        with trio.move_on_after(FIRST_ATTEMPT_LIMIT_S):
            await inbox.link.tried.wait()
        if inbox.link.refused is not None:
            raise inbox.link.refused
        if not inbox.link.connected:
            logger.warning("pub/sub %s starts without its broker %s", self._name, self._settings.link.broker)

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Returns when the broker has the message, or the outbox; without one, a broker that is away is waited for."""
        retain = self._retain(metadata) if metadata else self._settings.retain
        qos = self._settings.qos
        link = self.inbox.link
        route = self._route
        if route is None:
            await link.publish(topic, data, qos, retain)
            return
        check_topic(topic)
        check_size(topic, data)
        place = self._order.place(topic)
        try:
            if link.connected and not route.backlog and not place.behind_kept:
                try:
                    await link.publish(topic, data, qos, retain, once=True)
                    return
                except BrokerAway:
                    pass
            await place.keep()
        finally:
            place.leave()
        kept = {"topic": topic, "data": data, "qos": qos, "retain": retain}
        await route.append(topic, kept, size_bytes=len(data) + len(topic))

    @asynccontextmanager
    async def keeping(self, outbox: Outbox, settings: RouteSettings) -> AsyncIterator[None]:
        """While the block lasts, what cannot be published now waits in the outbox."""
        link = self.inbox.link
        async with outbox.open_route(settings, self._send_kept) as route:

            def follow(connected: bool) -> None:
                if connected:
                    route.up()
                else:
                    route.down(link.reason)

            self._route = route
            link.on_change = follow
            follow(link.connected)
            try:
                yield
            finally:
                link.on_change = do_nothing
                self._route = None

    async def _send_kept(self, entry: Entry) -> None:
        link = self.inbox.link
        message: Any = entry.payload
        try:
            if link.connected:
                await link.publish(message["topic"], message["data"], message["qos"], message["retain"], once=True)
                return
        except BrokerAway:
            if link.connected:  # it does not answer: this topic is tried again later
                raise
        raise Unreachable(f"not connected to broker {link.settings.broker}: {link.reason}")

    def _retain(self, metadata: Mapping[str, str]) -> bool:
        for key, value in metadata.items():
            if key.lower() == "retain" and value:
                try:
                    return go_bool(value)
                except ValueError:
                    raise BadMetadata(f"metadata 'retain' is {value!r}; expected true or false") from None
        return self._settings.retain

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> Sequence[Exception | None]:
        """In order, but without waiting for one before the next is sent."""
        results: list[Exception | None] = [None] * len(entries)

        async def send(place: int, entry: BulkEntry, begun: trio.Event) -> None:
            begun.set()
            try:
                await self.publish(topic, entry.data, {**metadata, **entry.metadata})
            except DriverError as error:
                results[place] = error

        async with trio.open_nursery() as nursery:
            for place, entry in enumerate(entries):
                begun = trio.Event()
                nursery.start_soon(send, place, entry, begun)
                await begun.wait()
        return results

    async def subscribe(
        self,
        topic: str,
        group: str,
        metadata: Mapping[str, str],
        handler: Handler,
        *,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver until cancelled."""
        settings = self._settings
        try:
            fields = Fields(metadata, (), self._name)
            concurrency = fields.integer("concurrency", settings.concurrency, minimum=1, maximum=1000)
            strict = fields.choice("order", _ORDERS[settings.strict], _ORDERS) == "strict"
            qos = read_qos(fields, default=settings.qos)
            unsubscribe = settings.link.clean_session or fields.flag("unsubscribeOnClose")
        except ConfigError as error:
            raise BadMetadata(f"in the subscription to {error}") from error
        inbox = await self._client(group)
        await inbox.subscribe(
            topic, qos, handler, concurrency, strict=strict, unsubscribe=unsubscribe, task_status=task_status
        )

    async def _client(self, client_id: str) -> Inbox:
        async with self._opening:
            inbox = self._inboxes.get(client_id)
            if inbox is None:
                inbox = self._inboxes[client_id] = await self._nursery.start(self._hold_client, client_id)
            return inbox

    async def _hold_client(self, client_id: str, *, task_status: trio.TaskStatus[Inbox]) -> None:
        link = self._settings.link._replace(client_id=client_id)
        with _Registered(self._name, link):
            async with open_inbox(f"pub/sub {self._name}", link, self._settings.deliveries, self._metrics) as inbox:
                task_status.started(inbox)
                await trio.sleep_forever()


class _Registered:
    """Says in the log when two components of this process are one client to a broker."""

    def __init__(self, name: str, link: LinkSettings) -> None:
        self._name = name
        self._key = (link.broker, link.client_id)

    def __enter__(self) -> None:
        names = _clients.setdefault(self._key, [])
        others = sorted(set(names) - {self._name})
        if others:
            broker, client_id = self._key
            logger.error(
                "pub/sub %s and %s use the same client id %r on broker %s, so the broker will end the connection of one"
                " whenever the other connects; give one of them another metadata consumerID",
                self._name,
                ", ".join(others),
                client_id,
                broker,
            )
        names.append(self._name)

    def __exit__(self, *_: object) -> None:
        names = _clients[self._key]
        names.remove(self._name)
        if not names:
            del _clients[self._key]


@asynccontextmanager
async def open_mqtt3_pubsub(context: ComponentContext) -> AsyncIterator[PubSub]:
    """The component's client on its broker."""
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    settings = read_settings(fields, context.name, context.app_id)
    failure: DriverError | None = None
    async with trio.open_nursery() as nursery:
        pubsub = Mqtt3PubSub(context.name, settings, nursery, context.metrics)
        try:
            await pubsub.open_own_client()
        except DriverError as error:
            failure = error
        else:
            outbox = context.outbox
            keeping = nullcontext() if outbox is None else pubsub.keeping(outbox, settings.route)
            async with keeping:
                yield pubsub
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
