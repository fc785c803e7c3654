"""A store on a disk whose n-th write, flush, open or truncation fails, for every n until none is left to fail."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the faulty disk is compiled with gcc"),
    pytest.mark.skipif(sys.platform != "linux", reason="the faulty disk is preloaded as Linux does it"),
]


@pytest.fixture(scope="module")
def faulty_disk(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The shared object that a child process preloads."""
    library = tmp_path_factory.mktemp("faulty_disk") / "faulty_disk.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faulty_disk.c"), "-ldl"], check=True
    )
    return library


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize(("kind", "error"), [("write", "ENOSPC"), ("write", "EIO"), ("flush", "EIO")])
@pytest.mark.parametrize("journal", ["wal", "rollback"])
def test_failed_writes_are_told(faulty_disk: pathlib.Path, journal: str, kind: str, error: str, times: int) -> None:
    run_with_faults(faulty_disk, journal, kind, error, times)


@pytest.mark.parametrize(
    ("journal", "kind", "error"),
    [
        ("wal", "open", "EIO"),
        ("wal", "open", "EROFS"),
        ("wal", "open", "ENOSPC"),
        ("wal", "truncate", "EIO"),
        ("rollback", "open", "EIO"),
    ],
)
def test_failed_openings_are_survived(faulty_disk: pathlib.Path, journal: str, kind: str, error: str) -> None:
    run_with_faults(faulty_disk, journal, kind, error, 3)


def run_with_faults(library: pathlib.Path, journal: str, kind: str, error: str, times: int) -> None:
    """Warnings are errors in the child too; what it prints is shown when it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.crash.faulty_store", journal, kind, error, str(times)],
        cwd=HERE.parent.parent,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert "calls failed one after the other" in done.stdout
