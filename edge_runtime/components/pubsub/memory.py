"""pubsub.in-memory: a broker that lasts as long as the block it is opened for.

Each (topic, group) that is subscribed has one queue and hands out one message at a time: the next is held until the
last is acknowledged. A refused message is logged and gone; a message that nobody subscribes to is gone at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import BadMetadata, DriverError, Overloaded
from edge_runtime.model.ports import BulkEntry, Handler, Message, Outcome, PubSub

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

logger: Final = logging.getLogger("dapr.contrib")

QUEUE_DEPTH: Final = 10_000
QUEUE_BYTES: Final = 64 * 2**20


class _Queue:
    """What one group of one topic (or pattern) still has to get."""

    __slots__ = ("busy", "bytes", "entries", "more", "pattern", "prefix", "subscribers")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.prefix = pattern[:-1] if pattern.endswith("*") else None
        self.entries: deque[tuple[bytes, Mapping[str, str]]] = deque()
        self.bytes = 0
        self.busy = trio.Lock()  # held from taking a message until its handler has answered
        self.more = trio.Event()
        self.subscribers = 0

    def wants(self, topic: str) -> bool:
        if self.prefix is None:
            return topic == self.pattern
        return len(topic) > len(self.prefix) and topic.startswith(self.prefix)

    def put(self, data: bytes, metadata: Mapping[str, str]) -> None:
        self.entries.append((data, metadata))
        self.bytes += len(data)
        self.more.set()

    def put_back(self, message: Message) -> None:
        self.entries.appendleft((message.data, message.metadata))
        self.bytes += len(message.data)
        self.more.set()

    async def take(self) -> Message:
        while not self.entries:
            self.more = trio.Event()
            await self.more.wait()
        data, metadata = self.entries.popleft()
        self.bytes -= len(data)
        return Message(self.pattern, data, metadata)


class MemoryPubSub:
    """The broker of one component instance."""

    features = frozenset({"SUBSCRIBE_WILDCARDS"})

    def __init__(self, name: str, queue_depth: int, queue_bytes: int) -> None:
        self._name = name
        self._queue_depth = queue_depth
        self._queue_bytes = queue_bytes
        self._queues: dict[tuple[str, str], _Queue] = {}
        self.published = 0
        self.refused = 0  # publishes that found a queue full
        self.lost = 0  # deliveries that an app refused

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Into the queue of every group that wants it, or into none."""
        if not topic:
            raise BadMetadata("the topic is empty; expected a name")
        takers = [queue for queue in self._queues.values() if queue.wants(topic)]
        for queue in takers:
            self._check_room(queue, topic, len(data))
        for queue in takers:
            queue.put(data, metadata)
        self.published += 1
        await trio.lowlevel.checkpoint()

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> Sequence[Exception | None]:
        results: list[Exception | None] = []
        for entry in entries:
            try:
                await self.publish(topic, entry.data, {**metadata, **entry.metadata})
                results.append(None)
            except DriverError as error:
                results.append(error)
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
        """Deliver until cancelled; what is queued when the group's last subscriber leaves is gone."""
        queue = self._queues.setdefault((topic, group), _Queue(topic))
        queue.subscribers += 1
        try:
            task_status.started()
            while True:
                async with queue.busy:
                    message = await queue.take()
                    try:
                        await self._deliver(message, handler)
                    except BaseException:
                        queue.put_back(message)  # for another subscriber of the group
                        raise
        finally:
            queue.subscribers -= 1
            if not queue.subscribers:
                del self._queues[topic, group]

    async def _deliver(self, message: Message, handler: Handler) -> None:
        if await handler(message) is Outcome.NACK:
            self.lost += 1
            logger.error(
                "pub/sub %s: a message of topic %s was refused by the app and is lost", self._name, message.topic
            )

    def _check_room(self, queue: _Queue, topic: str, size: int) -> None:
        if len(queue.entries) >= self._queue_depth:
            setting = f"queueDepth ({self._queue_depth} messages)"
        elif queue.bytes + size > self._queue_bytes and queue.entries:
            setting = f"queueBytes ({self._queue_bytes} bytes)"
        else:
            return
        self.refused += 1
        raise Overloaded(
            f"pub/sub {self._name}: a subscriber of topic {topic} is too slow and its queue is full; "
            f"the limit is the component's metadata {setting}"
        )


@asynccontextmanager
async def open_memory_pubsub(context: ComponentContext) -> AsyncIterator[PubSub]:
    """A broker that lasts as long as the block it is opened for."""
    fields = Fields(context.metadata, ("queueDepth", "queueBytes"), context.name)
    for line in fields.warnings():
        logger.warning(line)
    yield MemoryPubSub(
        context.name,
        fields.integer("queueDepth", QUEUE_DEPTH, minimum=1),
        fields.size_bytes("queueBytes", QUEUE_BYTES, minimum=1),
    )
