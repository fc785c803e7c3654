"""The pace of sends: others have their turns between two of them, and local calls go first."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from edge_runtime.model.ports import LocalCalls
from edge_runtime.sync.shared import Pace


async def test_one_send_begins_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    pace, begun, most = Pace(LocalCalls()), 0, 0

    async def send() -> None:
        nonlocal begun
        await pace.wait()
        begun += 1

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(send)
        while begun < 16:
            before = begun
            await trio.lowlevel.checkpoint()
            most = max(most, begun - before)
    assert most == 1
    assert trio.current_time() == autojump_clock.current_time()


async def test_a_local_call_goes_first(autojump_clock: trio.testing.MockClock) -> None:
    calls = LocalCalls()
    pace = Pace(calls)
    began = trio.current_time()
    await pace.wait()
    assert trio.current_time() == began
    calls.begun += 1
    await pace.wait()
    assert trio.current_time() - began == pytest.approx(0.003)
    await pace.wait()
    assert trio.current_time() - began == pytest.approx(0.006), "waited for once, and then apart as others"


async def test_sends_keep_apart_while_somebody_calls(autojump_clock: trio.testing.MockClock) -> None:
    calls = LocalCalls()
    pace = Pace(calls)
    calls.begun += 1
    await pace.wait()
    began = trio.current_time()
    for _ in range(20):
        await pace.wait()
    assert trio.current_time() - began == pytest.approx(0.06)
    await trio.sleep(1)
    began = trio.current_time()
    for _ in range(100):
        await pace.wait()
    assert trio.current_time() == began, "nobody has called for a while"


async def test_calls_without_end_stop_no_send(autojump_clock: trio.testing.MockClock) -> None:
    calls = LocalCalls()
    pace = Pace(calls)

    async def call() -> None:
        while True:
            calls.begun += 1
            await trio.sleep(0.0001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        began = trio.current_time()
        for _ in range(10):
            await pace.wait()
        assert 0.05 < trio.current_time() - began < 0.1
        nursery.cancel_scope.cancel()
