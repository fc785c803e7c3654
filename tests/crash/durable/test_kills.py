"""kill -9 with everything durable under load, and that the check would see what is missing."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.durable.kills import play, scratch, void
from tests.crash.durable.ledger import Ledger, Lost
from tests.crash.durable.node import check, load
from tests.crash.durable.things import Turns

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="rounds are forked and killed as Linux does it"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    folder = scratch("kills-")
    yield folder
    shutil.rmtree(folder)


def test_nothing_acknowledged_is_lost(place: Path) -> None:
    assert play(20, seed=1, place=place).acknowledged > 200


@pytest.mark.long
def test_nothing_acknowledged_is_lost_in_10_000_kills(place: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    play(10_000, seed, place)


NEWEST = "rowid = (SELECT max(rowid) FROM {})"


@pytest.mark.parametrize(
    ("file", "table", "where"),
    [
        ("state", "state", "key = 'one'"),
        ("state", "state", "key = 'left'"),
        ("state", "configuration", "key = 'limit'"),
        ("state", "configuration", "key = 'far1'"),
        ("state", "routed", "key = 'app||k/0'"),
        ("node", "log_entry", NEWEST.format("log_entry")),
        ("node", "outbox_fate", "id = (SELECT max(id) FROM outbox_fate)"),
        ("node", "sealed_secret", "1"),
    ],
)
async def test_a_missing_row_is_seen(place: Path, file: str, table: str, where: str) -> None:
    ledger = Ledger()
    await load(str(place), ledger, void, Turns(1, 60))
    await check(str(place), ledger)
    with sqlite3.connect(place / f"{file}.db") as connection:
        gone = connection.execute(f"DELETE FROM {table} WHERE {where}").rowcount
    connection.close()
    assert gone
    with pytest.raises(ExceptionGroup) as caught:
        await check(str(place), ledger)
    assert caught.group_contains(Lost)


@pytest.mark.parametrize("name", ["links/cloud.paused", "links/cloud.json"])
async def test_a_missing_file_is_seen(place: Path, name: str) -> None:
    ledger = Ledger()
    await load(str(place), ledger, void, Turns(1, 3), names=["pauses", "days"])
    (place / name).unlink()
    with pytest.raises(ExceptionGroup) as caught:
        await check(str(place), ledger)
    assert caught.group_contains(Lost)


@pytest.mark.parametrize("line", ["outbox k0 ok 1000", "calls k0 ok 1000", "routed far/k/0 over 1000"])
async def test_a_missing_entry_is_seen(place: Path, line: str) -> None:
    ledger = Ledger()
    await load(str(place), ledger, void, Turns(1, 2))
    ledger.take(line)
    with pytest.raises(ExceptionGroup) as caught:
        await check(str(place), ledger)
    assert caught.group_contains(Lost)
