"""All subscriptions of one app: found once, run while the app is healthy, changed when the files change.

One task (`run`) compares what should run with what runs and mends the difference; `pause`, `resume`,
`replace_declarative` and `rebind` only change the wish and wake it. What a wish does not touch goes on undisturbed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, runtime_checkable

import trio

from edge_runtime.blocks.pubsub.app import AppDelivery, HttpAppDelivery
from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.bulk import BulkDelivery
from edge_runtime.blocks.pubsub.delivery import Delivery, IngressMetrics, Tools
from edge_runtime.blocks.pubsub.publish import Publisher, random_id
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.running import Running, stop_all
from edge_runtime.blocks.pubsub.subscriptions import DiscoveryError, SubscriptionSpec, merge, read_programmatic
from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Request
from edge_runtime.model.ports import AppChannel, Policy
from edge_runtime.net.lifetimes import hold_nursery
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

FIRST_ATTEMPT_LIMIT_S: Final = 5  # how long a start waits for brokers before it says that it is ready
DISCOVERY_BYTES_MAX: Final = 4 * 2**20
DISCOVERY_POLICY: Final = "DaprBuiltInInitializationRetries"


class Policies(Protocol):
    """What this block asks of the resiliency room."""

    def for_component(
        self, name: str, kind: Literal["Pubsub"], direction: Literal["Inbound", "Outbound"]
    ) -> Policy: ...

    def builtin(self, name: str) -> Policy: ...


@runtime_checkable
class Lister(Protocol):
    """A kind of app that has a call of its own for what it subscribes to."""

    async def list_subscriptions(self) -> Sequence[SubscriptionSpec]:
        """Raises `DriverError` when it may be asked again, `DiscoveryError` when its answer cannot be used."""


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
        """Without a channel (an app that has no port) nothing is delivered. `app` is for apps that are not HTTP; one
        that can list its subscriptions is asked for them whenever it becomes healthy."""
        self._bindings = bindings
        self._app_id = app_id
        self._channel = channel
        self._policies = policies
        self._discovery = discovery
        self._lister = app if isinstance(app, Lister) else None
        self._declarative = tuple(declarative)
        self._programmatic: Sequence[SubscriptionSpec] = ()
        delivery = app if app is not None or channel is None else HttpAppDelivery(channel, tracer)
        self._tools = (
            None
            if delivery is None
            else Tools(delivery, publisher, policies, IngressMetrics(metrics, namespace), new_id, now)
        )
        self._discovered = False
        self._listed = False  # the app has answered at least once
        self._stale = False  # it has been unhealthy since
        self._refused = False  # discovery failed: nothing runs until the next resume
        self._paused = False
        self._running: dict[tuple[str, str], Running] = {}
        self._wake = trio.Event()

    # --- what should run ------------------------------------------------------------------------------------------

    async def discover(self) -> None:
        """Ask the app, once, and let the subscriptions start. A failure is logged and stops all of this round."""
        if self._discovered:
            return
        await self._discover()
        self._discovered = True
        self._wake.set()

    async def _discover(self) -> None:
        if self._channel is None or not self._discovery or not self._bindings:
            return
        try:
            self._programmatic = await self._ask(self._channel)
            self._listed = True
        except (DiscoveryError, DriverError) as error:
            if self._listed:
                logger.error("app %s cannot be asked what it subscribes to; nothing changes: %s", self._app_id, error)
            else:
                logger.error("no subscription of app %s starts: %s", self._app_id, error)
                self._refused = True

    async def _ask(self, channel: AppChannel) -> Sequence[SubscriptionSpec]:
        if self._lister is not None:
            return await self._policies.builtin(DISCOVERY_POLICY).run(self._lister.list_subscriptions)
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
        """The app is healthy again. An HTTP app is not asked a second time, a gRPC app is."""
        self._paused = False
        self._refused = False
        self._stale = self._lister is not None
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
        return [row_of(spec) for spec in self.wanted()]

    # --- what runs ------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run the subscriptions until cancelled; then let deliveries in flight finish, within the drain limit.

        `task_status.started()` is said when every subscription of the first round has been tried once.
        """
        done = trio.CancelScope(shield=True)  # deliveries outlast the cancellation of this task
        async with trio.open_nursery() as outer:
            with trio.CancelScope(shield=True):  # at once; cancelled here, nobody would be left to end the shielded one
                nursery = await outer.start(hold_nursery, done)
            try:
                started = False
                while True:
                    self._wake = trio.Event()
                    if self._stale:
                        self._stale = False
                        await self._discover()
                    await self._mend(nursery)
                    if not started:
                        task_status.started()
                        started = True
                    await self._wake.wait()
            finally:
                with trio.CancelScope(shield=True):  # bounded by the drain limit within
                    await stop_all(self._running.values())
                self._running.clear()
                done.cancel()

    async def _mend(self, nursery: trio.Nursery) -> None:
        wanted = {(spec.pubsub, spec.topic): spec for spec in self._runnable()}
        ending = {
            key: running
            for key, running in self._running.items()
            if wanted.get(key) != running.spec or self._bindings.get(running.spec.pubsub) != running.binding
        }
        await stop_all(ending.values())
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

    def _start(self, spec: SubscriptionSpec, nursery: trio.Nursery) -> Running | None:
        binding = self._bindings.get(spec.pubsub)
        if binding is None:
            logger.error("subscription to topic %s: there is no pub/sub component %r", spec.topic, spec.pubsub)
            return None
        assert self._tools is not None
        delivery = (BulkDelivery if spec.bulk.enabled else Delivery)(spec, binding, self._tools)
        # A batch can only fill when as many messages as it takes may be under way at once.
        concurrency = spec.bulk.count_max if spec.bulk.enabled else 0
        running = Running(spec, binding, delivery, concurrency=concurrency)
        self._running[spec.pubsub, spec.topic] = running
        nursery.start_soon(running.run)
        logger.info("app %s subscribes to topic %s on pubsub %s", self._app_id, spec.topic, spec.pubsub)
        return running


def row_of(spec: SubscriptionSpec) -> dict[str, Any]:
    """What the metadata API shows of a subscription."""
    row: dict[str, Any] = {"pubsubname": spec.pubsub, "topic": spec.topic}
    if spec.metadata:
        row["metadata"] = dict(spec.metadata)
    if spec.rules:
        row["rules"] = [_rule_row(rule) for rule in spec.rules]
    return {**row, "deadLetterTopic": spec.dead_letter_topic, "type": spec.kind.value}


def _rule_row(rule: Rule) -> dict[str, str]:
    return {"match": rule.match, "path": rule.path} if rule.match else {"path": rule.path}
