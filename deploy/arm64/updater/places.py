"""Where everything is. `EDGE_RUNTIME_UPDATE_ROOT` puts another directory before it all, for tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Places(NamedTuple):
    """`payload` is the package's own copy; a slot is made of it by links, so that it outlives the package's next."""

    payload: Path
    base: Path
    state: Path
    control_socket: Path

    @property
    def slots(self) -> Path:
        return self.base / "slots"

    @property
    def current(self) -> Path:
        return self.base / "current"

    @property
    def pending(self) -> Path:
        return self.state / "pending.json"

    @property
    def status(self) -> Path:
        return self.state / "status.json"

    @property
    def lock(self) -> Path:
        return self.state / "lock"


def read_places() -> Places:
    root = Path(os.environ.get("EDGE_RUNTIME_UPDATE_ROOT", "/"))
    return Places(
        root / "usr/lib/edge-runtime/payload",
        root / "opt/edge-runtime",
        root / "var/lib/edge-runtime-update",
        root / "run/edge-runtime/control.sock",
    )
