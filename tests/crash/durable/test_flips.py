"""Bits flipped in a node's files: next to nothing of ours is silently another one, and none ends the node."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.durable.flips import play
from tests.crash.durable.kills import scratch

pytestmark = pytest.mark.slow


@pytest.fixture
def place() -> Iterator[Path]:
    folder = scratch("flips-")
    yield folder
    shutil.rmtree(folder)


def flips(count: int, seed: int, place: Path) -> None:
    counts, bad = play(count, seed, place)
    print(dict(counts))
    assert [line for line in bad if ": broken: " in line] == []
    assert counts["silent"] <= count // 100, bad  # columns beside a record that have no checksum
    assert counts["told"] > count // 20


def test_damage_is_told_or_harmless(place: Path) -> None:
    flips(300, 3, place)


@pytest.mark.long
def test_damage_is_told_or_harmless_at_10_000_places(place: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    flips(10_000, seed, place)
