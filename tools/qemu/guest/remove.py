"""The package goes again: first without, then with what the node has kept."""

from __future__ import annotations

import os
from typing import Any

import device
import node
from device import attempt, expect

PROGRAM = ("/usr/bin/edge-runtime", "/opt/edge-runtime", "/usr/lib/edge-runtime")
KEPT = ("/etc/edge-runtime/dapr.yaml", "/var/lib/edge-runtime/node.db", "/var/lib/edge-runtime/statestore.db")
PURGED = ("/etc/edge-runtime", "/var/lib/edge-runtime", "/var/lib/edge-runtime-update", "/run/edge-runtime")


def removal_keeps_what_the_node_kept(long: bool) -> dict[str, Any]:
    node.until_served()
    status, _ = node.call("POST", "/v1.0/state/statestore", [{"key": "kept", "value": "still here"}])
    expect(status == 204, str(status))
    device.run("apt-get", "remove", "-y", "edge-runtime")
    expect(not _there(PROGRAM), f"left behind: {_there(PROGRAM)}")
    expect(_there(KEPT) == list(KEPT), f"only {_there(KEPT)} are left")
    device.run("apt-get", "install", "-y", "./current.deb")
    node.until_served()
    expect(node.call("GET", "/v1.0/state/statestore/kept")[1] == b'"still here"', "what was kept is not served again")
    return {}


def purge_takes_everything(long: bool) -> dict[str, Any]:
    device.run("apt-get", "purge", "-y", "edge-runtime")
    left = _there((*PROGRAM, *PURGED))
    expect(not left, f"left behind: {left}")
    expect(attempt("getent", "passwd", "edge-runtime")[0] != 0, "the user is left behind")
    failed = device.run("systemctl", "list-units", "--failed", "--no-legend", "--plain")
    expect(not failed, failed)
    return {}


def _there(paths: tuple[str, ...]) -> list[str]:
    return [path for path in paths if os.path.lexists(path)]
