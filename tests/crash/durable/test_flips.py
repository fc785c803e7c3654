"""Bits flipped in a node's files: nothing of ours is silently another one, and no damage is without an answer."""

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
    assert bad == []
    assert counts["told"] > count // 20


def test_damage_is_told_or_harmless(place: Path) -> None:
    flips(300, 3, place)


@pytest.mark.long
def test_damage_is_told_or_harmless_at_10_000_places(place: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    flips(10_000, seed, place)
