"""An outbox on a disk whose n-th write or flush fails, for every n until none is left to fail."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.crash.test_store_faults import HERE, pytestmark  # noqa: F401 - skips where there is no faulty disk
from tests.crash.test_store_faults import faulty_disk as faulty_disk  # the fixture


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.long)])
@pytest.mark.parametrize(("kind", "error"), [("write", "ENOSPC"), ("write", "EIO"), ("flush", "EIO")])
def test_what_was_taken_in_is_sent(faulty_disk: pathlib.Path, kind: str, error: str, times: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.crash.faulty_outbox", kind, error, str(times)],
        cwd=HERE.parent.parent,
        env={**os.environ, "LD_PRELOAD": str(faulty_disk)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert "calls failed one after the other" in done.stdout
