"""Runs in a child process with the recorder preloaded: everything durable under load, from no files to a clean end."""

from __future__ import annotations

import ctypes
import logging
import sys
from functools import partial

import trio

from tests.crash.durable.ledger import Ledger
from tests.crash.durable.node import load
from tests.crash.durable.replay import TURNS
from tests.crash.durable.things import Turns

if __name__ == "__main__":
    logging.disable()
    folder, record, seed, pragmas = sys.argv[1:]
    recorder = ctypes.CDLL(None)
    recorder.record_start(folder.encode(), record.encode())
    turns = Turns(1 + int(seed) % 1000 * 1000, TURNS)
    trio.run(partial(load, folder, Ledger(), lambda line: recorder.record_note(line.encode()), turns, pragmas=pragmas))
