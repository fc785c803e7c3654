"""A node at work: its memory stays what it was."""

from __future__ import annotations

import time
from typing import Any

import device
import node
from device import expect
from ledger import Receiver, load

GROWTH_KB_MAX = 1000
WARM_S = {False: 120, True: 600}
LOAD_S = {False: 300, True: 3600}
PAUSE_S = 0.05
SAMPLES = 5


def does_not_grow(long: bool) -> dict[str, Any]:
    """From the warm-up's end on. Each figure is the least of a few: what a request needs meanwhile is not growth."""
    node.configure()
    with node.Broker(), Receiver():
        node.restart()
        with load(lambda line: None, pause_s=PAUSE_S) as ledger:
            time.sleep(WARM_S[long])
            process, before, count = device.process(), _least_kb(), ledger.count
            time.sleep(LOAD_S[long])
            after, done = _least_kb(), ledger.count - count
        expect(device.process() == process, "the node was started anew meanwhile")
    figures = {
        "minutes": LOAD_S[long] // 60,
        "operations": done,
        "grown_kB": after - before,
        "pss_kB": after,
        "refused": len(ledger.refused),
    }
    expect(not ledger.refused, f"{figures} {ledger.refused[:3]}")
    expect(after - before <= GROWTH_KB_MAX, f"{figures}; at most {GROWTH_KB_MAX} kB")
    return figures


def _least_kb() -> int:
    found = []
    for _ in range(SAMPLES):
        found.append(device.memory_kb(device.process())["Pss"])
        time.sleep(2)
    return min(found)
