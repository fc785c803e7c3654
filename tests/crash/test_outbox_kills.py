"""kill -9 amid taking in and sending: what was taken in is sent, in order within its key, repeats under the same id."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

import pytest
import trio

from tests.brokers import until
from tests.crash.outbox_child import KEYS
from tests.outboxes import OtherEnd, open_world

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


class Line(NamedTuple):
    """What the child said: that an entry was taken in, or sent."""

    what: str
    key: str
    number: int
    id: tuple[str, int, int]


def parse(text: str) -> Line:
    what, key, number, node, epoch, sequence = text.split()
    return Line(what, key, int(number), (node, int(epoch), int(sequence)))


async def one_life(state_dir: Path, first: int, seed: int, lines_most: int) -> list[Line]:
    """Start a child, kill it after about so many lines; every whole line that it printed."""
    command = [sys.executable, "-m", "tests.crash.outbox_child", str(state_dir), str(first), str(seed)]
    child = await trio.lowlevel.open_process(command, stdout=PIPE, cwd=ROOT)
    assert child.stdout is not None
    text = b""
    try:
        async for piece in child.stdout:
            text += piece
            if text.count(b"\n") >= lines_most:
                child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        await child.wait()
        await child.stdout.aclose()
    return [parse(line) for line in text.decode().rpartition("\n")[0].splitlines()]


def check_order(lines: Sequence[Line]) -> None:
    """Within one life each key goes forward, entry by entry."""
    for number in range(KEYS):
        sent = [line for line in lines if line.what == "SENT" and line.key == f"key{number}"]
        sequences = [line.id[2] for line in sent]
        assert sequences == sorted(set(sequences))
        assert [line.number for line in sent] == sorted(line.number for line in sent)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_taken_in_is_lost(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kept: dict[tuple[str, int], tuple[str, int, int]] = {}
    sent: dict[tuple[str, int, int], tuple[str, int]] = {}
    for life in range(3):
        lines = await one_life(tmp_path, life * 1_000_000, seed, chance.randrange(1, 1500))
        check_order(lines)
        for line in lines:
            if line.what == "KEPT":
                kept[line.key, line.number] = line.id
            else:
                assert sent.setdefault(line.id, (line.key, line.number)) == (line.key, line.number)
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        database = await world.databases.get(world.path)
        counted = database.read("SELECT count(*), ifnull(sum(size), 0) FROM outbox_entry")[0]
        assert (route.state.entries, route.state.bytes) == counted, "the counts are right after a kill"
        route.up()
        await until(lambda: not route.backlog)
    last_life = [Line("SENT", entry.key, int(entry.payload), tuple(entry.id)) for entry in end.entries]
    check_order(last_life)
    for line in last_life:
        assert sent.setdefault(line.id, (line.key, line.number)) == (line.key, line.number)
    assert {(key, number, entry_id) for (key, number), entry_id in kept.items()} <= {
        (*what, entry_id) for entry_id, what in sent.items()
    }
    assert len(set(sent.values())) == len(sent), "nothing has two ids"
