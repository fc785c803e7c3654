"""What became of entries: kept with their removal, bounded, and forgotten in time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import Entry, FateLimits
from edge_runtime.store.fates import ROW_BYTES, Fate
from tests.brokers import until
from tests.outboxes import OtherEnd, OutboxWorld, open_world

LIMITS = FateLimits(2**20, 3600.0)


class Answering(OtherEnd):
    """Says something of each entry; those that are refused for good become dead letters."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.size = size

    async def __call__(self, entry: Entry) -> Mapping[str, Any]:  # type: ignore[override]
        await super().__call__(entry)
        return {"answer": entry.payload, "more": b"x" * self.size}


async def fates(world: OutboxWorld, count: int) -> list[Fate]:
    """All of them, once there are so many."""
    await until(lambda: len(world.outbox.fates("cloud")) == count)
    return world.outbox.fates("cloud")


async def test_what_was_said_outlives_the_process(tmp_path: Path) -> None:
    end = Answering()
    async with open_world(tmp_path) as world, world.route(end, fates=LIMITS) as route:
        ids = [await route.append("k", b"%d" % number) for number in range(3)]
        assert world.outbox.fates("cloud") == []
        route.up()
        await fates(world, 3)
    async with open_world(tmp_path) as world:
        found = world.outbox.fates("cloud")
        assert [(one.id, one.end, one.key, one.epoch) for one in found] == [
            (entry.sequence, "delivered", "k", entry.epoch) for entry in ids
        ]
        assert found[1].said == {"answer": b"1", "more": b"xxxx"}
        assert [one.id for one in world.outbox.fates("cloud", ids[0].sequence, 1)] == [ids[1].sequence]


async def test_without_limits_nothing_is_kept(tmp_path: Path) -> None:
    end = Answering()
    async with open_world(tmp_path) as world, world.route(end) as route:
        await route.append("k", b"1")
        route.up()
        await until(lambda: not route.backlog)
        assert world.outbox.fates("cloud") == []
        assert await world.sql("SELECT 1 FROM sqlite_master WHERE name = 'outbox_fate'") == []


async def test_every_drop_has_its_reason(tmp_path: Path) -> None:
    refusal = DriverError("no")
    refusal.permanent = True
    end = Answering()
    end.failures = {b"a": [refusal], b"b": [refusal]}
    async with open_world(tmp_path) as world:
        async with world.route(end, fates=LIMITS, age_max_s=60.0, dead_bytes_max=70, when_full="drop-oldest") as route:
            first, second, third = [await route.append("k", name) for name in (b"a", b"b", b"c")]
            route.up()
            await fates(world, 2)
            route.down("away")
            fourth = await route.append("k", b"d")
            fifth = await route.append("k", b"e")
            await world.outbox.drop("cloud", [fifth.sequence])
            world.clock.ahead_ms = 61_000
            route._route.wake()
            found = {one.id: (one.end, one.reason) for one in await fates(world, 4)}
            assert found == {
                first.sequence: ("dropped", "dead letters full"),
                third.sequence: ("delivered", ""),
                fourth.sequence: ("dropped", "age"),
                fifth.sequence: ("dropped", "discarded"),
            }
            await world.outbox.drop("cloud", [second.sequence])
            assert world.outbox.fates("cloud")[1].reason == "discarded"


async def test_space_is_bounded(tmp_path: Path) -> None:
    end = Answering(1000)
    limits = FateLimits(10 * (1000 + ROW_BYTES), 3600.0)
    async with open_world(tmp_path) as world, world.route(end, fates=limits) as route:
        route.up()
        for number in range(40):
            await route.append("k", b"%d" % number)
        await until(lambda: not route.backlog)
        await until(lambda: (found := world.outbox.fates("cloud")) and found[-1].said["answer"] == b"39")  # type: ignore[index]
        kept = world.outbox.fates("cloud")
        assert 5 <= len(kept) <= 10
        assert [one.said["answer"] for one in kept if one.said] == [b"%d" % n for n in range(40 - len(kept), 40)]


async def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    end = Answering()
    async with open_world(tmp_path) as world, world.route(end, fates=LIMITS) as route:
        route.up()
        await route.append("k", b"old")
        await fates(world, 1)
        world.clock.ahead_ms = 3_601_000
        assert world.outbox.fates("cloud") == []
        await route.append("k", b"new")
        await fates(world, 1)
        assert await world.sql("SELECT count(*) FROM outbox_fate") == [(1,)]


async def test_damage_costs_one_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    end = Answering()
    async with open_world(tmp_path) as world, world.route(end, fates=LIMITS) as route:
        route.up()
        for name in (b"a", b"b"):
            await route.append("k", name)
        first, _ = await fates(world, 2)
        await world.sql("UPDATE outbox_fate SET record = x'0102030405060708' WHERE id = ?", first.id)
        assert [one.said and one.said["answer"] for one in world.outbox.fates("cloud")] == [None, b"b"]
        assert f"what became of outbox entry {first.id} is damaged" in caplog.text


async def test_what_was_said_is_known_before_it_is_on_disk(tmp_path: Path) -> None:
    end = Answering()
    async with open_world(tmp_path) as world, world.route(end, fates=LIMITS) as route:
        entry = await route.append("k", b"1")
        route._route._flushing = True  # the disk takes its time
        route.up()
        await end.wait_for(1)
        await until(lambda: world.outbox.said("cloud", entry.sequence) is not None)
        assert [head.id for head in world.outbox.held("cloud")] == [entry.sequence]
        assert world.outbox.entries("cloud") == []
        route._route._flushing = False
        route._route.wake()
        await fates(world, 1)
        assert world.outbox.said("cloud", entry.sequence) is None
