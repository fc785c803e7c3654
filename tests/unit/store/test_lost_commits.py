"""Damage in a -wal file is told where SQLite itself says nothing, and a torn end is no damage."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import pytest

from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from edge_runtime.store.identity import open_identity

FRAME = 24 + 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as a kill leaves it, with commits of one page in its -wal file."""
    live = tmp_path / "live.db"
    connection = sqlite3.connect(live, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (n)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(5):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
    left = tmp_path / "left.db"
    for end in ("", "-wal"):
        shutil.copy(f"{live}{end}", f"{left}{end}")
    connection.close()
    assert wal(left).stat().st_size == 32 + 5 * FRAME
    return left


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def flip(path: Path, place: int) -> None:
    content = bytearray(wal(path).read_bytes())
    content[place] ^= 4
    wal(path).write_bytes(content)


async def found(path: Path) -> tuple[int, bool]:
    async with open_database(location(str(path))) as database:
        return database.read("SELECT count(*) FROM t")[0][0], database.lost_commits


async def test_a_whole_file_has_lost_nothing(path: Path) -> None:
    assert await found(path) == (5, False)


@pytest.mark.parametrize("place", [0, 9, 17, 25, 32 + 9, 32 + 100])
async def test_damage_at_the_beginning_is_told(path: Path, place: int, caplog: pytest.LogCaptureFixture) -> None:
    flip(path, place)
    assert await found(path) == (0, True)
    assert "left.db: its -wal file is damaged at byte 32: 4 acknowledged commits" in caplog.text


@pytest.mark.parametrize(("frame", "rows"), [(1, 1), (2, 2), (3, 3)])
async def test_damage_in_the_middle_is_told(
    path: Path, frame: int, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip(path, 32 + frame * FRAME + 500)
    assert await found(path) == (rows, True)
    assert f"damaged at byte {32 + frame * FRAME}: {4 - frame} acknowledged commits or more" in caplog.text


async def test_a_torn_end_is_no_damage(path: Path) -> None:
    flip(path, 32 + 4 * FRAME + 500)
    assert await found(path) == (4, False)


async def test_what_an_older_run_left_is_no_damage(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = wal(path).read_bytes()
    older = bytearray(content[32 + 2 * FRAME :])
    for start in range(0, len(older), FRAME):
        older[start + 8] ^= 1  # another salt
    wal(path).write_bytes(content[: 32 + 2 * FRAME] + older)
    with caplog.at_level(logging.ERROR):
        assert await found(path) == (2, False)
    assert caplog.text == ""


async def test_a_new_epoch_begins_after_a_loss(path: Path) -> None:
    epochs = []
    for damaged in (False, True):
        async with open_database(location(str(path))) as database:
            database.lost_commits = damaged
            epochs.append((await open_identity(database, 0)).epoch)
    assert epochs[0] != epochs[1]
