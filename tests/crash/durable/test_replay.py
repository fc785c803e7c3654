"""Power cuts replayed at every flush; and that a disk that lies, or a store that does not flush, is found out."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.durable.kills import scratch
from tests.crash.durable.ledger import Lost
from tests.crash.durable.replay import Choice, Disk, Entry, compile_recorder, play, record, replay

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the recorder is compiled with gcc"),
    pytest.mark.skipif(sys.platform != "linux", reason="the recorder is preloaded as Linux does it"),
]
SEED = 1


@pytest.fixture
def place() -> Iterator[Path]:
    folder = scratch("replay-")
    yield folder
    shutil.rmtree(folder)


def test_nothing_acknowledged_is_lost(place: Path) -> None:
    assert play(200, SEED, place) > 40


@pytest.mark.long
def test_nothing_acknowledged_is_lost_in_20_000_states(place: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    play(20_000, seed, place)


def only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.parametrize(("pragmas", "lies"), [("", True), ("?_pragma=synchronous(0)", False)])
def test_writes_that_are_not_flushed_are_missed(place: Path, pragmas: str, lies: bool) -> None:
    entries = record(compile_recorder(place), place, SEED, pragmas)
    wrong = replay(entries, place, 40, SEED, lies=lies)
    assert wrong
    assert any(isinstance(only(error), Lost) for _, error in wrong)


def write(place: int, offset: int, data: bytes) -> Entry:
    return Entry(place, "w", 1, offset, data)


def left(disk: Disk, tmp_path: Path, which: int) -> dict[str, bytes]:
    disk.leave(tmp_path, Choice(which, random.Random(1)))
    return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


FOLDER = Entry(0, "d", 0x80000001, 1, b"")
NAMED = Entry(1, "n", 1, 0, b"file")
FLUSHED_NAME = Entry(2, "f", 0x80000001, 2, b"")


def test_a_name_needs_its_folder_flushed(tmp_path: Path) -> None:
    disk = Disk()
    for entry in (FOLDER, NAMED, write(2, 0, b"x"), Entry(3, "f", 1, 3, b"")):
        disk.take(entry)
    assert left(disk, tmp_path, 0) == {}
    assert left(disk, tmp_path, 1) == {"file": b"x"}


def test_a_write_needs_a_flush_that_began_later(tmp_path: Path) -> None:
    disk = Disk()
    for entry in (FOLDER, NAMED, FLUSHED_NAME, write(3, 0, b"a"), write(5, 1, b"b"), Entry(6, "f", 1, 4, b"")):
        disk.take(entry)
    assert left(disk, tmp_path, 0) == {"file": b"a"}
    assert left(disk, tmp_path, 1) == {"file": b"ab"}


def test_the_last_write_is_torn_at_a_sector(tmp_path: Path) -> None:
    disk = Disk()
    for entry in (FOLDER, NAMED, FLUSHED_NAME, write(3, 0, b"x" * 20_000)):
        disk.take(entry)
    size = len(left(disk, tmp_path, 2)["file"])
    assert 0 < size < 20_000
    assert size % 512 == 0
