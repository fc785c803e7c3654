"""Everything durable on a disk of which calls fail, and under clocks that nobody would believe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.wall_clock import WallClock, needs_wall_clock

ROOT = Path(__file__).parents[3]
YEAR_S = 365 * 86400
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="what is preloaded is compiled with gcc"),
    pytest.mark.skipif(sys.platform != "linux", reason="it is preloaded as Linux does it"),
]


def run(module: str, *arguments: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"tests.crash.durable.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "error", "times"),
    [("write", "ENOSPC", 5), ("write", "EIO", 1), ("flush", "EIO", 1), ("open", "EROFS", 3), ("truncate", "EIO", 2)],
)
def test_nothing_acknowledged_is_lost_on_a_failing_disk(tmp_path: Path, kind: str, error: str, times: int) -> None:
    library = tmp_path / "faulty_disk.so"
    source = ROOT / "tests" / "crash" / "faulty_disk.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    said = run("faulty", kind, error, str(times), environment={"LD_PRELOAD": str(library)})
    assert "calls failed one after the other" in said


@needs_wall_clock
def test_nothing_acknowledged_is_lost_when_clocks_jump(tmp_path: Path) -> None:
    """1970, ten years on, back, today, and ten years ahead of today."""
    folder = tmp_path / "node"
    folder.mkdir()
    now = 1_790_000_000
    for life, at in enumerate((60, 10 * YEAR_S, 60, now, now + 10 * YEAR_S, now)):
        clock = WallClock(tmp_path, at)
        run("lived", str(folder), str(tmp_path / "lines"), str(1 + life * 1000), environment=clock.environment)
