"""The package on a device that has no network: it installs, runs, is small, confined and fast enough."""

from __future__ import annotations

import os
import re
import statistics
from pathlib import Path
from typing import Any

import device
import node
from device import expect

SIZE_MB_MAX = 40
START_MULTIPLE_MAX = 3.0
EXPOSURE_MAX = 2.5
STARTS = {False: 5, True: 11}


def installs_without_a_network(long: bool) -> dict[str, Any]:
    expect(os.listdir("/sys/class/net") == ["lo"], "the machine has a network")
    text = device.run("apt-get", "install", "-y", "./current.deb")
    expect("WARNING" not in text, text[-1500:])
    return {"version": device.run("dpkg-query", "-W", "-f=${Version}", "edge-runtime")}


def runs_and_has_said_so(long: bool) -> dict[str, Any]:
    """Active, by the notice of its main process."""
    expect(device.show("Type") == "notify", device.show("Type"))
    expect(device.show("ActiveState") == "active", device.run("systemctl", "status", "--no-pager", device.UNIT))
    expect(device.run("systemctl", "is-enabled", device.UNIT) == "enabled", "it does not start at boot")
    command = Path(f"/proc/{device.process()}/cmdline").read_bytes().split(b"\0")
    expect(b"serve" in command, f"the main process is {command!r}")
    return {"status": device.show("StatusText")}


def is_small_on_disk(long: bool) -> dict[str, Any]:
    """Of the package's files and its slot, which shares their blocks. Python itself is Debian's."""
    listed = device.run("dpkg-query", "-L", "edge-runtime").splitlines()
    own = sum(os.lstat(path).st_blocks * 512 for path in listed if os.path.isfile(path) and not _below(path))
    size_mb = (device.tree_bytes("/usr/lib/edge-runtime", "/opt/edge-runtime") + own) / 1e6
    expect(size_mb <= SIZE_MB_MAX, f"{size_mb:.1f} MB of {SIZE_MB_MAX}")
    return {"MB": round(size_mb, 1)}


def _below(path: str) -> bool:
    return path.startswith("/usr/lib/edge-runtime/")


def leaves_nothing_failed(long: bool) -> dict[str, Any]:
    failed = device.run("systemctl", "list-units", "--failed", "--no-legend", "--plain")
    expect(not failed, failed)
    return {}


def is_confined(long: bool) -> dict[str, Any]:
    text = device.run("systemd-analyze", "security", "--no-pager", device.UNIT)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    expect(found is not None, text[-500:])
    assert found
    expect(float(found[1]) <= EXPOSURE_MAX, found[0])
    return {"exposure": float(found[1])}


def serves_its_apis(long: bool) -> dict[str, Any]:
    """An app of its configuration directory, over HTTP and gRPC."""
    node.configure()
    node.restart()
    status, text = node.call("POST", "/v1.0/state/statestore", [{"key": "first", "value": 1}])
    expect(status == 204, f"{status} {text!r}")
    status, text = node.call("GET", "/v1.0/state/statestore/first")
    expect((status, text) == (200, b"1"), f"{status} {text!r}")
    expect(b"gateway" in node.grpc_metadata(), "GetMetadata over gRPC does not name the app")
    return {}


def doctor_finds_nothing_wrong(long: bool) -> dict[str, Any]:
    """But for what this machine lacks: nobody runs a broker, and no time server is to be had."""
    with node.Broker():
        rows = node.doctor()
    failed = [row for row in rows.values() if row["verdict"] == "fail"]
    expect(not failed, str(failed))
    return {"looked_at": len(rows), "warned_of": sorted(name for name, row in rows.items() if row["verdict"] == "warn")}


def journal_has_fields(long: bool) -> dict[str, Any]:
    entries = [entry for entry in node.journal("APP_ID=gateway") if entry.get("SCOPE", "").startswith("dapr.")]
    expect(bool(entries), "no entry of the app's has the fields APP_ID and SCOPE")
    lacking = {name for name in ("MESSAGE", "PRIORITY", "INSTANCE") for entry in entries if name not in entry}
    expect(not lacking, f"entries lack {lacking}")
    expect({entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"edge-runtime"}, "SYSLOG_IDENTIFIER")
    return {"entries": len(entries)}


def starts_fast(long: bool) -> dict[str, Any]:
    """With one app, its ports and a broker, against an interpreter that imports trio and sqlite3; by turns."""
    starts, imports = [], []
    for _ in range(STARTS[long]):
        device.run("systemctl", "restart", device.UNIT)
        starts.append(device.start_ms())
        imports.append(device.import_ms())
    start, plain = statistics.median(starts), statistics.median(imports)
    figures = {"multiple": round(start / plain, 2), "start_ms": round(start), "import_ms": round(plain)}
    expect(start <= START_MULTIPLE_MAX * plain, f"{figures}; at most {START_MULTIPLE_MAX}")
    return figures
