"""The runner, on a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.model.errors import CallTimeout, CircuitOpen, DriverError, EtagMismatch
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.resiliency.breaker import Breaker, BreakerSettings, Phase
from edge_runtime.resiliency.retry import Retry
from edge_runtime.resiliency.runner import NO_POLICY, Runner, Tally
from edge_runtime.resiliency.trip import compile_trip

SETTINGS = BreakerSettings(open_s=10.0, trip=compile_trip("consecutiveFailures >= 2"))


def runner(
    timeout_s: float | None = None,
    retry: Retry | None = None,
    breaker: Breaker | None = None,
    metrics: Metrics | None = None,
) -> Runner:
    return Runner("app_x", timeout_s, retry, breaker, Tally(metrics or Metrics(), "r", "ns", "outbound", "app_x"))


def failing(times: int, error: Exception) -> Callable[[], Awaitable[str]]:
    left = [error] * times

    async def operation() -> str:
        if left:
            raise left.pop()
        return "done"

    return operation


async def test_failures_are_tried_again(autojump_clock: MockClock) -> None:
    policy = runner(retry=Retry(duration_s=5.0))
    assert await policy.run(failing(3, DriverError("no"))) == "done"
    assert trio.current_time() == 15.0


async def test_retries_end_with_the_error(autojump_clock: MockClock) -> None:
    with pytest.raises(DriverError, match="no"):
        await runner(retry=Retry(duration_s=5.0, retries_max=2)).run(failing(3, DriverError("no")))


async def test_permanent_errors_end_at_once(autojump_clock: MockClock) -> None:
    with pytest.raises(EtagMismatch):
        await runner(retry=Retry()).run(failing(1, EtagMismatch("no")))
    assert trio.current_time() == 0


async def test_unlisted_codes_end_at_once(autojump_clock: MockClock) -> None:
    with pytest.raises(DriverError):
        await runner(retry=Retry(http_codes=((500, 599),))).run(failing(1, DriverError("no", code=404)))


async def test_bugs_are_not_tried_again(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError):
        await runner(retry=Retry()).run(failing(1, KeyError("bug")))


async def test_timeout_is_for_each_attempt(autojump_clock: MockClock) -> None:
    async def never() -> None:
        await trio.sleep_forever()

    with pytest.raises(CallTimeout, match="context deadline exceeded"):
        await runner(2.0, Retry(duration_s=1.0, retries_max=1)).run(never)
    assert trio.current_time() == 5.0


async def test_open_breaker_ends_retries(autojump_clock: MockClock) -> None:
    breaker = Breaker("cb", SETTINGS)
    with pytest.raises(CircuitOpen):
        await runner(retry=Retry(duration_s=1.0), breaker=breaker).run(failing(9, DriverError("no")))
    assert breaker.phase is Phase.OPEN
    assert trio.current_time() == 2.0


async def test_timeouts_trip_the_breaker(autojump_clock: MockClock) -> None:
    async def never() -> None:
        await trio.sleep_forever()

    breaker = Breaker("cb", SETTINGS)
    policy = runner(timeout_s=1.0, breaker=breaker)
    for _ in range(2):
        with pytest.raises(CallTimeout):
            await policy.run(never)
    assert breaker.phase is Phase.OPEN


async def test_answers_keep_the_breaker_closed(autojump_clock: MockClock) -> None:
    breaker = Breaker("cb", SETTINGS)
    for _ in range(5):
        with pytest.raises(EtagMismatch):
            await runner(breaker=breaker).run(failing(1, EtagMismatch("stale")))
    assert breaker.phase is Phase.CLOSED


async def test_unrepeatable_failures_trip_the_breaker(autojump_clock: MockClock) -> None:
    breaker = Breaker("cb", SETTINGS)
    for _ in range(2):
        broken = DriverError("reset")
        broken.unrepeatable = True
        with pytest.raises(DriverError, match="reset"):
            await runner(retry=Retry(), breaker=breaker).run(failing(1, broken))
    assert trio.current_time() == 0
    assert breaker.phase is Phase.OPEN


async def test_cancelled_probe_frees_its_place(autojump_clock: MockClock) -> None:
    breaker = Breaker("cb", SETTINGS)
    policy = runner(breaker=breaker)
    for _ in range(2):
        with pytest.raises(DriverError):
            await policy.run(failing(1, DriverError("no")))
    await trio.sleep(10)
    with trio.move_on_after(1):
        await policy.run(trio.sleep_forever)
    assert await policy.run(failing(0, DriverError(""))) == "done"
    assert breaker.phase is Phase.CLOSED


async def test_policies_are_counted(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    policy = runner(9.0, Retry(duration_s=1.0), Breaker("cb", SETTINGS), metrics)
    with pytest.raises(CircuitOpen):
        await policy.run(failing(9, DriverError("no")))
    page = render([metrics])
    labels = 'flow_direction="outbound",name="r",namespace="ns",policy="{}",status="{}",target="app_x"'
    for line in (
        "dapr_resiliency_count{" + labels.format("retry", "") + "} 1",
        "dapr_resiliency_count{" + labels.format("timeout", "") + "} 1",
        "dapr_resiliency_count{" + labels.format("circuitbreaker", "closed") + "} 1",
        "dapr_resiliency_activations_total{" + labels.format("retry", "") + "} 2",
        "dapr_resiliency_activations_total{" + labels.format("circuitbreaker", "open") + "} 1",
        "dapr_resiliency_cb_state{" + labels.format("circuitbreaker", "open") + "} 1",
        "dapr_resiliency_cb_state{" + labels.format("circuitbreaker", "closed") + "} 0",
    ):
        assert line in page


async def test_no_policy_runs_once() -> None:
    assert not NO_POLICY.active
    with pytest.raises(DriverError):
        await NO_POLICY.run(failing(1, DriverError("no")))
    assert await NO_POLICY.run(failing(0, DriverError("no"))) == "done"
