"""The installed node on a machine that starts in an odd way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import device
import node
from device import expect
from ledger import Receiver

BUILT_BEFORE = 2026


def comes_up_in_the_past(long: bool) -> dict[str, Any]:
    """Without a clock battery it is 1970, until the service manager sets the year that it was built in."""
    year = time.gmtime().tm_year
    expect(year < BUILT_BEFORE, f"the clock of the machine says {year}")
    node.until_served()
    return {"year": year, "start_ms": round(device.start_ms())}


def serves_in_1970(long: bool) -> dict[str, Any]:
    device.run("date", "-s", "1970-01-01 00:02:00")
    node.restart()
    _saves("epoch")
    return {"year": time.gmtime().tm_year, "start_ms": round(device.start_ms())}


def takes_the_right_time(long: bool) -> dict[str, Any]:
    """The clock is set when the network is there, decades on, and no restart is needed."""
    process = device.process()
    with Receiver() as receiver:
        device.run("date", "-s", "2031-05-05 12:00:00")
        _saves("later")
        expect(node.call("POST", "/v1.0/publish/pubsub/orders", {"n": 1931})[0] == 204, "an event was refused")
        device.until("an event is delivered after the jump", lambda: 1931 in receiver.seen["/orders"])
        time.sleep(90)  # longer than the watchdog waits
    expect(device.process() == process, "the node was started anew")
    expect(node.call("GET", "/v1.0/state/statestore/epoch")[1] == b"1", "what was saved in 1970 is gone")
    return {"year": time.gmtime().tm_year}


def serves_without_memory_limits(long: bool) -> dict[str, Any]:
    """As a Raspberry Pi starts its kernel. The unit's limits are without effect, and `doctor` says so."""
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    expect("memory" not in controllers, f"controllers: {controllers}")
    node.until_served()
    _saves("unlimited")
    found = node.doctor()["memory limit"]
    expect(found["verdict"] == "warn" and "cgroup_disable=memory" in found["seen"], f"doctor says {found}")
    return {"doctor": found["seen"]}


def _saves(key: str) -> None:
    status, text = node.call("POST", "/v1.0/state/statestore", [{"key": key, "value": 1}])
    expect(status == 204, f"{status} {text!r}")
