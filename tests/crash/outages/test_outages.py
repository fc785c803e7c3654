"""Cables pulled, processes killed and brokers stopped, all under load: in the end both ends have the same books."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.crash.outages.faults import Chaos, Faults
from tests.crash.outages.load import under_load
from tests.crash.outages.world import World
from tests.support.namespace import need_namespaces

pytestmark = pytest.mark.slow

STILL_S = 60.0  # so long nothing has arrived: then nothing will


@pytest.fixture(autouse=True)
def namespaces() -> None:
    need_namespaces()


def settle(world: World) -> None:
    """Until all has arrived that was acknowledged, or nothing more does."""
    arrived: object = None
    since = time.monotonic()
    while (
        any(ledger.missing() for ledger in world.ledgers)
        or world.edge.metric("edge_outbox_entries")
        or world.state_faults()
    ):
        if (now := (sum(ledger.arrived for ledger in world.ledgers), world.state_faults())) != arrived:
            arrived, since = now, time.monotonic()
        if time.monotonic() - since > STILL_S:
            return
        time.sleep(0.2)


def survive(directory: Path, faults: Faults, seed: int) -> None:
    with World(directory) as world:
        began = time.monotonic()
        with under_load(world) as apps:
            chaos = Chaos(world, faults, seed)
            chaos.run()
        print(f"{chaos.outages} outages ({chaos.cut_s:.0f} s), {world.edge.kills} kills of the node,", end=" ")
        print(f"{world.cloud.kills} of the cloud's; {time.monotonic() - began:.0f} s under load")
        settle(world)
        books = (*world.ledgers, world.devices, world.plans)
        print(f"settled after {time.monotonic() - began:.0f} s: {'; '.join(map(str, books))}")
        print(f"refused {sum(len(app.refused) for app in apps)}; crossed {dict(world.findings.calls)}")
        assert [fault for ledger in world.ledgers for fault in ledger.faults()] == []
        assert world.state_faults() == []
        assert world.findings.foreign == {}
        assert world.edge.metric("edge_outbox_entries") == 0
        assert world.edge.metric("edge_outbox_dead_letters") == 0
        assert all(one.acknowledged for one in books)


def test_the_books_are_equal_after_outages_and_kills(tmp_path: Path) -> None:
    survive(tmp_path, Faults(outages=10, edge_kills=10, cloud_kills=3, broker_stops=3), seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_books_are_equal_after_a_hundred_of_each(tmp_path: Path) -> None:
    survive(tmp_path, Faults(outages=100, edge_kills=100, cloud_kills=20, broker_stops=20), seed=2)
