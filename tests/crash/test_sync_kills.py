"""kill -9 amid a state route's commits and requests: each life goes on with it, and both ends agree in the end."""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
import sys

import pytest
import trio

from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from tests.crash.synced_store import KEYS, WRITERS, open_node
from tests.crash.test_store_kills import answered

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]


def live(folder: pathlib.Path, first: int, lines: int) -> dict[int, int]:
    """One life of the child; the last answered number of each writer."""
    command = [sys.executable, "-m", "tests.crash.synced_store", str(folder), str(first)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    last: dict[int, int] = {}
    for line in answered(child, lines):
        if line.endswith("\n"):
            writer, number = map(int, line.split())
            last[writer] = number
    return last


@pytest.mark.parametrize("seed", range(4))
async def test_route_goes_on_after_kills(tmp_path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    last: dict[int, int] = {}
    for turn in range(3):
        last |= live(tmp_path, turn * 100_000 + 1, chance.randrange(WRITERS, 400))
    async with (
        open_database(location(f"{tmp_path}/here.db")) as here,
        open_database(location(f"{tmp_path}/there.db")) as there,
    ):
        table, remote, journal, sync = await open_node(here, there)
        async with trio.open_nursery() as nursery:
            await nursery.start(sync.run)
            while True:
                await journal.wait_changed(-1)
                if not await journal.pending(KEYS, "", 10):
                    break
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        for writer, number in last.items():
            item = await table.get(f"{KEYS.prefix}{writer}")
            found = (await remote.bulk_get("", [f"k/{writer}"]))[f"k/{writer}"]
            assert (found and found[0]) == (item and item.value)
            one_more = number + 1  # the one that was under way
            allowed = [None if which % 7 == 0 else which for which in (number, one_more)]
            assert (json.loads(item.value)["n"] if item else None) in allowed
        assert await journal.inbox.entries() == [], "one side alone wrote: there is no conflict"
