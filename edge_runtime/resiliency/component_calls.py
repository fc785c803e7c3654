"""Calls to components under their policies, counted and timed as Dapr does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from edge_runtime.model.ports import Policy
from edge_runtime.observability.metrics import Metrics

T = TypeVar("T")


class ComponentCalls:
    """The calls of one building block; `name` is what its two metrics begin with."""

    def __init__(self, metrics: Metrics, name: str, namespace: str) -> None:
        labels = ("component", "namespace", "operation", "success")
        self._namespace = namespace
        self._count = metrics.counter(f"{name}_count", *labels)
        self._latency = metrics.histogram(f"{name}_latencies", *labels)

    async def run(self, component: str, operation: str, policy: Policy | None, call: Callable[[], Awaitable[T]]) -> T:
        """The result of the call; what it raises is counted as a failure and goes on."""
        started = time.monotonic()
        success = "false"
        try:
            result = await (policy.run(call) if policy is not None and policy.active else call())
            success = "true"
            return result
        finally:
            labels = (component, self._namespace, operation, success)
            self._count.add(labels)
            elapsed_ms = int((time.monotonic() - started) * 1000)
            if elapsed_ms > 0:
                self._latency.observe(elapsed_ms, labels)
