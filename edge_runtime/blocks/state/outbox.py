"""The transactional outbox: a state transaction and the events about it happen both or not at all.

Before the transaction each event goes to an internal topic; the transaction carries a marker key per event. Whoever
receives an internal event looks for its marker: found, the event is published for good and the marker removed; not
found, the transaction never came to be. A crash anywhere in between repeats an event; it neither loses nor invents one.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import trio

from edge_runtime.blocks.state.binding import BoundStore, OutboxSettings
from edge_runtime.blocks.state.requests import NO_METADATA, Operation, SaveItem
from edge_runtime.config.values import truthy
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import DeleteRequest, Handler, Message, Outcome, SetRequest
from edge_runtime.model.trace import Trace
from edge_runtime.wire.exact_json import NotJson, compact, decode

logger = logging.getLogger("dapr.outbox")

_PROJECTION: Final = "outbox.projection"
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
# Between looks at the store. The first come quickly: the event is here before its transaction is on disk, but not by
# much. All span 9 s, about as long as Dapr waits.
_WAITS_S: Final = (0.01, 0.04, 0.2, 0.75, 2.0, 3.0, 3.0)
_WITHDRAWN_MAX: Final = 1024
_RESUBSCRIBE_MIN_S: Final = 1.0
_RESUBSCRIBE_MAX_S: Final = 60.0

_encode = msgspec.json.Encoder(order="sorted").encode


class OutboxPort(Protocol):
    """What the outbox needs of publish and subscribe: bytes in, bytes out, no envelope made or opened."""

    async def publish_raw(self, pubsub: str, topic: str, data: bytes, metadata: Mapping[str, str]) -> None: ...
    async def subscribe_internal(self, pubsub: str, topic: str, handler: Handler, *, task_status: Any) -> None:
        """Deliver until cancelled; `task_status.started()` once messages can arrive."""


class Staged(NamedTuple):
    """A transaction made ready: what is stored of it, and the events by their marker keys."""

    operations: Sequence[Operation]
    events: Mapping[str, bytes]

    @property
    def markers(self) -> list[SetRequest]:
        """What the transaction must carry. Markers have no key prefix: they are the node's, not the app's."""
        return [SetRequest(marker, b"0") for marker in self.events]


class Source(NamedTuple):
    """Where an event comes from and when."""

    app_id: str
    pubsub: str
    time: str
    trace: Trace


def stage(operations: Sequence[Operation], source: Source, new_marker: Callable[[], str]) -> Staged:
    """Tell what is stored from what is only published, and write an event for each upsert."""
    projections = {op.item.key: op.item for op in operations if _is_projection(op)}
    kept = [op for op in operations if not _is_projection(op)]
    events = {
        new_marker(): _event_of(op.item, projections.get(op.item.key), source)
        for op in kept
        if op.operation == "upsert"
    }
    return Staged(kept, {marker: _encode(event | {"id": marker}) for marker, event in events.items()})


def _is_projection(op: Operation) -> bool:
    return op.operation == "upsert" and truthy(op.item.metadata.get(_PROJECTION, ""))


def _event_of(item: SaveItem, projection: SaveItem | None, source: Source) -> dict[str, Any]:
    shown = item if projection is None else projection
    content_type, data = _payload(_content_type(shown) or _content_type(item), shown.value)
    event: dict[str, Any] = {
        "specversion": "1.0",
        "source": source.app_id,
        "type": "com.dapr.event.sent",
        "time": source.time,
        "pubsubname": source.pubsub,
        "topic": "",
        "datacontenttype": content_type,
        "traceid": source.trace.traceparent,
        "traceparent": source.trace.traceparent,
        "tracestate": source.trace.tracestate,
        "data": data,
    }
    for metadata in (item.metadata, projection.metadata if projection else NO_METADATA):
        event.update((name, value) for name, value in metadata.items() if name not in ("data", "id", _PROJECTION))
    return event


def _content_type(item: SaveItem) -> str:
    return item.content_type or item.metadata.get("contentType", "") or item.metadata.get("datacontenttype", "")


def _payload(content_type: str, value: bytes) -> tuple[str, Any]:
    """The content type and `data`. Objects and lists are JSON whatever they are called, a plain string is its text."""
    is_json = content_type.partition(";")[0].strip().lower() == _JSON
    try:
        exact = compact(value)
    except NotJson:
        return content_type or _TEXT, value.decode(errors="replace")
    if is_json or (not content_type and exact[:1] in b"{["):
        return content_type or _JSON, msgspec.Raw(exact)
    return content_type or _TEXT, decode(exact, str) if exact[:1] == b'"' else exact.decode(errors="replace")


class _Once:
    """Says ready the first time only: a subscription that starts anew says it again."""

    def __init__(self, task_status: Any) -> None:
        self._task_status = task_status

    def started(self) -> None:
        if self._task_status is not None:
            self._task_status.started()
            self._task_status = None


class Outbox:
    """The outboxes of one app's stores."""

    def __init__(self, stores: Mapping[str, BoundStore], app_id: str, namespace: str, port: OutboxPort) -> None:
        self._stores = [(bound, bound.outbox) for bound in stores.values() if bound.outbox is not None]
        self._app_id = app_id
        self._namespace = namespace
        self._port = port
        self._withdrawn: OrderedDict[str, None] = OrderedDict()

    def stage(self, settings: OutboxSettings, operations: Sequence[Operation], trace: Trace) -> Staged:
        now = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return stage(operations, Source(self._app_id, settings.pubsub, now, trace), lambda: f"outbox-{uuid.uuid4()}")

    async def publish(self, settings: OutboxSettings, staged: Staged) -> None:
        """Bring the events to safety, before the transaction. Raises EdgeError."""
        topic = self._internal_topic(settings)
        for event in staged.events.values():
            try:
                await self._port.publish_raw(settings.pubsub, topic, event, NO_METADATA)
            except (DriverError, EdgeError) as error:
                self.withdraw(staged)
                raise EdgeError(
                    Kind.OUTBOX_PUBLISH,
                    f"error while publishing outbox message: {error}",
                    metadata={"appID": self._app_id, "error": str(error)},
                ) from error
            except BaseException:
                self.withdraw(staged)  # the caller left, so the transaction is not even tried
                raise

    def withdraw(self, staged: Staged) -> None:
        """The transaction surely was refused: its events need not wait for markers that cannot come."""
        for marker in staged.events:
            self._withdrawn[marker] = None
        while len(self._withdrawn) > _WITHDRAWN_MAX:
            self._withdrawn.popitem(last=False)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Publish what the internal topics bring, until cancelled."""
        async with trio.open_nursery() as nursery:
            for bound, settings in self._stores:
                await nursery.start(self._subscribe, bound, settings)
            task_status.started()

    async def _subscribe(self, bound: BoundStore, settings: OutboxSettings, *, task_status: Any) -> None:
        async def handle(message: Message) -> Outcome:
            return await self._deliver(bound, settings, message)

        ready = _Once(task_status)
        wait_s = _RESUBSCRIBE_MIN_S
        while True:
            try:
                await self._port.subscribe_internal(
                    settings.pubsub, self._internal_topic(settings), handle, task_status=ready
                )
            except (DriverError, EdgeError) as error:
                logger.error(
                    "Outbox of state store %s: pub/sub %s cannot be subscribed to, trying again in %g s: %s",
                    bound.name,
                    settings.pubsub,
                    wait_s,
                    error,
                )
            ready.started()
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RESUBSCRIBE_MAX_S)

    def _internal_topic(self, settings: OutboxSettings) -> str:
        return f"{self._namespace}{self._app_id}{settings.publish_topic}outbox"

    async def _deliver(self, bound: BoundStore, settings: OutboxSettings, message: Message) -> Outcome:
        try:
            event = decode(message.data, dict[str, msgspec.Raw])
            marker = decode(event.get("id", b"null"), str)
        except NotJson as error:
            logger.error("Outbox of state store %s: dropping a message that is no event of ours: %s", bound.name, error)
            return Outcome.ACK
        if self._withdrawn.pop(marker, self) is None:
            return Outcome.ACK
        try:
            if not await _wait_for_marker(bound, marker):
                return self._without_marker(bound, settings, marker)
            event["topic"] = msgspec.Raw(_encode(settings.publish_topic))
            event["pubsubname"] = msgspec.Raw(_encode(settings.publish_pubsub))
            await self._port.publish_raw(settings.publish_pubsub, settings.publish_topic, _encode(event), NO_METADATA)
            await bound.store.delete(DeleteRequest(marker))
        except (DriverError, EdgeError) as error:
            logger.error("Outbox of state store %s: event %s will be tried again: %s", bound.name, marker, error)
            return Outcome.NACK
        return Outcome.ACK

    @staticmethod
    def _without_marker(bound: BoundStore, settings: OutboxSettings, marker: str) -> Outcome:
        if settings.discard:
            logger.warning("Outbox of state store %s: no transaction came for %s, dropped", bound.name, marker)
            return Outcome.ACK
        logger.error("Outbox of state store %s: no transaction came for %s", bound.name, marker)
        return Outcome.NACK


async def _wait_for_marker(bound: BoundStore, marker: str) -> bool:
    for wait_s in _WAITS_S:
        if await bound.store.get(marker) is not None:
            return True
        await trio.sleep(wait_s)
    return await bound.store.get(marker) is not None
