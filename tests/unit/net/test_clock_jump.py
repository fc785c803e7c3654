"""Waiting for the wall clock to be set."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.net.clock_jump import until_clock_is_set


class Wall:
    ahead_s = 0.0

    def __call__(self) -> float:
        return trio.current_time() + self.ahead_s


@pytest.mark.parametrize("jump_s", [56 * 365 * 86400.0, 3.0, -5 * 86400.0])
async def test_a_jump_either_way_is_noticed(autojump_clock: MockClock, jump_s: float) -> None:
    wall = Wall()
    began = trio.current_time()

    async def jump() -> None:
        await trio.sleep(3600)
        wall.ahead_s = jump_s

    async with trio.open_nursery() as nursery:
        nursery.start_soon(jump)
        await until_clock_is_set(wall)
        assert 3600 <= trio.current_time() - began <= 3602


async def test_a_clock_that_only_goes_on_is_not_set(autojump_clock: MockClock) -> None:
    wall = Wall()
    with trio.move_on_after(86400) as day:
        await until_clock_is_set(wall)
    assert day.cancelled_caught
