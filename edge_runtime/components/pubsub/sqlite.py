"""pubsub.sqlite: a durable log for each topic, in the node's database unless `connectionString` names another file.

Components of one name on one file share their topics, whichever app or process they belong to: that is how a message
gets from one app to another. How messages are delivered is in `log_group`, what the file holds in `store.log`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.components.pubsub.log_group import Counts, GroupSettings, OpenTopic
from edge_runtime.components.pubsub.log_hub import Hub
from edge_runtime.model.errors import BadMetadata, ConfigError, DriverError, Overloaded
from edge_runtime.model.ports import BulkEntry, Handler, PubSub
from edge_runtime.store.connection import location
from edge_runtime.store.log import Limits, open_log

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext
    from edge_runtime.store.database import Database

logger: Final = logging.getLogger("dapr.contrib")

NODE_DATABASE: Final = "node.db"
TOPIC_NAME_BYTES_MAX: Final = 512
_FIELDS: Final = (
    "connectionString",
    "concurrency",
    "order",
    "initialOffset",
    "redeliverInterval",
    "redeliverIntervalMax",
    "maxRedeliveries",
    "maxUnacknowledged",
    "ackFlushInterval",
    "retentionBytes",
    "retentionAge",
    "backlogBytesMax",
    "whenFull",
    "groupExpiry",
    "maxMessageBytes",
    "topicsMax",
    "groupsMax",
)
_ORDERS: Final = ("none", "strict")
_OFFSETS: Final = ("earliest", "latest")


class MessageTooLarge(DriverError):
    """A single message is over the component's limit."""

    permanent = True


class Settings(NamedTuple):
    """The component's metadata."""

    path: str
    concurrency: int
    latest: bool
    group: GroupSettings
    limits: Limits
    drop_oldest: bool
    message_bytes_max: int
    topics_max: int
    groups_max: int


def read_settings(fields: Fields, state_dir: str) -> Settings:
    """Raises ConfigError for a field that cannot be used."""
    drop_oldest = fields.choice("whenFull", "refuse", ("refuse", "dropOldest")) == "dropOldest"
    return Settings(
        path=_path(fields.text("connectionString", os.path.join(state_dir, NODE_DATABASE))),
        concurrency=fields.integer("concurrency", 10, minimum=1, maximum=1000),
        latest=fields.choice("initialOffset", "earliest", _OFFSETS) == "latest",
        group=GroupSettings(
            strict=fields.choice("order", "none", _ORDERS) == "strict",
            in_hand_max=fields.integer("maxUnacknowledged", 1000, minimum=1, maximum=100_000),
            redeliver_first_s=fields.duration_s("redeliverInterval", 1.0, minimum_s=0.001),
            redeliver_most_s=fields.duration_s("redeliverIntervalMax", 60.0, minimum_s=0.001),
            redeliveries_max=fields.integer("maxRedeliveries", 0, minimum=0),
            flush_after_s=fields.duration_s("ackFlushInterval", 0.25, minimum_s=0.0),
        ),
        limits=Limits(
            retention_bytes=fields.size_bytes("retentionBytes", 64 * 2**20),
            retention_ms=round(fields.duration_s("retentionAge", 168 * 3600, minimum_s=1.0) * 1000),
            backlog_bytes=fields.size_bytes("backlogBytesMax", 256 * 2**20, minimum=1),
            drop_oldest=drop_oldest,
            group_expiry_ms=round(fields.duration_s("groupExpiry", 720 * 3600, minimum_s=60.0) * 1000),
        ),
        drop_oldest=drop_oldest,
        message_bytes_max=fields.size_bytes("maxMessageBytes", 32 * 2**20, minimum=1),
        topics_max=fields.integer("topicsMax", 1000, minimum=1, maximum=4_000_000),
        groups_max=fields.integer("groupsMax", 64, minimum=1),
    )


def _path(connection_string: str) -> str:
    """A plain path, or SQLite's `file:` URI; its parameters say nothing that matters here."""
    if not connection_string.startswith("file:"):
        return connection_string
    return unquote(connection_string[len("file:") :].partition("?")[0])


