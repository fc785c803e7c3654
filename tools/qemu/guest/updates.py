"""Packages that come while apps save and publish: what was acknowledged before, meanwhile and after is there."""

from __future__ import annotations

import json
import time
from typing import Any

import device
import node
from device import attempt, expect
from ledger import Receiver, load, lost

BEFORE_S, AFTER_S = 10, 10


def upgrade_loses_nothing(long: bool) -> dict[str, Any]:
    before = device.run("edge-runtime", "version")
    figures = _install_under_load("next.deb", expected_code=0)
    status = _status()
    expect(status["last"]["outcome"] == "well" and status["current"].endswith("+next"), str(status["last"]))
    return {"was": before.split()[-1], **figures}


def version_that_never_serves_is_taken_back(long: bool) -> dict[str, Any]:
    """Its program starts and its service never gets READY. `apt` says so by its exit code."""
    figures = _install_under_load("broken.deb", expected_code=100)
    status = _status()
    expect(status["last"]["outcome"] == "returned" and status["current"].endswith("+next"), str(status["last"]))
    expect(status["pending"] is None, str(status))
    expect("broken" in node_log(), "the journal does not name the version that was given up")
    return {**figures, "reason": status["last"]["reason"]}


def _install_under_load(package: str, expected_code: int) -> dict[str, Any]:
    node.configure()
    with Receiver() as receiver:
        node.restart()
        with load(lambda line: None, first=_first()) as ledger:
            time.sleep(BEFORE_S)
            before, begun = ledger.count, time.monotonic()
            code, text = attempt("apt-get", "install", "-y", "--allow-downgrades", f"./{package}")
            took = round(time.monotonic() - begun)
            expect(code == expected_code, f"apt ended with {code}: {text[-1500:]}")
            node.until_served()
            during = ledger.count - before
            time.sleep(AFTER_S)
        node.until_served()
        missing = lost(ledger, receiver)
    expect(not missing, f"{len(missing)} of {ledger.count} lost: {missing[:5]}")
    expect(not ledger.refused, str(ledger.refused[:3]))
    return {"acknowledged": ledger.count, "meanwhile": during, "lost": 0, "seconds": took}


def _first() -> int:
    """Numbers that no earlier round has used."""
    return int(time.monotonic() * 1000)


def _status() -> dict[str, Any]:
    return dict(json.loads(device.run("edge-runtime-update", "status", "--json")))


def node_log() -> str:
    return device.run("journalctl", "-b", "-t", "edge-runtime-update", "-o", "cat", "--no-pager")
