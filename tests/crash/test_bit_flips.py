"""One bit of an outbox's file is another one: what is sent is what was taken in, and what is missing is told."""

from __future__ import annotations

import logging
import random
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import Backoff, Entry
from tests.brokers import until
from tests.outboxes import OtherEnd, open_world

pytestmark = pytest.mark.slow

ENTRIES = 120
KEYS = 6
PATIENCE_S = 5.0
DAMAGED = "the file is damaged"
ROUTE = {"retry": Backoff(0.001, 0.002)}


def payload(number: int) -> bytes:
    return b"%06d-" % number + b"abcdefgh" * (number % 40)


async def write(folder: Path) -> bytes:
    """A file in which entries wait, spread over many pages."""
    async with open_world(folder) as world, world.route(OtherEnd(), **ROUTE) as route:
        for number in range(ENTRIES):
            await route.append(f"key-{number % KEYS}", payload(number))
    with closing(sqlite3.connect(folder / "node.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (folder / "node.db").read_bytes()


async def survive(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What one life over a damaged file comes to."""
    end = OtherEnd()
    try:
        dropped = await drain(folder, end, caplog)
    except BaseExceptionGroup as group:
        strange = [
            error for error in leaves(group) if not isinstance(error, DriverError) or "node.db" not in str(error)
        ]
        if strange:
            raise
        dropped = -1
    check(end.entries, told(caplog))
    if dropped < 0:
        return "refused"
    if told(caplog):
        return "reported"
    return "contained" if dropped else "harmless"


async def drain(folder: Path, end: OtherEnd, caplog: pytest.LogCaptureFixture) -> int:
    """Send what can be sent; what is missing then is in the ledger, or named in the log: how many the ledger has.

    Where the file as a whole can be read or written no more, the log says so, and what is left still waits.
    """
    async with open_world(folder) as world, world.route(end, **ROUTE) as route:
        route.up()

        def dropped() -> int:
            try:
                return sum(count for count, _ in world.outbox.dropped("cloud").values())
            except DriverError:
                if not told(caplog):  # it names the file to who asks
                    raise
                return 0

        def sent() -> int:
            return len({entry.id for entry in end.entries})

        def settled() -> bool:
            return (told(caplog) or not route.backlog) and sent() + max(dropped(), named(caplog)) >= ENTRIES

        with trio.move_on_after(PATIENCE_S) as patience:
            await until(settled)
        if patience.cancelled_caught:
            left = route.state
            assert told(caplog), f"{sent()} sent, {dropped()} in the ledger, and {left}"
            assert DAMAGED in caplog.text
            assert sent() + max(dropped(), named(caplog)) + left.entries >= ENTRIES, f"{sent()} sent, and {left}"
        return dropped()


def named(caplog: pytest.LogCaptureFixture) -> int:
    """How many entries the log names as lost, or as such that cannot be read."""
    taken = sum(int(found[1]) for found in re.finditer(r"damage took (\d+) entries", caplog.text))
    single = set(re.findall(r"(?:entry (\d+) is damaged and dropped|damage near entry (\d+))", caplog.text))
    return taken + len(single)


def told(caplog: pytest.LogCaptureFixture) -> bool:
    """The log says that the file, or a part of it, cannot be read."""
    messages = [record.getMessage() for record in caplog.records]
    return any("node.db" in message and "a new epoch begins" not in message for message in messages)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf for one in group.exceptions for leaf in (leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


def check(entries: list[Entry], damaged: bool) -> None:
    """Nothing is sent that was not taken in, and nothing twice or out of order within its key.

    A `damaged` file may have one entry in a place that is not its own, and what was sent may come again under its id.
    """
    numbers: dict[str, list[int]] = {}
    for entry in {entry.id: entry for entry in entries}.values() if damaged else entries:
        assert isinstance(entry.payload, bytes)
        number = int(entry.payload[:6])
        assert entry.payload == payload(number)
        assert entry.key == f"key-{number % KEYS}"
        numbers.setdefault(entry.key, []).append(number)
    for found in numbers.values():
        without_one = [found[:at] + found[at + 1 :] for at in range(len(found))] if damaged else []
        assert any(rises(row) for row in (found, *without_one)), found


def rises(row: list[int]) -> bool:
    return all(before < after for before, after in pairwise(row))


@pytest.mark.parametrize("flips", [60, pytest.param(2500, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_damage_is_contained_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, flips: int) -> None:
    whole = trio.run(write, tmp_path)
    caplog.set_level(logging.WARNING)
    chance, outcomes = random.Random(flips), Counter[str]()
    for flip in range(flips):
        folder = tmp_path / f"flip-{flip}"
        folder.mkdir()
        bit = chance.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (folder / "node.db").write_bytes(damaged)
        caplog.clear()
        try:
            outcomes[trio.run(survive, folder, caplog)] += 1
        except BaseException as error:
            error.add_note(f"bit {bit} of {len(whole) * 8} was flipped")
            raise
        shutil.rmtree(folder)
    print(dict(outcomes))
    assert outcomes["harmless"] or outcomes["contained"]
