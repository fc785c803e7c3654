"""Whether the app is well: counted probes, with Dapr's threshold.

The count goes up with each failed probe. A passed one clears it only when the app was unhealthy: below the threshold it
changes nothing, so failures need not follow one another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

import trio

from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.observability.metrics import Metrics

logger: Final = logging.getLogger("dapr.apphealth")

# What a probe without an answer counts as: over HTTP, and over gRPC when nobody is there or time is up.
_FAILED: Final = 500
_UNAVAILABLE: Final = 14
_DEADLINE_EXCEEDED: Final = 4


class Probed(Protocol):
    """A channel to an app, of any kind."""

    healthy: bool  # its gate

    async def probe(self, path: str, /) -> int:
        """The HTTP status or the gRPC code of one probe. Raises `DriverError` when there was no answer."""


class HealthSettings(NamedTuple):
    """From the flags `--app-health-check-path`, `--app-health-probe-interval`, `-timeout` and `-threshold`."""

    path: str = "/healthz"
    interval_s: float = 5.0
    timeout_s: float = 0.5
    threshold: int = 3


def checked(settings: HealthSettings) -> HealthSettings:
    """With Dapr's defaults for what makes no sense. Raises `ConfigError` when a probe could outlast its interval."""
    interval_s = settings.interval_s if settings.interval_s > 0 else 5.0
    timeout_s = settings.timeout_s if settings.timeout_s > 0 else 0.5
    if timeout_s > interval_s:
        raise ConfigError(
            f"--app-health-probe-timeout ({timeout_s * 1000:.0f} ms) is longer than --app-health-probe-interval "
            f"({interval_s:.0f} s); make it at most as long"
        )
    path = settings.path if settings.path.startswith("/") else f"/{settings.path}"
    return HealthSettings(path, interval_s, timeout_s, settings.threshold if settings.threshold >= 1 else 3)


class Threshold:
    """Decides from the results of probes. Starts unhealthy unless told otherwise."""

    def __init__(self, threshold: int, *, healthy: bool = False) -> None:
        self._threshold = threshold
        self._failures = 0 if healthy else threshold

    @property
    def healthy(self) -> bool:
        return self._failures < self._threshold

    def take(self, passed: bool) -> bool:
        """One result; true when it changed the verdict."""
        was = self.healthy
        if not passed:
            self._failures = min(self._failures + 1, self._threshold)
        elif not was:
            self._failures = 0
        return self.healthy is not was


class AppHealth:
    """The health of one app. Without probing (`settings` None) it is well as soon as `report` says so.

    `healthy` is what was known of the app before this object: one that was well is called at once. `grpc` says that the
    app speaks gRPC: its probes end with codes, of which only OK is a pass.
    """

    def __init__(
        self,
        channel: Probed,
        settings: HealthSettings | None,
        metrics: Metrics,
        *,
        healthy: bool = False,
        grpc: bool = False,
    ) -> None:
        self._channel = channel
        self._grpc = grpc
        self._settings = None if settings is None else checked(settings)
        self._threshold = Threshold(1 if self._settings is None else self._settings.threshold, healthy=healthy)
        self._changed = trio.Event()
        prefix, label = ("grpc_io", "grpc_client_status") if grpc else ("http", "status")
        self._completed = metrics.counter(f"{prefix}_healthprobes_completed_count", label)
        self._latency = metrics.histogram(f"{prefix}_healthprobes_roundtrip_latency", label)
        channel.healthy = healthy or self._settings is None

    @property
    def healthy(self) -> bool:
        return self._threshold.healthy

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Probes until cancelled, the first time at once. Without probing: says once that the app is well."""
        task_status.started()
        settings = self._settings
        if settings is None:
            self.report(True)
            return
        due = trio.current_time()
        while True:
            self.report(await self._probe(settings))
            due = max(due + settings.interval_s, trio.current_time())
            await trio.sleep_until(due)

    def report(self, passed: bool) -> None:
        """The result of a probe; opens and shuts the channel's gate and wakes who waits for a change."""
        if not self._threshold.take(passed):
            return
        self._channel.healthy = passed
        if passed:
            logger.info("App entered healthy status")
        else:
            logger.warning("App entered un-healthy status")
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, healthy: bool) -> None:
        """Returns when the app is well (or not); at once when it already is."""
        while self.healthy is not healthy:
            await self._changed.wait()

    async def changes(self) -> AsyncIterator[bool]:
        """The state now and after each change. Who is slow sees the last state, not each in between."""
        shown: bool | None = None
        while True:
            if shown is not self.healthy:
                shown = self.healthy
                yield shown
            else:
                await self._changed.wait()

    async def _probe(self, settings: HealthSettings) -> bool:
        started = time.monotonic()
        status = _DEADLINE_EXCEEDED if self._grpc else _FAILED
        with trio.move_on_after(settings.timeout_s):
            try:
                status = await self._channel.probe(settings.path)
            except DriverError as error:
                logger.debug("App health probe failed: %s", error)
                status = _UNAVAILABLE if self._grpc else _FAILED
        labels = (self._label(status),)
        self._completed.add(labels)
        self._latency.observe(int((time.monotonic() - started) * 1000), labels)
        return status == 0 if self._grpc else 200 <= status < 300

    def _label(self, status: int) -> str:
        if not self._grpc:
            return str(status)
        from edge_runtime.wire.grpc.status import code_name  # loaded already, with the channel that speaks gRPC

        return code_name(status)
