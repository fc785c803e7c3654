"""Publishing: scopes, envelope, policy and count around the driver's `publish`.

The way of an ordinary message is straight: one dictionary look-up for the component, the envelope by joining bytes, the
driver. Everything that a message may have besides (overrides, ttl, raw payload) is looked for only when it came with
metadata.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import trio

from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.config.values import go_bool, go_duration_s
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import BulkEntry, Policy
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.wire import cloudevents

MESSAGE_TTL: Final = "MESSAGE_TTL"
BULK_PUBLISH: Final = "BULK_PUBSUB"
BULK_PARALLEL_MAX: Final = 100

NO_METADATA: Final[Mapping[str, str]] = {}

# Takes an event that goes somewhere else as well, with the metadata of its publish. Raises `DriverError` when it
# cannot; once it returns, the event is durable there.
Forward = Callable[[bytes, Mapping[str, str]], Awaitable[None]]


class ComponentPolicies(Protocol):
    """What this block asks of the resiliency room."""

    def for_component(
        self, name: str, kind: Literal["Pubsub"], direction: Literal["Inbound", "Outbound"]
    ) -> Policy: ...


class Failure(NamedTuple):
    """An entry of a bulk publish that did not reach the broker."""

    entry_id: str
    error: str


class Entry(NamedTuple):
    """An entry of a bulk publish as the app gave it. `metadata` None means that it had none of its own."""

    entry_id: str
    data: bytes
    content_type: str
    metadata: Mapping[str, str] | None = None


def random_id() -> str:
    """A UUID of version 4."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class Publisher:
    """Publish and bulk publish as every API face sees them."""

    def __init__(
        self,
        components: Mapping[str, PubSubBinding],
        app_id: str,
        namespace: str,
        policies: ComponentPolicies,
        metrics: Metrics,
        new_id: Callable[[], str] = random_id,
        now: Callable[[], float] = time.time,
        tracer: Tracer | None = None,
    ) -> None:
        self._components = components  # read anew at each call: a reload may change it
        self._app_id = app_id
        self._namespace = namespace
        self._policies = policies
        self._new_id = new_id
        self._now = now
        self._tracer = tracer or Tracer(None)
        self._stamp = (-1, "")
        self.forwards: Mapping[tuple[str, str], Sequence[Forward]] = {}  # by component and topic
        labels = ("component", "namespace", "success", "topic")
        self._count = metrics.counter("component_pubsub_egress_count", *labels)
        self._latency = metrics.histogram("component_pubsub_egress_latencies", *labels)
        self._bulk_count = metrics.counter("component_pubsub_egress_bulk_count", *labels)
        self._bulk_latency = metrics.histogram("component_pubsub_egress_bulk_latencies", *labels)

    def binding(self, pubsub: str, metadata: Mapping[str, str] = NO_METADATA) -> PubSubBinding:
        """The component, or PUBSUB_NOT_FOUND. Faces ask first, before they read a body."""
        try:
            return self._components[pubsub]
        except KeyError:
            raise EdgeError(Kind.PUBSUB_NOT_FOUND, f"pubsub {pubsub} is not found", metadata=dict(metadata)) from None

    def require(self, pubsub: str, topic: str, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """What a message that names its component and topic itself is checked for, in Dapr's order."""
        if not self._components:
            raise self._refusal(Kind.PUBSUB_NOT_CONFIGURED, pubsub, f"pubsub {pubsub} is not configured")
        if not pubsub:
            raise self._refusal(Kind.PUBSUB_NAME_EMPTY, pubsub, "pubsub name is empty")
        if not topic:
            raise self._refusal(Kind.PUBSUB_TOPIC_EMPTY, pubsub, f"topic is empty in pubsub {pubsub}")
        if pubsub not in self._components:
            raise self._refusal(Kind.PUBSUB_NOT_FOUND, pubsub, f"pubsub {pubsub} is not found")
        if metadata:
            try:
                is_raw(metadata)
            except ValueError as error:
                text = f"failed deserializing metadata. Error: {error}"
                raise self._refusal(Kind.PUBSUB_METADATA, pubsub, text, error) from None

    async def publish(
        self,
        pubsub: str,
        topic: str,
        data: bytes,
        content_type: str = "",
        metadata: Mapping[str, str] = NO_METADATA,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Publish one message; when this returns it is as safe as the broker makes it."""
        binding = self.binding(pubsub, metadata)
        if not (metadata and _is_raw(binding, metadata)):
            data = self._envelope(binding, topic, data, content_type, metadata, trace)
        await self._send(binding, topic, data, metadata)

    async def publish_raw(
        self, pubsub: str, topic: str, data: bytes, metadata: Mapping[str, str] = NO_METADATA
    ) -> None:
        """Publish bytes as they are (dead letters, outbox). Scopes, policy and counts apply as to any publish."""
        await self._send(self.binding(pubsub, metadata), topic, data, metadata)

    async def publish_raw_all(self, pubsub: str, topic: str, entries: Sequence[BulkEntry]) -> list[Failure]:
        """As `publish_raw`, for several at once."""
        binding = self.binding(pubsub)
        self._check_scope(binding, topic)
        return await self._send_all(binding, topic, list(entries), NO_METADATA)

    async def bulk_publish(
        self,
        pubsub: str,
        topic: str,
        entries: Sequence[Entry],
        metadata: Mapping[str, str] = NO_METADATA,
        trace: Trace = NO_TRACE,
    ) -> list[Failure]:
        """Publish every entry, as a span of its own; those that failed. The request's metadata reach entries that have
        some of their own."""
        binding = self.binding(pubsub, metadata)
        raw = bool(metadata) and _is_raw(binding, metadata)
        _check_ids(binding, topic, entries)
        ready = []
        for entry in entries:
            own = NO_METADATA if entry.metadata is None else {**metadata, **entry.metadata}
            data = entry.data
            if not raw:
                span = self._tracer.child(trace)
                data = self._envelope(binding, topic, entry.data, entry.content_type, own, span)
            ready.append(BulkEntry(entry.entry_id, data, own))
        self._check_scope(binding, topic)
        return await self._send_all(binding, topic, ready, metadata)

    # --- the envelope -----------------------------------------------------------------------------------------------

    def _envelope(
        self,
        binding: PubSubBinding,
        topic: str,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        trace: Trace,
    ) -> bytes:
        now = self._now()
        expiration = self._expiration(binding, metadata, now) if metadata else ""
        if content_type and cloudevents.is_cloud_event(content_type):
            try:
                return cloudevents.complete_envelope(
                    data,
                    time=self._local_time(now),
                    topic=topic,
                    pubsub=binding.name,
                    traceparent=trace.traceparent,
                    tracestate=trace.tracestate,
                    expiration=expiration,
                )
            except ValueError as error:
                raise pubsub_error(
                    Kind.PUBSUB_CLOUD_EVENT,
                    binding.name,
                    "cannot create cloudevent",
                    {"appID": self._app_id, "error": str(error)},
                ) from None
        return cloudevents.make_envelope(
            data,
            content_type,
            event_id=self._new_id(),
            time=self._local_time(now),
            source=self._app_id,
            topic=topic,
            pubsub=binding.name,
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
            expiration=expiration,
            overrides=cloudevents.overrides_of(metadata) if metadata else cloudevents.NO_OVERRIDES,
        )

    def _local_time(self, now: float) -> str:
        second = int(now)
        if self._stamp[0] != second:  # the text is the same for a whole second
            self._stamp = (second, cloudevents.rfc3339(second, time.localtime(second).tm_gmtoff))
        return self._stamp[1]

    def _expiration(self, binding: PubSubBinding, metadata: Mapping[str, str], now: float) -> str:
        ttl_s = ttl_of(metadata)
        if ttl_s is None or MESSAGE_TTL in binding.driver.features:
            return ""
        return cloudevents.expiration_time(now, ttl_s)

    # --- sending ----------------------------------------------------------------------------------------------------

    async def _send(self, binding: PubSubBinding, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        self._check_scope(binding, topic)
        policy = self._policies.for_component(binding.name, "Pubsub", "Outbound")
        started = time.monotonic()
        success = "false"
        try:
            if self.forwards:
                await self._forward(binding.name, topic, data, metadata)
            if policy.active:
                await policy.run(lambda: binding.driver.publish(binding.topic_prefix + topic, data, metadata))
            else:
                await binding.driver.publish(binding.topic_prefix + topic, data, metadata)
            success = "true"
        except DriverError as error:
            raise publish_error(binding.name, topic, str(error)) from error
        finally:
            labels = (binding.name, self._namespace, success, topic)
            self._count.add(labels)
            elapsed_ms = int((time.monotonic() - started) * 1000)
            if elapsed_ms:
                self._latency.observe(elapsed_ms, labels)

    async def _send_all(
        self, binding: PubSubBinding, topic: str, entries: list[BulkEntry], metadata: Mapping[str, str]
    ) -> list[Failure]:
        if not entries:
            return []
        policy = self._policies.for_component(binding.name, "Pubsub", "Outbound")
        refused: list[Failure] = []
        if (binding.name, topic) in self.forwards:
            entries, refused = await self._forward_all(binding.name, topic, entries, metadata)
        attempt = _BulkAttempt(binding, topic, entries, metadata)
        started = time.monotonic()
        try:
            if entries:
                await (policy.run(attempt.run) if policy.active else attempt.run())
        except DriverError as error:
            attempt.fail_all(error)
        failures = [*refused, *attempt.failures]
        labels = (binding.name, self._namespace, "false" if failures else "true", topic)
        self._bulk_count.add(labels)
        elapsed_ms = int((time.monotonic() - started) * 1000)
        if elapsed_ms:
            self._bulk_latency.observe(elapsed_ms, labels)
        return failures

    async def _forward(self, pubsub: str, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Before the broker, since who is refused here may not have told anybody; and once, whatever a policy tries."""
        for forward in self.forwards.get((pubsub, topic), ()):
            await forward(data, metadata)

    async def _forward_all(
        self, pubsub: str, topic: str, entries: list[BulkEntry], metadata: Mapping[str, str]
    ) -> tuple[list[BulkEntry], list[Failure]]:
        """To one place after the other: what one has taken comes back in any order, and the next must not see that."""
        errors: dict[str, str] = {}
        for forward in self.forwards.get((pubsub, topic), ()):
            errors |= await _forward_in_order(forward, entries, metadata)
            entries = [entry for entry in entries if entry.entry_id not in errors]
        return entries, [Failure(entry_id, error) for entry_id, error in errors.items()]

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _refusal(self, kind: Kind, pubsub: str, text: str, error: Exception | None = None) -> EdgeError:
        metadata = {"appID": self._app_id} if error is None else {"appID": self._app_id, "error": str(error)}
        return pubsub_error(kind, pubsub, text, metadata)

    def _check_scope(self, binding: PubSubBinding, topic: str) -> None:
        if not binding.scopes.may_publish(topic):
            text = f"topic {topic} is not allowed for app id {self._app_id}"
            raise pubsub_error(Kind.PUBSUB_FORBIDDEN, binding.name, text, {"topic": topic, "error": text})


async def _forward_in_order(
    forward: Forward, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
) -> dict[str, str]:
    """All at once and yet in order: each is on its way before the next one begins. The refusals."""
    errors: dict[str, str] = {}

    async def one(entry: BulkEntry) -> None:
        try:
            await forward(entry.data, {**metadata, **entry.metadata})
        except DriverError as error:
            errors[entry.entry_id] = str(error)

    async with trio.open_nursery() as nursery:
        for entry in entries:
            nursery.start_soon(one, entry)
            # The first may come back before the task has run, the second not.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
    return errors


class _BulkAttempt:
    """What is left of a bulk publish: each run sends only what failed before."""

    def __init__(
        self, binding: PubSubBinding, topic: str, entries: list[BulkEntry], metadata: Mapping[str, str]
    ) -> None:
        self._binding = binding
        self._topic = binding.topic_prefix + topic
        self._metadata = metadata
        self._left = entries
        self.failures: list[Failure] = []

    async def run(self) -> None:
        """Send what is left. Raises the first failure, so that a policy tries again what failed."""
        driver = self._binding.driver
        if BULK_PUBLISH in driver.features:
            errors = await driver.bulk_publish(self._topic, self._left, self._metadata)
        else:
            errors = await self._one_by_one()
        failed = [(entry, error) for entry, error in zip(self._left, errors, strict=True) if error is not None]
        self._left = [entry for entry, _ in failed]
        self.failures = [Failure(entry.entry_id, str(error)) for entry, error in failed]
        if failed:
            error = failed[0][1]
            raise error if isinstance(error, DriverError) else DriverError(str(error))

    def fail_all(self, error: DriverError) -> None:
        """The attempt ended early: what is not known to be published has failed, with its own reason if it has one."""
        if [failure.entry_id for failure in self.failures] != [entry.entry_id for entry in self._left]:
            self.failures = [Failure(entry.entry_id, str(error)) for entry in self._left]

    async def _one_by_one(self) -> list[Exception | None]:
        """For a driver without bulk: in parallel, in no order."""
        errors: list[Exception | None] = [None] * len(self._left)
        places = iter(range(len(self._left)))

        async def worker() -> None:
            for place in places:
                entry = self._left[place]
                try:
                    await self._binding.driver.publish(self._topic, entry.data, {**self._metadata, **entry.metadata})
                except DriverError as error:
                    errors[place] = error

        async with trio.open_nursery() as nursery:
            for _ in range(min(BULK_PARALLEL_MAX, len(self._left))):
                nursery.start_soon(worker)
        return errors


def _is_raw(binding: PubSubBinding, metadata: Mapping[str, str]) -> bool:
    try:
        return is_raw(metadata)
    except ValueError as error:
        text = f"failed deserializing metadata. Error: {error}"
        raise pubsub_error(Kind.PUBSUB_METADATA, binding.name, text, dict(metadata)) from None


def _check_ids(binding: PubSubBinding, topic: str, entries: Sequence[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if not entry.entry_id or entry.entry_id in seen:
            reason = "entryId is duplicated or not present for entry"
            text = f"error marshaling events to bytes for topic {topic} pubsub {binding.name}. error: {reason}"
            raise pubsub_error(Kind.PUBSUB_MARSHAL_EVENTS, binding.name, text, {"topic": topic, "error": reason})
        seen.add(entry.entry_id)


def pubsub_error(kind: Kind, pubsub: str, message: str, metadata: Mapping[str, Any]) -> EdgeError:
    """A rich error about the component `pubsub`."""
    return EdgeError(kind, message, metadata=metadata, resource=("pubsub", pubsub), description=message)


def publish_error(pubsub: str, topic: str, reason: str) -> EdgeError:
    """The broker did not take the message."""
    text = f"error when publishing to topic {topic} in pubsub {pubsub}: {reason}"
    return pubsub_error(Kind.PUBSUB_PUBLISH, pubsub, text, {"topic": topic, "error": reason})


def is_raw(metadata: Mapping[str, str]) -> bool:
    """The flag `rawPayload`, in any case; a strict boolean. Raises ValueError."""
    for key, value in metadata.items():
        if key.lower() == "rawpayload" and value:
            try:
                return go_bool(value)
            except ValueError:
                raise ValueError(f"rawPayload value must be a valid boolean: actual is '{value}'") from None
    return False


def ttl_of(metadata: Mapping[str, str]) -> float | None:
    """`ttl` or `ttlInSeconds` in any case: whole seconds or a Go duration, above zero. What is neither counts not."""
    values = {key.lower(): value for key, value in metadata.items()}
    text = values.get("ttl") or values.get("ttlinseconds") or ""
    try:
        ttl_s = float(int(text)) if text.lstrip("+-").isdecimal() else go_duration_s(text)
    except (ValueError, OverflowError):
        return None
    return ttl_s if ttl_s > 0 else None
