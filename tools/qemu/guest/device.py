"""What a check asks the machine and the service manager. Runs in the emulated machine, with its own python3."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

UNIT = "edge-runtime.service"
PYTHON = "/opt/edge-runtime/current/bin/python3"
START_S = 300.0  # an emulated processor, on a host that does other things too
SECTOR_BYTES = 512


class CheckError(Exception):
    """A check that does not hold, with the numbers or the output that show it."""


def expect(holds: bool, why: str) -> None:
    if not holds:
        raise CheckError(why)


def run(*words: str) -> str:
    """What the command says; its failure fails the check."""
    code, text = attempt(*words)
    expect(code == 0, f"{' '.join(words)}: exit code {code}: {text[-1500:]}")
    return text


def attempt(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    return done.returncode, done.stdout.strip()


def show(name: str, unit: str = UNIT) -> str:
    """A property of a unit."""
    return run("systemctl", "show", unit, "-p", name, "--value")


def process() -> int:
    return int(show("MainPID"))


def until(holds: str, question: object, within_s: float = START_S) -> None:
    """Wait until `question()` is true; `holds` says what that would mean."""
    end = time.monotonic() + within_s
    while not question():  # type: ignore[operator]
        expect(time.monotonic() < end, f"not within {within_s:.0f} s: {holds}")
        time.sleep(0.5)


def start_ms() -> float:
    """From the start of the process to READY, by the service manager's own clock."""
    begun, active = int(show("ExecMainStartTimestampMonotonic")), int(show("ActiveEnterTimestampMonotonic"))
    return (active - begun) / 1000


def import_ms() -> float:
    """The same measure for an interpreter that only imports what no node can do without."""
    begun = time.monotonic()
    run(PYTHON, "-IB", "-c", "import trio, sqlite3")
    return (time.monotonic() - begun) * 1000


def memory_kb(pid: int) -> dict[str, int]:
    """Of all mappings together: Rss, Pss, Pss_Anon, Private_Dirty and others."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def written_bytes(pid: int) -> int:
    """What the process made the disk write, or will have once the kernel gets to it."""
    found = re.search(r"^write_bytes: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def root_device() -> str:
    """Its name below /sys/block; the order in which the disks are found is not that of the command line."""
    source = run("findmnt", "-no", "SOURCE", "/")
    return os.path.basename(os.path.realpath(source))


def device_written_bytes() -> int:
    """What reached the disk of the root file system, by whatever process."""
    return int(Path(f"/sys/block/{root_device()}/stat").read_text().split()[6]) * SECTOR_BYTES


def tree_bytes(*roots: str) -> int:
    """Blocks that the trees take up, each hard-linked file once, as `du` counts."""
    sizes: dict[tuple[int, int], int] = {}
    for root in roots:
        for folder, names, files in os.walk(root):
            for name in [*names, *files]:
                status = os.lstat(os.path.join(folder, name))
                sizes[status.st_dev, status.st_ino] = status.st_blocks * SECTOR_BYTES
    return sum(sizes.values())
