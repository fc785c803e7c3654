"""Runs in a child process with the faulty disk preloaded: everything durable under load on a disk of which calls fail.

After each fault: what was refused is not there, what was acknowledged is, and the load goes on or the node ends with an
error that has an answer.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import sys
import tempfile
from pathlib import Path

import trio

from edge_runtime.model.errors import ConfigError, DriverError
from tests.crash.durable.flips import leaves
from tests.crash.durable.kills import MEMORY
from tests.crash.durable.ledger import Ledger
from tests.crash.durable.node import check, load
from tests.crash.durable.things import Turns
from tests.crash.faulty_store import KINDS

disk = ctypes.CDLL(None)
STEP = 9  # every ninth call: each kind makes some hundreds


async def limited(folder: str, ledger: Ledger) -> None:
    with trio.fail_after(60):
        await load(folder, ledger, lambda _: None, Turns(1, 4))


def one_run(folder: str, kind: str, error: int, nth: int, times: int) -> int:
    ledger = Ledger()
    disk.fault_watch(folder.encode())
    disk.fault_arm(KINDS[kind], ctypes.c_long(nth), error, ctypes.c_long(times))
    try:
        trio.run(limited, folder, ledger)
    except BaseException as group:
        foreign = [one for one in leaves(group) if not isinstance(one, (DriverError, ConfigError))]
        if foreign:
            raise
    hits: int = disk.fault_hits()
    disk.fault_disarm()
    trio.run(check, folder, ledger)
    return hits


def main(kind: str, error: int, times: int) -> None:
    nth, hits, runs = 1, 1, 0
    while hits:
        with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
            hits = one_run(folder, kind, error, nth, times)
        nth, runs = nth + STEP, runs + 1
    assert runs > 1, "no call was ever made to fail"
    print(f"{runs - 1} calls failed one after the other")


if __name__ == "__main__":
    logging.disable()
    main(sys.argv[1], getattr(errno, sys.argv[2]), int(sys.argv[3]))
