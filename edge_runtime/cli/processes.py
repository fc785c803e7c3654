"""Sidecars found the way Dapr's command line finds them: processes named `daprd`, and the flags they were given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

_NAME: Final = b"daprd"


class Sidecar(NamedTuple):
    """A sidecar's process. `started_at` is unix time."""

    pid: int
    flags: Mapping[str, Sequence[str]]
    started_at: float

    @property
    def app_id(self) -> str:
        return self.last("app-id")

    @property
    def http_port(self) -> int:
        return self.port("dapr-http-port", 3500)

    @property
    def grpc_port(self) -> int:
        return self.port("dapr-grpc-port", 50001)

    @property
    def app_port(self) -> int:
        return self.port("app-port", 0)

    @property
    def metrics_enabled(self) -> bool:
        return self.last("enable-metrics", "true").lower() not in ("false", "f", "0")

    def last(self, name: str, default: str = "") -> str:
        values = self.flags.get(name)
        return values[-1] if values else default

    def port(self, name: str, default: int) -> int:
        text = self.last(name)
        return int(text) if text.isdigit() else default


def sidecars(proc: str = "/proc") -> Iterator[Sidecar]:
    """Every sidecar of the machine that has an app-id, ours and Dapr's."""
    boot = _boot_time(proc)
    for name in sorted((entry for entry in os.listdir(proc) if entry.isdigit()), key=int):
        try:
            sidecar = _read(proc, int(name), boot)
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked, or is not ours to see
        if sidecar is not None and sidecar.app_id:
            yield sidecar


def _read(proc: str, pid: int, boot: float) -> Sidecar | None:
    with open(f"{proc}/{pid}/stat", "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    if head.partition(b"(")[2] != _NAME:
        return None
    with open(f"{proc}/{pid}/cmdline", "rb") as file:
        words = os.fsdecode(file.read()).split("\0")
    ticks = int(tail.split()[19])
    return Sidecar(pid, flags_of(words), boot + ticks / os.sysconf("SC_CLK_TCK"))


def flags_of(words: Sequence[str]) -> dict[str, list[str]]:
    """The double-dash flags of a command line up to `--`; the first word is the program."""
    found: dict[str, list[str]] = {}
    index = 1
    while index < len(words) and words[index] != "--":
        word = words[index]
        index += 1
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and index < len(words) and not words[index].startswith("--"):
            value = words[index]
            index += 1
        found.setdefault(name, []).append(value)
    return found


def _boot_time(proc: str) -> float:
    try:
        with open(f"{proc}/stat", "rb") as file:
            for line in file:
                if line.startswith(b"btime "):
                    return float(line.split()[1])
    except OSError:
        pass
    return 0.0
