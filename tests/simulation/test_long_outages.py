"""Links that are down for days, months and more than a year, while apps go on publishing."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from edge_runtime.model.hlc import unpack
from tests.simulation.stage import Stage
from tests.simulation.topics_world import DAY_S, JUMPS_S, ROUTE, Node, Plan, World, stage_world

KEYS = "kmn"
PUBLISHES = 3  # every six hours
# Of hours rather than minutes between two tries: what is simulated is the outbox, not a million refused connections.
SELDOM: dict[str, Any] = {"probe_s": 3600.0, "pause_most_s": 3600.0}
EachDay = Callable[[World, int], Awaitable[None]]


async def _quiet(world: World, day: int) -> None:
    pass


async def _restarts(world: World, day: int) -> None:
    """Every few days the process is killed or the machine boots, with a clock that is right, or not at all."""
    node = world.nodes[0]
    if day % 5 == 2:
        world.jump(node, world.chance.choice(JUMPS_S) if day < 390 else 0.0)
        (node.reboot if day % 2 else node.kill)()
        await trio.sleep(60)


class Outage:
    """A link that works, is away for so many days, and works again."""

    def __init__(self, days: int, each_day: EachDay = _quiet, **plan: Any) -> None:
        self.days = days
        self.each_day = each_day
        self.mended_at = 0.0
        self.drops: dict[str, int] = {}  # by reason
        self.plan = Plan(keys=KEYS, publishers=1, poison=False, outage_s=days * DAY_S, **plan)

    def run(self) -> World:
        return stage_world(Stage(self.days), self.plan, self._main)

    async def _main(self, world: World) -> None:
        world.open()
        node = world.nodes[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.keep_alive, node)
            await trio.sleep(10)
            number = await self._publish(world, 0)
            await trio.sleep(60)
            assert len(world.broker.reader.ids) == PUBLISHES
            node.way.cut(visible=False)
            for day in range(self.days):
                for _ in range(4):
                    await trio.sleep(DAY_S / 4)
                    number = await self._publish(world, number)
                await self.each_day(world, day)
                _check_bounds(node)
            await trio.sleep(DAY_S / 8)
            _check_stamps(node)
            self.mended_at = world.stage.now
            node.way.mend(visible=True)
            await world.calm_down()
            await world.check()
            self.drops = {reason: count for reason, (count, _) in node.outbox.dropped(ROUTE).items()}
            nursery.cancel_scope.cancel()

    async def _publish(self, world: World, number: int) -> int:
        for _ in range(PUBLISHES):
            number += 1
            await world.publish(world.nodes[0], "a0", number)
        return number


def _check_bounds(node: Node) -> None:
    plan, state = node.world.plan, node.outbox.state(ROUTE)
    assert state.oldest_age_s <= plan.age_max_s + 60
    assert not plan.bytes_max or state.bytes <= plan.bytes_max


def _check_stamps(node: Node) -> None:
    """Each entry is later than the one before; after a clock that was years ahead, stamps have come back with it."""
    stamps = [unpack(row[0]) for row in node.disk.connection.execute("SELECT hlc FROM outbox_entry ORDER BY id")]
    assert node.lives > 1 or stamps == sorted(set(stamps))
    assert abs(stamps[-1].ms / 1000 - node.wall()) < DAY_S


@pytest.mark.slow
def test_week_loses_nothing() -> None:
    outage = Outage(7, age_max_s=8 * DAY_S, probe_s=60.0)
    world = outage.run()
    assert len(world.broker.reader.ids) == world.published
    assert outage.drops == {}


@pytest.mark.slow
def test_month_drops_by_age() -> None:
    outage = Outage(30, **SELDOM)
    world = outage.run()
    node = world.nodes[0]
    missing = set(node.accepted) - world.broker.reader.ids
    old = {one for one, at in node.accepted_at.items() if outage.mended_at - at > outage.plan.age_max_s + 1}
    assert missing == old - {"a0-1", "a0-2", "a0-3"}
    assert outage.drops == {"age": len(missing)}


@pytest.mark.slow
def test_quarter_drops_the_oldest() -> None:
    outage = Outage(90, age_max_s=1000 * DAY_S, bytes_max=50_000, when_full="drop-oldest", **SELDOM)
    world = outage.run()
    node = world.nodes[0]
    missing = [one for one in node.accepted if one not in world.broker.reader.ids]
    assert missing == node.accepted[PUBLISHES : PUBLISHES + len(missing)]
    assert outage.drops == {"full": len(missing)}


@pytest.mark.slow
def test_more_than_a_year_loses_nothing() -> None:
    outage = Outage(400, _restarts, age_max_s=1000 * DAY_S, **SELDOM)
    world = outage.run()
    node = world.nodes[0]
    assert set(node.accepted) <= world.broker.reader.ids
    assert node.lives > 50
    assert outage.drops == {}


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """What the product holds does not depend on what waits on disk."""
    held: dict[int, int] = {}

    async def measure(world: World, day: int) -> None:
        if day in (4, 28):
            gc.collect()
            snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/edge_runtime/*")])
            held[day] = sum(trace.size for trace in snapshot.traces)

    tracemalloc.start()
    try:
        Outage(30, measure, age_max_s=1000 * DAY_S, **SELDOM).run()
    finally:
        tracemalloc.stop()
    assert held[28] < held[4] + 32 * 1024, f"{held} on {sys.platform}"
