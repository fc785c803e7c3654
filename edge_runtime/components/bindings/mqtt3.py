"""bindings.mqtt3: publish to a topic of an MQTT 3.1.1 broker, and give what a topic brings to the app.

Each side is a client of its own, `<consumerID>-producer` and `<consumerID>-consumer`, connected when first used.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.components.mqtt.deliveries import DeliverySettings, Inbox, open_inbox
from edge_runtime.components.mqtt.numbers import shown
from edge_runtime.components.mqtt.settings import DELIVERY_FIELDS, LINK_FIELDS, read_deliveries, read_link
from edge_runtime.config.values import go_bool
from edge_runtime.model.errors import BadMetadata, DriverError, NotSupported
from edge_runtime.model.ports import BindingHandler, BindingResponse, Message, Outcome
from edge_runtime.net.mqtt import BrokerAway, Delivery, LinkSettings, check_pattern
from edge_runtime.net.mqtt_link import Link, open_link
from edge_runtime.observability.metrics import Metrics

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

logger: Final = logging.getLogger("dapr.contrib")

ANSWER_TIMEOUT_S: Final = 10.0
PUBLISH_RETRIES: Final = 3
PUBLISH_RETRY_S: Final = 0.2
QOS: Final = 1

_FIELDS: Final = (
    *LINK_FIELDS,
    *DELIVERY_FIELDS,
    "topic",
    "retain",
    "qos",
    "backOffMaxRetries",
    "retryInterval",
    "concurrency",
    "direction",
    "route",
)


class Settings(NamedTuple):
    """What a component says. `retries` below zero is no limit."""

    link: LinkSettings
    deliveries: DeliverySettings
    topic: str
    retain: bool
    retries: int
    retry_s: float
    concurrency: int


def read_settings(fields: Fields) -> Settings:
    topic = fields.text("topic")
    try:
        check_pattern(topic)
    except BadMetadata as error:
        raise fields.error("topic", topic, f"a topic: {error}") from None
    return Settings(
        read_link(fields, fields.text("consumerID"), answer_timeout_s=ANSWER_TIMEOUT_S),
        read_deliveries(fields),
        topic,
        fields.flag("retain"),
        fields.integer("backOffMaxRetries", 0),
        fields.duration_s("retryInterval", 5, minimum_s=0),
        fields.integer("concurrency", 10, minimum=1, maximum=1000),
    )


class Mqtt3Binding:
    """One component: an output and an input binding."""

    operations = ("create",)

    def __init__(self, name: str, settings: Settings, nursery: trio.Nursery, metrics: Metrics | None = None) -> None:
        self._name = name
        self._settings = settings
        self._nursery = nursery
        self._metrics = metrics
        self._producer: Link | None = None
        self._opening = trio.Lock()

    # --- output

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """Publish to the component's topic, or to the one that the request's metadata names."""
        if operation != "create":
            raise NotSupported(f"binding {self._name} has no operation {operation!r}; expected create")
        topic = _value(metadata, "topic") or self._settings.topic
        retain = self._settings.retain
        if text := _value(metadata, "retain"):
            try:
                retain = go_bool(text)
            except ValueError:
                raise BadMetadata(f"metadata 'retain' is {text!r}; expected true or false") from None
        await self._publish(await self._link(), topic, data, retain)
        return BindingResponse()

    async def _publish(self, link: Link, topic: str, data: bytes, retain: bool) -> None:
        for _ in range(PUBLISH_RETRIES):
            try:
                await link.publish(topic, data, QOS, retain)
                return
            except BrokerAway:
                if not link.connected:  # it was waited for long enough
                    raise
            await trio.sleep(PUBLISH_RETRY_S)
        await link.publish(topic, data, QOS, retain)

    async def _link(self) -> Link:
        async with self._opening:
            if self._producer is None:
                self._producer = await self._nursery.start(self._hold_producer)
        return self._producer

    async def _hold_producer(self, *, task_status: trio.TaskStatus[Link]) -> None:
        settings = self._settings.link
        async with open_link(settings._replace(client_id=f"{settings.client_id}-producer"), _ignore) as link:
            task_status.started(link)
            with shown(link, self._name, self._metrics):
                await trio.sleep_forever()

    # --- input

    async def read(self, handler: BindingHandler, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver what the topic brings until cancelled. Acknowledged is what the app took."""
        settings = self._settings

        async def handle(message: Message) -> Outcome:
            return await self._deliver(handler, message)

        async with _consumer(self._name, settings, self._metrics) as inbox:
            await inbox.subscribe(
                settings.topic,
                QOS,
                handle,
                settings.concurrency,
                unsubscribe=settings.link.clean_session,
                task_status=task_status,
            )

    async def _deliver(self, handler: BindingHandler, message: Message) -> Outcome:
        retries = self._settings.retries
        metadata = {"topic": message.topic}
        while True:
            try:
                await handler(message.data, metadata)
                return Outcome.ACK
            except DriverError as error:
                logger.warning("binding %s: a message of topic %s: %s", self._name, message.topic, error)
            if not retries:
                return Outcome.NACK
            retries -= 1
            await trio.sleep(self._settings.retry_s)


@asynccontextmanager
async def _consumer(name: str, settings: Settings, metrics: Metrics | None) -> AsyncIterator[Inbox]:
    link = settings.link._replace(client_id=f"{settings.link.client_id}-consumer")
    async with open_inbox(f"binding {name}", link, settings.deliveries, metrics) as inbox:
        yield inbox


def _value(metadata: Mapping[str, str], name: str) -> str:
    for key, value in metadata.items():
        if key.lower() == name:
            return value
    return ""


def _ignore(_: Delivery) -> None:
    """A producer has no subscriptions; what an earlier session of its id left over is nothing to us."""


@asynccontextmanager
async def open_mqtt3_binding(context: ComponentContext) -> AsyncIterator[Mqtt3Binding]:
    """The component; nothing is connected before it is used."""
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    settings = read_settings(fields)
    async with trio.open_nursery() as nursery:
        yield Mqtt3Binding(context.name, settings, nursery, context.metrics)
        nursery.cancel_scope.cancel()
