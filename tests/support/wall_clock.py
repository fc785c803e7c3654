"""A wall clock of its own for a process under test, that can be set while it runs. Compiled with gcc."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

SYNCHRONIZED: Final = 0
UNSYNCHRONIZED: Final = 5
needs_wall_clock = pytest.mark.skipif(
    shutil.which("gcc") is None or sys.platform != "linux", reason="the wall clock is compiled with gcc and preloaded"
)


class WallClock:
    """`environment` gives it to a process."""

    def __init__(self, place: Path, at: float) -> None:
        self._page = place / "wall-clock"
        self._page.write_bytes(bytes(16))
        self.set(at)
        library = place / "wall_clock.so"
        source = Path(__file__).with_name("wall_clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "TEST_WALL_CLOCK": str(self._page)}

    def set(self, at: float, kernel: int = UNSYNCHRONIZED) -> None:
        """From now on it goes on from there; `kernel` is what adjtimex says of it."""
        with self._page.open("r+b", buffering=0) as file:
            file.write(struct.pack("=qq", round(at - time.time()), kernel))
