"""Probes, threshold and gate."""

from __future__ import annotations

import pytest
import trio

from edge_runtime.channel.health import AppHealth, HealthSettings, Threshold, checked
from edge_runtime.channel.http import HttpChannel
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.observability.metrics import Metrics, render


class FaultyChannel:
    """The gate of a channel, with probes that answer what they are told: a status, "down", or "hang"."""

    def __init__(self, answers: list[int | str]) -> None:
        self.answers = answers
        self.probed_at: list[float] = []
        self.healthy = True

    async def probe(self, path: str) -> int:
        self.probed_at.append(trio.current_time())
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "hang":
            await trio.sleep_forever()
        if answer == "down":
            raise DriverError("connection refused")
        assert isinstance(answer, int)
        return answer


def health_of(channel: FaultyChannel, settings: HealthSettings | None, metrics: Metrics | None = None) -> AppHealth:
    as_channel: HttpChannel = channel  # type: ignore[assignment]
    return AppHealth(as_channel, settings, metrics or Metrics())


@pytest.mark.parametrize(
    ("results", "healthy"),
    [
        ("", False),
        ("+", True),
        ("+--", True),
        ("+---", False),
        ("+-+-+-", False),  # a pass below the threshold does not reset the count
        ("+---+", True),
        ("+---+--", True),
        ("-----+", True),
        ("+------+---", False),
    ],
)
def test_threshold_counts_as_dapr(results: str, healthy: bool) -> None:
    threshold = Threshold(3)
    for result in results:
        threshold.take(result == "+")
    assert threshold.healthy is healthy


def test_senseless_settings_get_defaults() -> None:
    assert checked(HealthSettings("health", -1, 0, 0)) == HealthSettings("/health", 5.0, 0.5, 3)


def test_probe_must_fit_interval() -> None:
    with pytest.raises(ConfigError, match="--app-health-probe-timeout"):
        checked(HealthSettings(interval_s=1, timeout_s=2))


async def test_app_that_was_well_is_called_at_once(autojump_clock: trio.testing.MockClock) -> None:
    channel = FaultyChannel([500, 500, 500])
    as_channel: HttpChannel = channel  # type: ignore[assignment]
    health = AppHealth(as_channel, HealthSettings(interval_s=5), Metrics(), healthy=True)
    assert health.healthy
    assert channel.healthy
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        await health.wait_for(False)
        assert not channel.healthy
        assert len(channel.probed_at) == 3
        nursery.cancel_scope.cancel()


async def test_first_probe_is_immediate(autojump_clock: trio.testing.MockClock) -> None:
    channel = FaultyChannel([500, 200])
    health = health_of(channel, HealthSettings(interval_s=5))
    begun = trio.current_time()
    assert not health.healthy
    assert not channel.healthy
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        await health.wait_for(True)
        assert [at - begun for at in channel.probed_at] == pytest.approx([0, 5])
        assert channel.healthy
        nursery.cancel_scope.cancel()


async def test_changes_are_seen(autojump_clock: trio.testing.MockClock) -> None:
    channel = FaultyChannel([404, 200, "down", "hang", 199, 302, 204])
    health = health_of(channel, HealthSettings())
    seen: list[bool] = []

    async def watch() -> None:
        async for healthy in health.changes():
            seen.append(healthy)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await nursery.start(health.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert seen == [False, True, False, True]


async def test_probes_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics("a")
    health = health_of(FaultyChannel(["down", 200, 404]), HealthSettings(), metrics)
    with trio.move_on_after(11):
        await health.run()
    page = render([metrics])
    assert 'dapr_http_healthprobes_completed_count{app_id="a",status="500"} 1' in page
    assert 'dapr_http_healthprobes_completed_count{app_id="a",status="404"} 1' in page
    assert 'dapr_http_healthprobes_roundtrip_latency_count{app_id="a",status="200"} 1' in page


async def test_without_probing_app_is_well() -> None:
    channel = FaultyChannel([])
    health = health_of(channel, None)
    assert channel.healthy
    assert not health.healthy
    await health.run()
    assert health.healthy
    assert channel.probed_at == []


async def test_codes_of_grpc_are_judged_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics("a")
    channel = FaultyChannel([0, 12, 12, "down", "hang", 0])
    as_channel: HttpChannel = channel  # type: ignore[assignment]
    health = AppHealth(as_channel, HealthSettings(), metrics, grpc=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        for healthy in (True, False, True):
            await health.wait_for(healthy)
        nursery.cancel_scope.cancel()
    page = render([metrics])
    counted = {"OK": 2, "Unimplemented": 2, "Unavailable": 1, "DeadlineExceeded": 1}
    for name, count in counted.items():
        series = f'dapr_grpc_io_healthprobes_completed_count{{app_id="a",grpc_client_status="{name}"}}'
        assert f"{series} {count}" in page
    assert "dapr_http_healthprobes" not in page
