"""Runs `edge-runtime` in a process where now and then an allocation fails: a MemoryError at any place, in any thread.

It begins when a file is there, and ends when that is gone. The first arguments are that file and the seed; the rest is
the command line.
"""

from __future__ import annotations

import _testcapi
import os
import random
import runpy
import sys
import threading
import time

EVERY_S = 0.02


def fail_now_and_then(begin: str, chance: random.Random) -> None:
    while not os.path.exists(begin):
        time.sleep(EVERY_S)
    while os.path.exists(begin):
        time.sleep(EVERY_S)
        first = chance.randrange(1, 3000)
        _testcapi.set_nomemory(first, first + chance.choice((1, 1, 3, 20)))
    _testcapi.remove_mem_hooks()


if __name__ == "__main__":
    begin_file, seed = sys.argv.pop(1), int(sys.argv.pop(1))
    threading.Thread(target=fail_now_and_then, args=(begin_file, random.Random(seed)), daemon=True).start()
    sys.argv[0] = "edge-runtime"
    runpy.run_module("edge_runtime", run_name="__main__", alter_sys=True)
