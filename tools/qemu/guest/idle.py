"""A node that nobody uses, with HTTP, gRPC and MQTT on: what it holds in memory, and what it writes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import device
import node
from device import expect
from ledger import Receiver

PSS_MB_MAX = 40
IDLE_S = 300
WINDOW_S = {False: 600, True: 3600}


def needs_little_memory(long: bool) -> dict[str, Any]:
    """After five minutes. Shared pages count in proportion: what the page cache holds besides is not the node's."""
    with node.Broker(), Receiver() as receiver:
        _wake(receiver)
        node.settle(IDLE_S)
        memory = device.memory_kb(device.process())
    figures = {name: f"{memory[name] / 1000:.1f} MB" for name in ("Pss", "Pss_Anon", "Rss")}
    expect(memory["Pss"] <= PSS_MB_MAX * 1000, f"{figures}; at most {PSS_MB_MAX} MB of Pss")
    return figures


def writes_nothing(long: bool) -> dict[str, Any]:
    with node.Broker(), Receiver() as receiver:
        _wake(receiver)
        node.settle(120)  # files left behind by the start are closed, their logs taken over
        process, before, disk = device.process(), device.written_bytes(device.process()), device.device_written_bytes()
        busy = _cpu_s(process)
        time.sleep(WINDOW_S[long])
        written = device.written_bytes(process) - before
        figures = {
            "bytes": written,
            "minutes": WINDOW_S[long] // 60,
            "whole_machine_bytes": device.device_written_bytes() - disk,
            "cpu_s": round(_cpu_s(process) - busy, 2),
        }
        expect(device.process() == process, "the node was started anew meanwhile")
    expect(written == 0, str(figures))
    return figures


def _wake(receiver: Receiver) -> None:
    """Everything is loaded: a state, an event over the broker and back, a gRPC call."""
    node.configure()
    node.restart()
    expect(b"gateway" in node.grpc_metadata(), "GetMetadata over gRPC does not name the app")
    device.until("the node saves", lambda: _post("/v1.0/state/statestore", [{"key": "idle", "value": 1}]))
    receiver.seen["/readings"].discard(7)

    def came() -> bool:
        _post("/v1.0/publish/broker/readings", {"n": 7})
        time.sleep(1)
        return 7 in receiver.seen["/readings"]

    device.until("an event comes back from the broker", came)


def _post(path: str, body: object) -> bool:
    return node.call("POST", path, body)[0] == 204


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100
