"""The `process_*` families of the Prometheus page, read from /proc when the page is made; none where it is missing."""

from __future__ import annotations

import os
from typing import Final

_STAT_UTIME: Final = 11  # fields after the command's name in /proc/self/stat
_STAT_STIME: Final = 12
_STAT_STARTED: Final = 19
_STAT_VIRTUAL: Final = 20
_STAT_RESIDENT: Final = 21


def render_process(proc: str = "/proc") -> str:
    """Memory, processor time, files and start of this process."""
    try:
        with open(f"{proc}/self/stat", encoding="ascii", errors="replace") as file:
            stat = file.read().rpartition(")")[2].split()
        open_files = len(os.listdir(f"{proc}/self/fd"))
        started_s = _boot_time_s(proc) + int(stat[_STAT_STARTED]) / _ticks()
    except (OSError, ValueError, IndexError):
        return ""
    families = (
        ("process_cpu_seconds_total", "counter", (int(stat[_STAT_UTIME]) + int(stat[_STAT_STIME])) / _ticks()),
        ("process_open_fds", "gauge", open_files),
        ("process_resident_memory_bytes", "gauge", int(stat[_STAT_RESIDENT]) * os.sysconf("SC_PAGE_SIZE")),
        ("process_start_time_seconds", "gauge", started_s),
        ("process_virtual_memory_bytes", "gauge", int(stat[_STAT_VIRTUAL])),
    )
    return "".join(f"# TYPE {name} {kind}\n{name} {value}\n" for name, kind, value in families)


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def _boot_time_s(proc: str) -> int:
    with open(f"{proc}/stat", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))
