"""Subscriptions while they run: a task each that tries again for ever, and how several of them are stopped together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Final

import trio

from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.delivery import Delivery
from edge_runtime.blocks.pubsub.subscriptions import SubscriptionSpec
from edge_runtime.model.errors import DriverError

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

DRAIN_LIMIT_S: Final = 30
BACK_OFF_FIRST_S: Final = 0.5
BACK_OFF_FACTOR: Final = 1.5
BACK_OFF_MAX_S: Final = 60.0


async def stop_all(subscriptions: Iterable[Running]) -> None:
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


def _topics(subscriptions: Iterable[Running]) -> str:
    return ", ".join(running.spec.topic for running in subscriptions)


class Running:
    """One subscription and its task, which tries again for ever."""

    def __init__(
        self, spec: SubscriptionSpec, binding: PubSubBinding, delivery: Delivery, *, concurrency: int = 0
    ) -> None:
        """`concurrency` is how many messages may be under way at once, unless the subscription says so itself."""
        self.spec = spec
        self._concurrency = concurrency
        self.binding = binding
        self.delivery = delivery
        self.scope = trio.CancelScope()
        self.tried = trio.Event()
        self.failure = ""  # why the last attempt failed; empty while messages can arrive
        self._delay_s = BACK_OFF_FIRST_S

    def started(self, value: object = None) -> None:
        """The driver's word that messages can arrive; this object is its `task_status`."""
        self._delay_s = BACK_OFF_FIRST_S
        self.failure = ""
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
                self.failure = reason
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
                self._driver_metadata(),
                self.delivery.handle,
                task_status=self,
            )
            nursery.cancel_scope.cancel()

    def _driver_metadata(self) -> Mapping[str, str]:
        """What the driver is told."""
        if not self._concurrency:
            return self.spec.metadata
        return {"concurrency": str(self._concurrency), **self.spec.metadata}


def _reason_of(error: Exception) -> str:
    """The first reason in what a nursery raised."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, DriverError) else repr(error)
