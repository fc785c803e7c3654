"""kill -9 of processes that write to one state file: what was answered is there, and nothing is half there."""

from __future__ import annotations

import pathlib
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.sqlite import open_sqlite_state
from edge_runtime.store.database import open_databases
from tests.crash.busy_store import WRITERS

pytestmark = pytest.mark.slow


def start(folder: pathlib.Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.busy_store", str(folder), name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent.parent,
    )


def answered(process: subprocess.Popen[str], lines: int) -> Iterator[str]:
    """Some lines, then kill -9, then what was said before that."""
    assert process.stdout is not None
    for _ in range(lines):
        yield process.stdout.readline()
    process.kill()
    yield from process.stdout
    process.stdout.close()
    process.wait()


def last_answers(*processes: subprocess.Popen[str], seed: int) -> dict[str, int]:
    """The number of the last answered write of each key."""
    found: dict[str, int] = {}
    for process in processes:
        for line in answered(process, random.Random(seed).randrange(1, 400)):
            key, _, number = line.strip().partition(" ")
            if number:
                found[key] = max(found.get(key, -1), int(number))
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_answered_writes_outlive_a_kill(tmp_path: pathlib.Path, seed: int) -> None:
    await check(tmp_path, last_answers(start(tmp_path, "a"), seed=seed))


@pytest.mark.parametrize("seed", range(4))
async def test_two_processes_share_a_file(tmp_path: pathlib.Path, seed: int) -> None:
    processes = start(tmp_path, "a"), start(tmp_path, "b")
    found = last_answers(*processes, seed=seed)
    assert {key[0] for key in found} == {"a", "b"}
    await check(tmp_path, found)


async def check(folder: pathlib.Path, last: dict[str, int]) -> None:
    async with open_databases() as databases:
        metadata = {"connectionString": "state.db"}
        context = ComponentContext("c", "state.sqlite", "v1", metadata, "c", "", databases, "", str(folder))
        async with open_sqlite_state(context) as store:
            keys = {key.removesuffix("twin") for key in await store.keys("", "", 1000)}
            assert last.keys() <= keys
            assert len(keys) <= 2 * WRITERS
            for key in keys:
                item, twin = await store.get(key), await store.get(f"{key}twin")
                assert item is not None
                assert twin is not None
                assert item.value == twin.value
                assert int(item.value) - last.get(key, -1) in (0, 1)  # at most the one that was under way
