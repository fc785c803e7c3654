"""Single bits flipped in the files of a node, one after the other: detected or harmless, and the node goes on.

    python -m tests.crash.durable.flips 10000 [seed]

Each flip is in a copy of what a killed process has left. The copy is held against the ledger and then put under a short
load. What may come of it:

- harmless: everything is as it was;
- told: the product says which file or record is damaged, and goes on with the rest or does not open the file;
- verified: rows are missing or changed, and SQLite's own check of the whole file says that it is damaged;
- unprotected: a value in a table whose format belongs to others (`state`, `configuration`) is another one. It has no
  checksum, so nobody can tell;
- torn: the newest commit of a -wal file is gone. Damaged or torn by a power cut, it looks the same;
- silent: something of ours is another one and nothing says so: a column beside a record, or a page's own bookkeeping;
- broken: an error that is nobody's answer. It would end the node, and again after each restart. There must be none.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import trio

from edge_runtime.model.errors import ConfigError, DriverError
from tests.crash.durable.kills import Lines, import_all, in_fork, scratch, wait_stopped
from tests.crash.durable.ledger import Ledger, Lost
from tests.crash.durable.node import DATABASES, check, load
from tests.crash.durable.things import Turns

LINES: Final = 600
FLIPS_A_LIFE: Final = 100
HANGS_AFTER_S: Final = 20.0
# Rows of these are in a format of others. A mirror's and a route's values lie in them too.
UNPROTECTED: Final = ("state", "configuration", "mirror", "routed")
BAD: Final = ("silent", "broken")


class Flip(NamedTuple):
    """Which bit of which file."""

    file: str
    place: int
    bit: int


class Outcome(NamedTuple):
    kind: str
    detail: str = ""


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


def is_whole(folder: Path) -> bool:
    """By SQLite's own check of every page, which needs no checksum."""
    for name in DATABASES:
        try:
            connection = sqlite3.connect(folder / name)
            try:
                if connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
                    return False
            finally:
                connection.close()
        except sqlite3.Error:
            return False
    return True


def judge(error: BaseException, folder: Path) -> Outcome:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, Lost):
        if "damaged" in said or "cannot be opened" in said:
            return Outcome("told", said)
        if not is_whole(folder):
            return Outcome("verified", said)
        return Outcome("unprotected" if str(error).startswith(UNPROTECTED) else "silent", said)
    if isinstance(error, (DriverError, ConfigError)):
        return Outcome("told", said)
    return Outcome("broken", "".join(traceback.format_exception(error)))


class Told(logging.Handler):
    """Whether the product has said anything of damage."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        if "damaged" in (text := record.getMessage()):
            self.said = text


def is_newest(folder: Path, which: Flip) -> bool:
    """Does it lie in the last commit of a -wal file?"""
    if not which.file.endswith("-wal"):
        return False
    content, step = (folder / which.file).read_bytes(), 24 + 4096
    frames = [content[start : start + 24] for start in range(32, len(content) - step + 1, step)]
    live = [number for number, frame in enumerate(frames) if frame[8:16] == content[16:24]]
    commits = [number for number in live if frames[number][4:8] != bytes(4)]
    return which.place >= 32 + step * (commits[-2] + 1 if len(commits) > 1 else 0)


def examine(folder: Path, ledger: Ledger, turns: Turns) -> Outcome:
    told = Told()
    logger = logging.getLogger("dapr")
    logger.addHandler(told)
    try:
        trio.run(check, str(folder), ledger)
        found = Outcome("harmless")
    except Exception as error:
        found = worst([judge(one, folder) for one in leaves(error)])
    try:
        trio.run(limited, folder, turns)
    except Exception as error:
        after = worst([judge(one, folder) for one in leaves(error)])
        if after.kind == "broken":
            found = after
    finally:
        logger.removeHandler(told)
    if told.said and found.kind in ("harmless", "unprotected", "silent"):
        return Outcome("told", told.said)
    return found


async def limited(folder: Path, turns: Turns) -> None:
    with trio.fail_after(HANGS_AFTER_S):
        await load(str(folder), Ledger(), lambda _: None, turns)


def worst(outcomes: list[Outcome]) -> Outcome:
    order = ("harmless", "torn", "unprotected", "told", "verified", "silent", "broken")
    return max(outcomes, key=lambda outcome: order.index(outcome.kind))


def choose(folder: Path, chance: random.Random) -> Flip:
    """Every file as likely as it is large, and small ones no less likely than a page."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    sizes = [path.stat().st_size for path in files]
    path = chance.choices(files, [size and max(size, 4096) for size in sizes])[0]
    return Flip(str(path.relative_to(folder)), chance.randrange(path.stat().st_size), chance.randrange(8))


def flip(folder: Path, which: Flip) -> None:
    with (folder / which.file).open("r+b") as file:
        file.seek(which.place)
        (byte,) = file.read(1)
        file.seek(which.place)
        file.write(bytes((byte ^ 1 << which.bit,)))


def live(place: Path, seed: int, *, clean: bool) -> tuple[Path, Ledger]:
    """What a killed process left; `clean` when it was opened and closed again, so that there are no -wal files."""
    folder, lines = place / "life", Lines(place / "ledger")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    turns = Turns(1 + seed % 1000 * 1000)
    pid = in_fork(lambda: trio.run(load, str(folder), lines.ledger, lines.open(), turns))
    while lines.path.stat().st_size < LINES * 20:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    wait_stopped(pid)
    lines.gather()
    if clean:
        wait_stopped(in_fork(lambda: trio.run(check, str(folder), lines.ledger, lines.open())))
        lines.gather()
    return folder, lines.ledger


def play(flips: int, seed: int, place: Path, progress_s: float = 30.0) -> tuple[Counter[str], list[str]]:
    """How many flips came to what, and what was bad."""
    import_all(place)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    chance, said_at = random.Random(seed), time.monotonic()
    copy = place / "copy"
    for number in range(flips):
        if number % FLIPS_A_LIFE == 0:
            folder, ledger = live(place, seed + number, clean=number // FLIPS_A_LIFE % 2 == 1)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm", "bells"))
        which = choose(copy, chance)
        newest = is_newest(copy, which)
        flip(copy, which)
        outcome = examine(copy, ledger, Turns(10**6, 2))
        if newest and outcome.kind == "silent":
            outcome = Outcome("torn")
        counts[outcome.kind] += 1
        if outcome.kind in BAD:
            shutil.copytree(folder, place / f"bad-{number}", ignore=shutil.ignore_patterns("bells"))
            bad.append(f"seed {seed}, flip {number}, {which}: {outcome.kind}: {outcome.detail}")
        if time.monotonic() - said_at > progress_s:
            said_at = time.monotonic()
            print(number + 1, dict(counts), flush=True)
    return counts, bad


def main(arguments: list[str]) -> None:
    logging.getLogger("dapr").propagate = False
    flips = int(arguments[0])
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(2**32)
    place, began = scratch("flips-"), time.monotonic()
    print(f"seed {seed}, {flips} flips", flush=True)
    counts, bad = play(flips, seed, place)
    print("\n".join(bad))
    print(f"{dict(counts)}, {time.monotonic() - began:.0f} s")
    if bad:
        raise SystemExit(f"what they were flipped in is in {place}")
    shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
