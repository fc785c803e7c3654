"""Which processes have which files open, as far as this user may see that; `root` is where /proc is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Holder(NamedTuple):
    """A process; `name` is what it calls itself."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def holders_of(paths: Iterable[str], root: str = "/") -> list[Holder]:
    """Who has one of the files open, whatever path it was opened by. This process is left out."""
    wanted = set()
    for path in paths:
        try:
            facts = os.stat(path)
        except OSError:
            continue
        wanted.add((facts.st_dev, facts.st_ino))
    return [holder(pid, root) for pid in _pids(root) if pid != os.getpid() and wanted & set(_files(pid, root))]


def holders_of_sockets(inodes: Iterable[int], root: str = "/") -> list[Holder]:
    """Whose the sockets are."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return [holder(pid, root) for pid in _pids(root) if wanted & set(_targets(pid, root))]


def holder(pid: int, root: str = "/") -> Holder:
    try:
        with open(os.path.join(root, "proc", str(pid), "comm"), encoding="utf-8", errors="replace") as file:
            return Holder(pid, file.read().strip())
    except OSError:
        return Holder(pid, "unknown")


def _pids(root: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(os.path.join(root, "proc")) if name.isdigit())
    except OSError:
        return []


def _descriptors(pid: int, root: str) -> Iterator[str]:
    folder = os.path.join(root, "proc", str(pid), "fd")
    try:
        names = os.listdir(folder)
    except OSError:
        return  # it ended, or is not ours to see
    for name in names:
        yield os.path.join(folder, name)


def _targets(pid: int, root: str) -> Iterator[str]:
    for path in _descriptors(pid, root):
        try:
            yield os.readlink(path)
        except OSError:
            continue


def _files(pid: int, root: str) -> Iterator[tuple[int, int]]:
    for path in _descriptors(pid, root):
        try:
            facts = os.stat(path)
        except OSError:
            continue
        yield facts.st_dev, facts.st_ino