class SqlitePubSub:
    """The log as one component instance uses it."""

    features = frozenset({"BULK_PUBSUB"})

    def __init__(self, name: str, settings: Settings, hub: Hub) -> None:
        self._name = name
        self._settings = settings
        self._hub = hub
        self._topics: dict[str, OpenTopic] = {}

    @property
    def counts(self) -> Counts:
        """What the file's hub did in this process, for metrics; shared by the components on one file."""
        return self._hub.counts

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Returns when the message is on disk."""
        place = self._topics.get(topic) or await self._open_topic(topic)
        if len(data) > self._settings.message_bytes_max:
            raise self._too_large(len(data))
        if place.refusing:
            self._refuse_when_full(place)
        hub = self._hub
        offset = await hub.log.append(place.topic, data, metadata)
        hub.appended(place, offset, data, metadata)
        hub.ring()

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> Sequence[Exception | None]:
        """All or none."""
        results: list[Exception | None] = [None] * len(entries)
        if not entries:
            return results
        try:
            await self._publish_all(topic, [(entry.data, {**metadata, **entry.metadata}) for entry in entries])
        except DriverError as error:
            return [error] * len(entries)
        return results

    async def _publish_all(self, topic: str, entries: Sequence[tuple[bytes, Mapping[str, str]]]) -> None:
        place = self._topics.get(topic) or await self._open_topic(topic)
        largest = max(len(data) for data, _ in entries)
        if largest > self._settings.message_bytes_max:
            raise self._too_large(largest)
        if place.refusing:
            self._refuse_when_full(place)
        hub = self._hub
        first = await hub.log.append_all(place.topic, entries)
        for offset, (data, metadata) in enumerate(entries, first):
            hub.appended(place, offset, data, metadata)
        hub.ring()

    async def subscribe(
        self,
        topic: str,
        group: str,
        metadata: Mapping[str, str],
        handler: Handler,
        *,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Deliver until cancelled. From `started` on nothing that is published can be missed by the group."""
        settings = self._settings
        concurrency, strict, latest = self._read_subscription(metadata)
        place = self._topics.get(topic) or await self._open_topic(topic)
        number = await self._hub.log.join(
            place.topic,
            group,
            latest=latest,
            groups_max=settings.groups_max,
            expiry_ms=settings.limits.group_expiry_ms,
        )
        group_settings = settings.group._replace(strict=strict)
        task_status.started()
        await self._hub.group(place, group, number, group_settings).serve(handler, concurrency, strict)

    def _read_subscription(self, metadata: Mapping[str, str]) -> tuple[int, bool, bool]:
        settings = self._settings
        try:
            fields = Fields(metadata, (), self._name)
            concurrency = fields.integer("concurrency", settings.concurrency, minimum=1, maximum=1000)
            strict = fields.choice("order", _ORDERS[settings.group.strict], _ORDERS) == "strict"
            latest = fields.choice("initialOffset", _OFFSETS[settings.latest], _OFFSETS) == "latest"
        except ConfigError as error:
            raise BadMetadata(f"in the subscription to {error}") from error
        return concurrency, strict, latest

    async def open_existing(self) -> None:
        """Take up the topics that the file has already, so that their limits hold without a publish."""
        for name in self._hub.log.existing_topics(self._name):
            await self._open_topic(name)

    async def _open_topic(self, name: str) -> OpenTopic:
        if not name or len(name.encode()) > TOPIC_NAME_BYTES_MAX:
            raise BadMetadata(f"the topic's name is {name[:80]!r}; expected 1 to {TOPIC_NAME_BYTES_MAX} bytes")
        settings = self._settings
        place = await self._hub.open_topic(self._name, name, settings.limits, settings.topics_max)
        self._topics[name] = place
        return place

    def _refuse_when_full(self, place: OpenTopic) -> None:
        """Full when last looked at: look again, and refuse while it is."""
        self._hub.check(place)
        if place.refusing:
            self._hub.counts.refused += 1
            raise Overloaded(
                f"topic {place.topic.name} of pub/sub {self._name} is full: its slowest subscriber has"
                f" {place.limits.backlog_bytes} bytes still to get; the limit is the component's metadata"
                " backlogBytesMax (whenFull: dropOldest would drop the oldest instead)"
            )

    def _too_large(self, size: int) -> MessageTooLarge:
        return MessageTooLarge(
            f"the message has {size} bytes; pub/sub {self._name} takes {self._settings.message_bytes_max},"
            " the limit is the component's metadata maxMessageBytes"
        )


# The hubs of this process, by file. A file's hub lives as long as a component uses it.
_hubs: dict[Database, Hub] = {}


@asynccontextmanager
async def _use_hub(database: Database) -> AsyncIterator[Hub]:
    log = await open_log(database)
    hub = _hubs.get(database)
    if hub is None:
        hub = _hubs[database] = Hub(log)
    hub.users += 1
    try:
        yield hub
    finally:
        hub.users -= 1
        if not hub.users:
            del _hubs[database]
            hub.close()


@asynccontextmanager
async def open_sqlite_pubsub(context: ComponentContext) -> AsyncIterator[PubSub]:
    """The component's view of the log in its file."""
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    settings = read_settings(fields, context.state_dir)
    async with context.databases.lease(location(settings.path)) as database, _use_hub(database) as hub:
        pubsub = SqlitePubSub(context.name, settings, hub)
        await pubsub.open_existing()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.tend)
            yield pubsub
            nursery.cancel_scope.cancel()
