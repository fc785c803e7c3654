"""Bulk delivery: messages gathered into batches, one call to the app for each path, an outcome for each message.

A batch is handed over when it has `count_max` messages or `await_max_ms` after its first, and the next one fills while
it is on its way. Each message's handler waits for the outcome, so that the broker's own limit on messages in flight
limits what is gathered here.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import trio

from edge_runtime.blocks.pubsub.app import Batch, BulkEvent, DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.delivery import (
    DEAD_LETTER_LIMIT_S,
    ENDINGS,
    Case,
    Copy,
    Delivery,
    Routed,
    Tools,
    is_binary,
)
from edge_runtime.blocks.pubsub.rules import RuleError
from edge_runtime.blocks.pubsub.subscriptions import SubscriptionSpec
from edge_runtime.model.errors import DriverError, EdgeError
from edge_runtime.model.ports import BulkEntry, Message, Outcome
from edge_runtime.wire.cloudevents import CLOUD_EVENT, OCTET_STREAM, binary_event

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

IMMEDIATE: Final = "BULK_SUBSCRIBE_IMMEDIATE"
_EVENT_STATUS: Final = {
    Verdict.SUCCESS: "success",
    Verdict.DROP: "drop",
    Verdict.MISSING: "drop",
    Verdict.IGNORED: "drop",
}


class _Slot:
    """A message in a batch and the outcome that its handler waits for; None is neither ack nor nack."""

    __slots__ = ("done", "entry_id", "message", "outcome")

    def __init__(self, message: Message, entry_id: str) -> None:
        self.message = message
        self.entry_id = entry_id
        self.outcome: Outcome | None = None
        self.done = trio.Event()

    def settle(self, outcome: Outcome | None) -> None:
        self.outcome = outcome
        self.done.set()


class BulkDelivery(Delivery):
    """One subscription's way from the broker to the app, batch by batch."""

    def __init__(self, spec: SubscriptionSpec, binding: PubSubBinding, tools: Tools) -> None:
        super().__init__(spec, binding, tools)
        self._count_max = 1 if IMMEDIATE in binding.driver.features else spec.bulk.count_max
        self._waiting: list[_Slot] = []
        self._first = trio.Event()
        self._full = trio.Event()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Hand batches over until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await self._first.wait()
                with trio.move_on_after(self.spec.bulk.await_max_ms / 1000):
                    await self._full.wait()
                nursery.start_soon(self._flush, self._take())

    def _take(self) -> list[_Slot]:
        batch, self._waiting = self._waiting[: self._count_max], self._waiting[self._count_max :]
        if not self._waiting:
            self._first = trio.Event()
        if len(self._waiting) < self._count_max:
            self._full = trio.Event()
        return batch

    async def _outcome(self, message: Message) -> Outcome | None:
        slot = _Slot(message, self._tools.new_id())
        self._waiting.append(slot)
        self._first.set()
        if len(self._waiting) >= self._count_max:
            self._full.set()
        try:
            await slot.done.wait()
        except trio.Cancelled:
            if slot in self._waiting:
                self._waiting.remove(slot)
            raise
        return slot.outcome

    async def _flush(self, slots: list[_Slot]) -> None:
        groups: dict[str, dict[str, tuple[_Slot, BulkEvent]]] = {}
        for slot in slots:
            checked = self._check(slot.message)
            if isinstance(checked, Case):
                self._count_events("retry" if checked is Case.INVALID else "drop", 1)
                slot.settle(await self._end(checked, slot.message))
            else:
                groups.setdefault(checked.path, {})[slot.entry_id] = (slot, self._entry(slot, checked))
        for path, group in groups.items():
            await self._deliver_group(path, group)

    def _entry(self, slot: _Slot, routed: Routed) -> BulkEvent:
        metadata = slot.message.metadata
        event = routed.event.data
        if not self._raw and metadata and is_binary(metadata):
            event = msgspec.json.encode(binary_event(event, metadata))
        elif not event.isascii():  # one event that is no UTF-8 must not make the batch unreadable
            event = event.decode("utf-8", "replace").encode()
        return BulkEvent(slot.entry_id, event, OCTET_STREAM if self._raw else CLOUD_EVENT, metadata)

    def _check(self, message: Message) -> Routed | Case:
        """As for a single event; but a raw payload stays raw, and a rule sees its text."""
        if not self._raw or self._flag_error:
            return super()._check(message)
        try:
            path = self._routes.path_of(message.data.decode("utf-8", "replace"))
        except RuleError as error:
            return self._invalid(str(error))
        if path is None:
            return Case.NO_ROUTE
        encoded = b'"%b"' % base64.b64encode(message.data)
        return Routed(Event(self.spec.pubsub, self._topic(message), encoded, message.metadata, raw=True), path)

    # --- one path -------------------------------------------------------------------------------------------------

    async def _deliver_group(self, path: str, group: dict[str, tuple[_Slot, BulkEvent]]) -> None:
        left = {entry_id: event for entry_id, (_, event) in group.items()}
        dropped: list[_Slot] = []

        async def attempt() -> None:
            for entry_id, verdict in (await self._send(path, list(left.values()))).items():
                del left[entry_id]
                slot = group[entry_id][0]
                if verdict is Verdict.DROP:
                    dropped.append(slot)
                else:
                    slot.settle(Outcome.ACK)
            if left:
                raise DeliveryFailed(f"{len(left)} of {len(group)} events of topic {self.spec.topic} failed")

        try:
            await (self._policy.run(attempt) if self._policy.active else attempt())
        except DriverError as error:
            logger.warning("a batch of topic %s on pubsub %s: %s", self.spec.topic, self.spec.pubsub, error)
        await self._end_all(Case.DROPPED, dropped)
        await self._end_all(Case.FAILED, [group[entry_id][0] for entry_id in left])

    async def _send(self, path: str, events: Sequence[BulkEvent]) -> dict[str, Verdict]:
        batch = Batch(self._tools.new_id(), self.spec.pubsub, self.spec.topic, events)
        metrics = self._tools.metrics
        labels = (self.spec.pubsub, metrics.namespace, "", self.spec.topic)
        started = time.monotonic()
        verdicts: dict[str, Verdict] = {}
        try:
            verdicts = dict(await self._tools.app.deliver_bulk(batch, path))
            return verdicts
        finally:
            metrics.bulk_count.add(labels)
            for verdict in verdicts.values():
                self._count_events(_EVENT_STATUS[verdict], 1)
            self._count_events("retry", len(events) - len(verdicts))
            if elapsed_ms := int((time.monotonic() - started) * 1000):
                metrics.bulk_latency.observe(elapsed_ms, labels)

    def _count_events(self, status: str, count: int) -> None:
        if count:
            metrics = self._tools.metrics
            metrics.bulk_event_count.add((self.spec.pubsub, metrics.namespace, status, self.spec.topic), count)

    async def _end_all(self, case: Case, slots: Sequence[_Slot]) -> None:
        """The same ending for several messages, with one bulk publish to the dead letters."""
        ending = ENDINGS[case]
        if not slots:
            return
        if self.gate.closed and ending.alone is Outcome.NACK:
            lost: set[str] = set()
            outcome: Outcome | None = None
        elif ending.copy is Copy.NO or not self.spec.dead_letter_topic:
            lost, outcome = set(), ending.alone
        else:
            lost, outcome = await self._dead_letter_all(slots), Outcome.ACK
        for slot in slots:
            slot.settle(Outcome.NACK if slot.entry_id in lost else outcome)

    async def _dead_letter_all(self, slots: Sequence[_Slot]) -> set[str]:
        """The ids of those that could not be put there."""
        spec = self.spec
        entries = [BulkEntry(slot.entry_id, slot.message.data, slot.message.metadata) for slot in slots]
        reason = f"no answer within {DEAD_LETTER_LIMIT_S} s"
        with trio.move_on_after(DEAD_LETTER_LIMIT_S):
            try:
                failures = await self._tools.publisher.publish_raw_all(spec.pubsub, spec.dead_letter_topic, entries)
                for failure in failures:
                    logger.error(
                        "dead-letter topic %s on pubsub %s: %s", spec.dead_letter_topic, spec.pubsub, failure.error
                    )
                return {failure.entry_id for failure in failures}
            except EdgeError as error:
                reason = error.message
        logger.error("dead-letter topic %s on pubsub %s: %s", spec.dead_letter_topic, spec.pubsub, reason)
        return {slot.entry_id for slot in slots}
