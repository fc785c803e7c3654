"""The runner: retry( breaker( timeout( operation ) ) ), and the policy that does nothing.

An error marked `permanent` is the target's considered answer (a stale etag, a bad request). It is not tried again, and
the breaker takes it as a sign of life; one marked `unrepeatable` is not tried again either, but it is a failure like
any other. A call whose own caller was cancelled says nothing about the target at all.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from edge_runtime.config.values import format_go_duration
from edge_runtime.model.errors import CallTimeout, DriverError, EdgeError
from edge_runtime.observability.metrics import Counter, Gauge, Metrics
from edge_runtime.resiliency.breaker import Breaker, Phase
from edge_runtime.resiliency.retry import Retry, next_delay_s, worth_another_attempt

T = TypeVar("T")
logger = logging.getLogger("dapr.runtime")

_FAILURES: Final = (DriverError, EdgeError, OSError)
_CB_STATES: Final = (*(phase.value for phase in Phase), "unknown")


class NoPolicy:
    """Runs the operation once, as it is."""

    __slots__ = ()
    active = False
    retries = False

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await operation()


NO_POLICY: Final = NoPolicy()


class Tally:
    """The resiliency metrics of one target and direction."""

    __slots__ = ("_activations", "_count", "_head", "_phases", "_shown", "_tail")

    def __init__(self, metrics: Metrics, name: str, namespace: str, direction: str, target: str) -> None:
        labels = ("name", "namespace", "policy", "flow_direction", "target", "status")
        self._count: Counter = metrics.counter("resiliency_count", *labels)
        self._activations: Counter = metrics.counter("resiliency_activations_total", *labels)
        self._phases: Gauge = metrics.gauge("resiliency_cb_state", *labels)
        self._head = (name, namespace)
        self._tail = (direction, target)
        self._shown: Phase | None = None

    def executed(self, policy: str, status: str = "") -> None:
        self._count.add((*self._head, policy, *self._tail, status))

    def activated(self, policy: str, status: str = "") -> None:
        self._activations.add((*self._head, policy, *self._tail, status))

    def show(self, phase: Phase) -> None:
        if phase is self._shown:
            return
        self._shown = phase
        for state in _CB_STATES:
            self._phases.set(int(state == phase.value), (*self._head, "circuitbreaker", *self._tail, state))


class Runner:
    """The policy of one target: any of timeout, retry and breaker. Built-in policies are not tallied."""

    __slots__ = ("_breaker", "_retry", "_tally", "_target", "_timeout_s", "retries")
    active = True

    def __init__(
        self, target: str, timeout_s: float | None, retry: Retry | None, breaker: Breaker | None, tally: Tally | None
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._retry = retry
        self._breaker = breaker
        self._tally = tally
        self.retries = retry is not None and retry.retries_max != 0

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that succeeds, or the error of the last."""
        if self._tally is not None:
            self._count(self._tally)
        if self._retry is None:
            return await self._attempt(operation)
        return await self._persist(self._retry, operation)

    def _count(self, tally: Tally) -> None:
        if self._timeout_s is not None:
            tally.executed("timeout")
        if self._retry is not None:
            tally.executed("retry")
        if self._breaker is not None:
            tally.executed("circuitbreaker", self._breaker.phase.value)
            tally.show(self._breaker.phase)

    async def _persist(self, retry: Retry, operation: Callable[[], Awaitable[T]]) -> T:
        begun = trio.current_time()
        retries = 0
        while True:
            try:
                result = await self._attempt(operation)
            except _FAILURES as error:
                delay_s = self._delay_s(retry, error, retries, trio.current_time() - begun)
                if delay_s is None:
                    raise
                wait = format_go_duration(round(delay_s, 3))
                logger.warning("Error processing operation %s. Retrying in %s…: %s", self._target, wait, error)
            else:
                if retries:
                    logger.info("Recovered processing operation %s after %d attempts", self._target, retries + 1)
                return result
            retries += 1
            self._activated("retry")
            await trio.sleep(delay_s)

    @staticmethod
    def _delay_s(retry: Retry, error: Exception, retries: int, elapsed_s: float) -> float | None:
        if getattr(error, "permanent", False) or getattr(error, "unrepeatable", False):
            return None
        if not worth_another_attempt(retry, getattr(error, "code", None)):
            return None
        return next_delay_s(retry, retries, elapsed_s, random.random())

    async def _attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        breaker = self._breaker
        if breaker is None:
            return await self._timed(operation)
        before = breaker.phase
        try:
            generation = breaker.enter(trio.current_time())
            try:
                result = await self._timed(operation)
            except _FAILURES as error:
                breaker.leave(generation, getattr(error, "permanent", False), trio.current_time())
                raise
            except BaseException:
                breaker.forget(generation)
                raise
            breaker.leave(generation, True, trio.current_time())
            return result
        finally:
            if breaker.phase is not before:
                self._changed(breaker)

    async def _timed(self, operation: Callable[[], Awaitable[T]]) -> T:
        if self._timeout_s is None:
            return await operation()
        with trio.move_on_after(self._timeout_s):
            return await operation()
        self._activated("timeout")
        raise CallTimeout("context deadline exceeded")

    def _changed(self, breaker: Breaker) -> None:
        logger.info("Circuit breaker %s of %s is now %s", breaker.name, self._target, breaker.phase.value)
        self._activated("circuitbreaker", breaker.phase.value)
        if self._tally is not None:
            self._tally.show(breaker.phase)

    def _activated(self, policy: str, status: str = "") -> None:
        if self._tally is not None:
            self._tally.activated(policy, status)
