"""Delivery of single events: what is checked first, what the app's answer means, what becomes of the message.

    checks ── invalid, expired, no route ──┐
       └─ the app, under the inbound policy ┴─ case ── ENDINGS ── copy to the dead letters? ── ack or nack

A subscription that is being stopped (`Gate`) lets deliveries in flight finish. What fails then, and what arrives then,
is neither acknowledged nor refused: its handler waits to be cancelled, and the broker delivers the message later.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import trio

from edge_runtime.blocks.pubsub.app import AppDelivery, Event, Verdict
from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.publish import ComponentPolicies, Publisher, is_raw, random_id
from edge_runtime.blocks.pubsub.rules import Routes, RuleError
from edge_runtime.blocks.pubsub.subscriptions import SubscriptionSpec
from edge_runtime.model.errors import DriverError, EdgeError
from edge_runtime.model.ports import Message, Outcome
from edge_runtime.observability.metrics import Metrics
from edge_runtime.wire import cloudevents

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

DEAD_LETTER_LIMIT_S: Final = 30


class Case(enum.Enum):
    """How a delivery ended."""

    DELIVERED = enum.auto()
    DROPPED = enum.auto()
    FAILED = enum.auto()
    INVALID = enum.auto()  # a bad flag, no CloudEvent, or a rule that cannot be evaluated
    EXPIRED = enum.auto()
    NO_ROUTE = enum.auto()


class Copy(enum.Enum):
    """Whether the message goes to the dead-letter topic, if there is one."""

    NO = enum.auto()
    TRY = enum.auto()  # as well as it goes; the message is acknowledged in any case
    MUST = enum.auto()  # acknowledged once it is there, refused when it cannot be put there


class Ending(NamedTuple):
    """`alone` is the outcome where there is no dead-letter topic."""

    alone: Outcome
    copy: Copy


ENDINGS: Final[Mapping[Case, Ending]] = {
    Case.DELIVERED: Ending(Outcome.ACK, Copy.NO),
    Case.DROPPED: Ending(Outcome.ACK, Copy.MUST),
    Case.FAILED: Ending(Outcome.NACK, Copy.MUST),
    Case.INVALID: Ending(Outcome.NACK, Copy.MUST),
    Case.EXPIRED: Ending(Outcome.ACK, Copy.TRY),
    Case.NO_ROUTE: Ending(Outcome.ACK, Copy.TRY),
}
# The labels process_status and status of what ends before the app is called.
_EARLY_STATUS: Final = {
    Case.INVALID: ("retry", ""),
    Case.EXPIRED: ("drop", "success"),
    Case.NO_ROUTE: ("drop", "success"),
}
_VERDICT_STATUS: Final = {
    Verdict.SUCCESS: ("success", ""),
    Verdict.DROP: ("drop", "success"),
    Verdict.MISSING: ("drop", ""),
    Verdict.IGNORED: ("drop", ""),
}
_DONE: Final = frozenset({Verdict.SUCCESS, Verdict.IGNORED})


class Routed(NamedTuple):
    """A message that passed the checks."""

    event: Event
    path: str


class Gate:
    """Counts deliveries in flight, and once closed says when the last of them is over."""

    __slots__ = ("_busy", "_idle", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._busy = 0
        self._idle = trio.Event()

    def enter(self) -> None:
        self._busy += 1

    def leave(self) -> None:
        self._busy -= 1
        if self.closed and not self._busy:
            self._idle.set()

    def close(self) -> None:
        self.closed = True
        if not self._busy:
            self._idle.set()

    async def drained(self) -> None:
        await self._idle.wait()


class IngressMetrics:
    """The counts of events that come in, of one app."""

    def __init__(self, metrics: Metrics, namespace: str) -> None:
        labels = ("component", "namespace", "process_status", "status", "topic")
        bulk_labels = ("component", "namespace", "process_status", "topic")
        self.namespace = namespace
        self.count = metrics.counter("component_pubsub_ingress_count", *labels)
        self.latency = metrics.histogram("component_pubsub_ingress_latencies", *labels)
        self.bulk_count = metrics.counter("component_pubsub_ingress_bulk_count", *bulk_labels)
        self.bulk_event_count = metrics.counter("component_pubsub_ingress_bulk_event_count", *bulk_labels)
        self.bulk_latency = metrics.histogram("component_pubsub_ingress_bulk_latencies", *bulk_labels)


class Tools(NamedTuple):
    """What deliveries of one app share."""

    app: AppDelivery
    publisher: Publisher
    policies: ComponentPolicies
    metrics: IngressMetrics
    new_id: Callable[[], str] = random_id
    now: Callable[[], float] = time.time


class Delivery:
    """One subscription's way from the broker to the app, event by event."""

    def __init__(self, spec: SubscriptionSpec, binding: PubSubBinding, tools: Tools) -> None:
        self.spec = spec
        self.gate = Gate()
        self._binding = binding
        self._tools = tools
        self._routes = Routes(spec.rules)
        self._policy = tools.policies.for_component(spec.pubsub, "Pubsub", "Inbound")
        self._flag_error = ""
        try:
            self._raw = is_raw(spec.metadata)
        except ValueError as error:
            self._raw = False
            self._flag_error = f"subscription metadata: {error}"

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """What has to go on beside the subscription: nothing for single events."""
        task_status.started()

    async def handle(self, message: Message) -> Outcome:
        """The broker's handler."""
        gate = self.gate
        outcome: Outcome | None = None
        if not gate.closed:
            gate.enter()
            try:
                outcome = await self._outcome(message)
            except Exception:  # an error of ours with one message must not end the deliveries of all others
                logger.exception("an event of topic %s on pubsub %s failed", self.spec.topic, self.spec.pubsub)
                outcome = None if gate.closed else Outcome.NACK
            finally:
                gate.leave()
        if outcome is None:
            await trio.sleep_forever()  # the subscription is about to be cancelled
        return outcome

    async def _outcome(self, message: Message) -> Outcome | None:
        checked = self._check(message)
        if isinstance(checked, Case):
            self._count(_EARLY_STATUS[checked], 0)
            return await self._end(checked, message)
        case = await self._deliver(checked)
        return Outcome.ACK if case is Case.DELIVERED else await self._end(case, message)

    # --- checks ---------------------------------------------------------------------------------------------------

    def _topic(self, message: Message) -> str:
        return message.topic.removeprefix(self._binding.topic_prefix) if self._binding.topic_prefix else message.topic

    def _check(self, message: Message) -> Routed | Case:
        """The event and its path, or how the delivery has ended already."""
        if self._flag_error:
            return self._invalid(self._flag_error)
        data = message.data
        if self._raw:
            data = self._wrapped(message)
        event: Mapping[str, Any] = {}
        try:
            if not self._raw and message.metadata and is_binary(message.metadata):
                event = cloudevents.binary_event(data, message.metadata)
                head = cloudevents.head_of(event)
            elif self._routes.needs_event:
                event = cloudevents.read_event(data)
                head = cloudevents.head_of(event)
            else:
                head = cloudevents.read_head(data)
            if cloudevents.has_expired(head.expiration, self._tools.now()):
                return Case.EXPIRED
            path = self._routes.always
            if path is None:
                path = self._routes.path_of(event)
        except (ValueError, RuleError) as error:
            return self._invalid(str(error))
        if path is None:
            return Case.NO_ROUTE
        return Routed(
            Event(
                self.spec.pubsub,
                self._topic(message),
                data,
                message.metadata,
                _text(head.traceparent) or _text(head.traceid),
                _text(head.tracestate),
                self._raw,
            ),
            path,
        )

    def _wrapped(self, message: Message) -> bytes:
        return cloudevents.raw_envelope(
            message.data,
            event_id=self._tools.new_id(),
            topic=self._topic(message),
            pubsub=self.spec.pubsub,
            metadata=message.metadata,
        )

    def _invalid(self, reason: str) -> Case:
        logger.error("an event of topic %s on pubsub %s: %s", self.spec.topic, self.spec.pubsub, reason)
        return Case.INVALID

    # --- the app --------------------------------------------------------------------------------------------------

    async def _deliver(self, routed: Routed) -> Case:
        try:
            if self._policy.active:
                verdict = await self._policy.run(lambda: self._attempt(routed))
            else:
                verdict = await self._attempt(routed)
        except DriverError as error:
            logger.warning("an event of topic %s on pubsub %s: %s", self.spec.topic, self.spec.pubsub, error)
            return Case.FAILED
        return Case.DELIVERED if verdict in _DONE else Case.DROPPED

    async def _attempt(self, routed: Routed) -> Verdict:
        started = time.monotonic()
        status = ("retry", "")
        try:
            verdict = await self._tools.app.deliver(routed.event, routed.path)
            status = _VERDICT_STATUS[verdict]
            return verdict
        finally:
            self._count(status, int((time.monotonic() - started) * 1000))

    def _count(self, status: tuple[str, str], elapsed_ms: int) -> None:
        metrics = self._tools.metrics
        labels = (self.spec.pubsub, metrics.namespace, *status, self.spec.topic)
        metrics.count.add(labels)
        if elapsed_ms:
            metrics.latency.observe(elapsed_ms, labels)

    # --- the end --------------------------------------------------------------------------------------------------

    async def _end(self, case: Case, message: Message) -> Outcome | None:
        """Ack, nack, or None for neither: a failure while the subscription is being stopped."""
        ending = ENDINGS[case]
        if self.gate.closed and ending.alone is Outcome.NACK:
            return None
        if ending.copy is Copy.NO or not self.spec.dead_letter_topic:
            return ending.alone
        copied = await self._dead_letter(message)
        return Outcome.ACK if copied or ending.copy is Copy.TRY else Outcome.NACK

    async def _dead_letter(self, message: Message) -> bool:
        spec = self.spec
        reason = f"no answer within {DEAD_LETTER_LIMIT_S} s"
        with trio.move_on_after(DEAD_LETTER_LIMIT_S):
            try:
                await self._tools.publisher.publish_raw(
                    spec.pubsub, spec.dead_letter_topic, message.data, message.metadata
                )
                return True
            except EdgeError as error:
                reason = error.message
        logger.error("dead-letter topic %s on pubsub %s: %s", spec.dead_letter_topic, spec.pubsub, reason)
        return False


def is_binary(metadata: Mapping[str, str]) -> bool:
    """True for a CloudEvent in binary mode: its attributes travel beside the bytes."""
    for key, value in metadata.items():
        if key.lower() == "content-type":
            return cloudevents.media_type(value) == cloudevents.OCTET_STREAM
    return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
