"""What a check says, and how those that look into /proc and /sys find their way; tests have a root of their own."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

Verdict = Literal["ok", "warn", "fail", "skipped"]


class Check(NamedTuple):
    """`seen` is what was found, `mend` what to do about it."""

    name: str
    verdict: Verdict
    seen: str
    mend: str = ""

    def as_mapping(self) -> dict[str, Any]:
        return self._asdict()


class System:
    """The files in which the kernel tells of itself."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def path(self, name: str) -> str:
        return os.path.join(self.root, name.lstrip("/"))

    def text(self, name: str, default: str = "") -> str:
        """The file's text without blanks around it; `default` when it cannot be read."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return default

    def names(self, name: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(name)))
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name))


def shown_bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
