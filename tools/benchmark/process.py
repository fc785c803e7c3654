"""What the kernel knows of a process: CPU time, memory, bytes written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Kilobytes of the whole process; private dirty is what no other process could share."""

    rss_kb: int
    private_dirty_kb: int
    pss_kb: int


def cpu_ns(pid: int) -> int:
    """CPU time of all its threads, living ones to the nanosecond (schedstat), as user and system together."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended while we looked
    return total


def memory(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    values = {name: int(kb) for name, kb in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return Memory(values["Rss"], values["Private_Dirty"], values["Pss"])


def peak_rss_kb(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) if match else 0


def bytes_written(pid: int) -> int:
    """Bytes it caused to be written to a block device."""
    match = re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


def pin(pid: int, cpu: int) -> None:
    """Keep every thread of the process on one core. Does nothing on a machine with a single one."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        return
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {available[cpu % len(available)]})
