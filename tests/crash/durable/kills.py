"""kill -9 of a process with every durable thing under load, round after round over the same files.

    python -m tests.crash.durable.kills 10000 [seed]

Each round is a forked process, so that a round costs a tenth of a second: the parent runs no event loop and opens no
file. Every so many rounds it begins with no files, so that being killed while files are made is met often.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

import trio

from tests.crash.durable.ledger import Ledger
from tests.crash.durable.node import check, load
from tests.crash.durable.things import Turns

FRESH_EVERY: Final = 20
NUMBERS_A_ROUND: Final = 100_000
LIFE_S: Final = (0.0, 0.06)  # of those that are killed while they open their files
LINES_MOST: Final = 400  # of the others
STOPPED: Final = 0


MEMORY: Final = "/dev/shm"


class Played(NamedTuple):
    """How much a run has proved."""

    rounds: int
    acknowledged: int


def in_fork(work: Callable[[], None]) -> int:
    """Start it in a process of its own; the pid. It says nothing but when it fails."""
    if pid := os.fork():
        return pid
    code = 1
    logging.disable()  # refusals are expected; what is wrong is raised
    try:
        work()
        code = STOPPED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_stopped(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Lines:
    """The ledger's file: lines outlive the process that says them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.ledger = Ledger()
        path.write_bytes(b"")

    def open(self) -> Callable[[str], None]:
        out = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        return lambda line: void(os.write(out, f"{line}\n".encode()))

    def gather(self) -> None:
        """What was said since."""
        with self.path.open() as file:
            file.seek(self.size_bytes)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self.size_bytes += len(whole)
        for line in whole.splitlines():
            self.ledger.take(line)


def import_all(place: Path) -> None:
    """What a life imports on its way is imported here once, and not in each life."""
    folder, names = place / "first", place / "modules"
    folder.mkdir()

    def live() -> None:
        ledger = Ledger()
        trio.run(partial(load, str(folder), ledger, void, Turns(1, 2)))
        trio.run(check, str(folder), ledger)
        names.write_text("\n".join(sys.modules))

    if wait_stopped(in_fork(live)):
        raise AssertionError("a life without a kill failed: see above")
    for name in names.read_text().splitlines():
        if name not in sys.modules and name.partition(".")[0] in ("edge_runtime", "tests", "nacl", "cbor2"):
            import_module(name)
    shutil.rmtree(folder)


def void(_: object) -> None:
    pass


def wait_for_the_moment(pid: int, lines: Lines, chance: random.Random) -> None:
    """Any time after the start, or after any number of lines: the machine's pace makes the first a wide field."""
    if chance.random() < 0.3:
        time.sleep(chance.uniform(*LIFE_S))
        return
    size = lines.size_bytes + 20 * chance.randrange(LINES_MOST)
    while lines.path.stat().st_size < size and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    time.sleep(chance.uniform(0.0, 0.002))


def one_round(folder: Path, lines: Lines, number: int, chance: random.Random) -> None:
    turns = Turns((number + 1) * NUMBERS_A_ROUND)
    pid = in_fork(lambda: trio.run(load, str(folder), lines.ledger, lines.open(), turns))
    wait_for_the_moment(pid, lines, chance)
    os.kill(pid, signal.SIGKILL)
    if (code := wait_stopped(pid)) != -signal.SIGKILL:
        raise AssertionError(f"the load ended by itself with {code}")
    lines.gather()
    if wait_stopped(in_fork(lambda: trio.run(check, str(folder), lines.ledger, lines.open()))):
        raise AssertionError("the check failed: see above")
    lines.gather()


def play(rounds: int, seed: int, place: Path, progress_s: float = 30.0) -> Played:
    chance = random.Random(seed)
    import_all(place)
    folder, acknowledged, said_at = place / "none", 0, time.monotonic()
    lines = Lines(place / "ledger")
    for number in range(rounds):
        if number % FRESH_EVERY == 0:
            acknowledged += lines.ledger.acknowledged
            shutil.rmtree(folder, ignore_errors=True)
            folder = place / f"node-{number}"
            folder.mkdir()
            lines = Lines(place / "ledger")
        try:
            one_round(folder, lines, number, chance)
        except AssertionError as error:
            raise AssertionError(f"round {number} of seed {seed}: {error}; its files are in {folder}") from error
        if time.monotonic() - said_at > progress_s:
            said_at = time.monotonic()
            print(f"{number + 1} rounds", flush=True)
    return Played(rounds, acknowledged + lines.ledger.acknowledged)


def scratch(prefix: str) -> Path:
    """In memory where that can be: what a killed process has written is the kernel's, whatever the disk."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if os.path.isdir(MEMORY) else None))


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0])
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(2**32)
    place, began = scratch("kills-"), time.monotonic()
    print(f"seed {seed}, {rounds} rounds", flush=True)
    played = play(rounds, seed, place)
    shutil.rmtree(place)
    print(f"{played.rounds} kills, {played.acknowledged} writes acknowledged, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
