"""All subscriptions of one app: found once, run while the app is healthy, changed when the files change.

One task (`run`) compares what should run with what runs and mends the difference; `pause`, `resume`,
`replace_declarative` and `rebind` only change the wish and wake it. What a wish does not touch goes on undisturbed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import trio

from edge_runtime.blocks.pubsub.app import AppDelivery, HttpAppDelivery
from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.bulk import BulkDelivery
from edge_runtime.blocks.pubsub.delivery import Delivery, IngressMetrics, Tools
from edge_runtime.blocks.pubsub.publish import Publisher, random_id
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import DiscoveryError, SubscriptionSpec, merge, read_programmatic
from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Request
from edge_runtime.model.ports import AppChannel, Policy
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

DRAIN_LIMIT_S: Final = 30
FIRST_ATTEMPT_LIMIT_S: Final = 5  # how long a start waits for brokers before it says that it is ready
BACK_OFF_FIRST_S: Final = 0.5
BACK_OFF_FACTOR: Final = 1.5
BACK_OFF_MAX_S: Final = 60.0
DISCOVERY_BYTES_MAX: Final = 4 * 2**20
DISCOVERY_POLICY: Final = "DaprBuiltInInitializationRetries"


class Policies(Protocol):
    """What this block asks of the resiliency room."""

    def for_component(
        self, name: str, kind: Literal["Pubsub"], direction: Literal["Inbound", "Outbound"]
    ) -> Policy: ...

    def builtin(self, name: str) -> Policy: ...


class Subscriber:
    """Finds out what an app subscribes to and delivers it."""

    def __init__(
        self,
        bindings: Mapping[str, PubSubBinding],
        app_id: str,
        namespace: str,
        channel: AppChannel | None,
        policies: Policies,
        publisher: Publisher,
        metrics: Metrics,
        declarative: Iterable[SubscriptionSpec] = (),
        *,
        app: AppDelivery | None = None,
        discovery: bool = True,
        tracer: Tracer | None = None,
        new_id: Callable[[], str] = random_id,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Without a channel (an app that has no port) nothing is delivered. `app` is for apps that are not HTTP."""
        self._bindings = bindings
        self._app_id = app_id
        self._channel = channel
        self._policies = policies
        self._discovery = discovery
        self._declarative = tuple(declarative)
        self._programmatic: Sequence[SubscriptionSpec] = ()
        delivery = app if app is not None or channel is None else HttpAppDelivery(channel, tracer)
        self._tools = (
            None
            if delivery is None
            else Tools(delivery, publisher, policies, IngressMetrics(metrics, namespace), new_id, now)
        )
        self._discovered = False
        self._refused = False  # discovery failed: nothing runs until the next resume
        self._paused = False
        self._running: dict[tuple[str, str], _Running] = {}
        self._wake = trio.Event()

    # --- what should run ------------------------------------------------------------------------------------------

    async def discover(self) -> None:
        """Ask the app, once, and let the subscriptions start. A failure is logged and stops all of this round."""
        if self._discovered:
            return
        if self._channel is not None and self._discovery and self._bindings:
            try:
                self._programmatic = await self._ask(self._channel)
            except (DiscoveryError, DriverError) as error:
                logger.error("no subscription of app %s starts: %s", self._app_id, error)
                self._refused = True
        self._discovered = True
        self._wake.set()

    async def _ask(self, channel: AppChannel) -> Sequence[SubscriptionSpec]:
        status, body = await self._policies.builtin(DISCOVERY_POLICY).run(lambda: self._get_subscribe(channel))
        if status == 200:
            return read_programmatic(body)
        if status != 404:
            logger.error("GET /dapr/subscribe: the app answered %s; expected 200 or 404. No subscriptions", status)
        return ()

    async def _get_subscribe(self, channel: AppChannel) -> tuple[int, bytes]:
        headers = ((b"content-type", b"application/json"), (b"dapr-app-id", self._app_id.encode()))
        response = await channel.send(Request("GET", b"/dapr/subscribe", headers))
        try:
            return response.status, await response.body.read(DISCOVERY_BYTES_MAX)
        except BodyTooLarge:
            raise DiscoveryError(
                f"the app's answer to GET /dapr/subscribe passes {DISCOVERY_BYTES_MAX} bytes"
            ) from None
        finally:
            await response.body.aclose()

    def pause(self) -> None:
        """The app is unhealthy: deliveries in flight finish, then nothing is subscribed."""
        self._paused = True
        self._wake.set()

    def resume(self) -> None:
        """The app is healthy again. Discovery is not repeated."""
        self._paused = False
        self._refused = False
        self._wake.set()

    def replace_declarative(self, specs: Iterable[SubscriptionSpec]) -> None:
        """The files changed. Subscriptions that did not change go on."""
        self._declarative = tuple(specs)
        self._wake.set()

    def rebind(self) -> None:
        """The components changed: what ran on one that is gone or another now is started anew."""
        self._wake.set()

    def wanted(self) -> list[SubscriptionSpec]:
        """Every subscription of the app, by precedence, whether it runs now or not."""
        return merge(self._declarative, self._programmatic, self._app_id)

    def active(self) -> list[dict[str, Any]]:
        """The rows of the metadata API: all that is subscribed to, also while the app's health holds it up."""
        return [_row(spec) for spec in self.wanted()]

    # --- what runs ------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run the subscriptions until cancelled; then let deliveries in flight finish, within the drain limit.

        `task_status.started()` is said when every subscription of the first round has been tried once.
        """
        done = trio.CancelScope(shield=True)  # deliveries outlast the cancellation of this task
        async with trio.open_nursery() as outer:
            with trio.CancelScope(shield=True):  # at once; cancelled here, nobody would be left to end the shielded one
                nursery = await outer.start(_open_nursery, done)
            try:
                started = False
                while True:
                    self._wake = trio.Event()
                    await self._mend(nursery)
                    if not started:
                        task_status.started()
                        started = True
                    await self._wake.wait()
            finally:
                with trio.CancelScope(shield=True):  # bounded by the drain limit within
                    await _stop_all(self._running.values())
                self._running.clear()
                done.cancel()

    async def _mend(self, nursery: trio.Nursery) -> None:
        wanted = {(spec.pubsub, spec.topic): spec for spec in self._runnable()}
        ending = {
            key: running
            for key, running in self._running.items()
            if wanted.get(key) != running.spec or self._bindings.get(running.spec.pubsub) != running.binding
        }
        await _stop_all(ending.values())
        for key in ending:  # only now: cancelled on the way, `run` still has to stop them
            del self._running[key]
        fresh = [spec for key, spec in wanted.items() if key not in self._running]
        started = [running for spec in fresh if (running := self._start(spec, nursery)) is not None]
        with trio.move_on_after(FIRST_ATTEMPT_LIMIT_S):
            for running in started:
                await running.tried.wait()

    def _runnable(self) -> list[SubscriptionSpec]:
        if self._tools is None or not self._discovered or self._refused or self._paused:
            return []
        return self.wanted()

    def _start(self, spec: SubscriptionSpec, nursery: trio.Nursery) -> _Running | None:
        binding = self._bindings.get(spec.pubsub)
        if binding is None:
            logger.error("subscription to topic %s: there is no pub/sub component %r", spec.topic, spec.pubsub)
            return None
        assert self._tools is not None
        delivery = (BulkDelivery if spec.bulk.enabled else Delivery)(spec, binding, self._tools)
        running = self._running[spec.pubsub, spec.topic] = _Running(spec, binding, delivery)
        nursery.start_soon(running.run)
        logger.info("app %s subscribes to topic %s on pubsub %s", self._app_id, spec.topic, spec.pubsub)
        return running


async def _open_nursery(scope: trio.CancelScope, *, task_status: Any) -> None:
    """A nursery that lives until `scope` is cancelled."""
    with scope:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def _stop_all(subscriptions: Iterable[_Running]) -> None:
    """Close them all at once, wait for what is in flight, then cancel."""
    stopping = list(subscriptions)
    for running in stopping:
        running.delivery.gate.close()
    if stopping:
        logger.info("stopping subscriptions: %d, to topics %s", len(stopping), _topics(stopping))
    with trio.move_on_after(DRAIN_LIMIT_S):
        for running in stopping:
            await running.delivery.gate.drained()
    for running in stopping:
        running.scope.cancel()


def _topics(subscriptions: Iterable[_Running]) -> str:
    return ", ".join(running.spec.topic for running in subscriptions)


class _Running:
    """One subscription and its task, which tries again for ever."""

    def __init__(self, spec: SubscriptionSpec, binding: PubSubBinding, delivery: Delivery) -> None:
        self.spec = spec
        self.binding = binding
        self.delivery = delivery
        self.scope = trio.CancelScope()
        self.tried = trio.Event()
        self._delay_s = BACK_OFF_FIRST_S

    def started(self, value: object = None) -> None:
        """The driver's word that messages can arrive; this object is its `task_status`."""
        self._delay_s = BACK_OFF_FIRST_S
        self.tried.set()

    async def run(self) -> None:
        with self.scope:
            while True:
                # A supervised service: whatever a driver raises, the subscription is tried again.
                reason = "the broker ended it"
                try:
                    await self._subscribe()
                except* Exception as errors:
                    reason = _reason_of(errors)
                self.tried.set()
                logger.error(
                    "subscription to topic %s on pubsub %s: %s; next attempt in %.1f s",
                    self.spec.topic,
                    self.spec.pubsub,
                    reason,
                    self._delay_s,
                )
                await trio.sleep(self._delay_s)
                self._delay_s = min(self._delay_s * BACK_OFF_FACTOR, BACK_OFF_MAX_S)

    async def _subscribe(self) -> None:
        spec, binding = self.spec, self.binding
        if not binding.scopes.may_subscribe(spec.topic):
            raise DriverError(f"the scopes of the component do not allow this app to subscribe to topic {spec.topic}")
        async with trio.open_nursery() as nursery:
            await nursery.start(self.delivery.run)
            await binding.driver.subscribe(
                binding.topic_prefix + spec.topic,
                binding.consumer_group,
                _driver_metadata(spec),
                self.delivery.handle,
                task_status=self,
            )
            nursery.cancel_scope.cancel()


def _driver_metadata(spec: SubscriptionSpec) -> Mapping[str, str]:
    """What the driver is told. A batch can only fill when as many messages as it takes may be under way at once."""
    if not spec.bulk.enabled:
        return spec.metadata
    return {"concurrency": str(spec.bulk.count_max), **spec.metadata}


def _reason_of(error: Exception) -> str:
    """The first reason in what a nursery raised."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, DriverError) else repr(error)


def _row(spec: SubscriptionSpec) -> dict[str, Any]:
    row: dict[str, Any] = {"pubsubname": spec.pubsub, "topic": spec.topic}
    if spec.metadata:
        row["metadata"] = dict(spec.metadata)
    if spec.rules:
        row["rules"] = [_rule_row(rule) for rule in spec.rules]
    return {**row, "deadLetterTopic": spec.dead_letter_topic, "type": spec.kind.value}


def _rule_row(rule: Rule) -> dict[str, str]:
    return {"match": rule.match, "path": rule.path} if rule.match else {"path": rule.path}
