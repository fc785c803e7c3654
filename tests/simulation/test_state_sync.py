"""State routes under seeded faults: nothing acknowledged is lost, nothing removed comes back, all agree at the end."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.simulation.state_world import Plan, simulate

POLICIES = ["remote-wins", "local-wins", "last-writer", "merge", "app", "keep-both"]
UP: dict[str, Any] = {"direction": "up", "nodes": 1, "cloud_writes": False}
# Runs that failed once. Each stays here with the plan under which it did.
SEEDS_ONCE_FAILED: list[tuple[int, Any]] = [
    (3, Plan("remote-wins")),  # a key that was put off twice was never looked at again
    (14, Plan("remote-wins")),
    (314, Plan("merge")),  # a removal was lost in a merge without a base
    (32, Plan("remote-wins", **UP)),  # what was sent over an own creation was taken for somebody else's
    (72, Plan("last-writer", **UP)),
    (9, Plan("merge", "down", 2, True, 40, 60, 20, 6)),  # what was merged here gave way to the next remote version
]


@pytest.mark.slow
@pytest.mark.parametrize("conflict", POLICIES)
def test_two_nodes_and_cloud_agree(conflict: Any) -> None:
    for seed in range(25):
        simulate(seed, Plan(conflict))


@pytest.mark.slow
@pytest.mark.parametrize("conflict", POLICIES)
def test_one_node_sends_up(conflict: Any) -> None:
    for seed in range(15):
        world = simulate(seed, Plan(conflict, **UP))
        assert not world.disputes or world.remote.ghosts, (
            f"seed {seed}: nobody else wrote, so with whom is the conflict?"
        )


@pytest.mark.slow
@pytest.mark.parametrize("conflict", POLICIES)
def test_nodes_follow_remote(conflict: Any) -> None:
    for seed in range(10):
        simulate(seed, Plan(conflict, "down"))


@pytest.mark.slow
def test_seed_decides_everything() -> None:
    first, second = (simulate(5, Plan("merge")) for _ in range(2))
    assert first.remote.items == second.remote.items
    assert first.ledger.written == second.ledger.written


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "plan"), SEEDS_ONCE_FAILED)
def test_once_failed_seeds_pass(seed: int, plan: Plan) -> None:
    world = simulate(seed, plan)
    assert plan.cloud_writes or not world.disputes


@pytest.mark.long
@pytest.mark.timeout(7200)  # also when it is run by itself
@pytest.mark.parametrize("conflict", POLICIES)
def test_many_seeds_agree(conflict: Any) -> None:
    start = random.randrange(2**32)
    for seed in range(start, start + int(os.environ.get("SIMULATION_SEEDS", "2000"))):
        simulate(seed, Plan(conflict, nodes=seed % 3 + 1))
