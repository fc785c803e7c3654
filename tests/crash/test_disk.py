"""A node whose disk is full or read-only, or whose files are damaged at their root: real processes, real mounts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sidecar import SERVING, Sidecar

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "edge-test", str(place)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"mounting needs root: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def save(sidecar: Sidecar, key: str, value: str) -> tuple[int, str]:
    answer = sidecar.http("POST", "/v1.0/state/statestore", [{"key": key, "value": value}])
    return answer.status, answer.body.decode()


def value(sidecar: Sidecar, key: str) -> str:
    return str(sidecar.http("GET", f"/v1.0/state/statestore/{key}").json())


def wait_until_well(sidecar: Sidecar) -> None:
    """A file that nobody writes to is looked at every few seconds."""
    for _ in range(100):
        if sidecar.http("GET", "/v1.0/healthz").status == 204:
            return
        time.sleep(0.2)
    raise AssertionError(f"it stays unwell; said:\n{sidecar.said[-4000:]}")


def fill(place: Path) -> Path:
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk is never full")


def test_a_full_disk_refuses_and_goes_on(disk: Path) -> None:
    with Sidecar(disk / "state", ready=SERVING) as sidecar:
        assert save(sidecar, "before", "x" * 5000)[0] == 204
        ballast = fill(disk)
        kept = 0
        while (answer := save(sidecar, f"while{kept}", "x" * 5000))[0] == 204:
            kept += 1
        assert "the disk is full" in answer[1]
        assert "free some space" in answer[1]
        assert sidecar.http("POST", "/v1.0/publish/pubsub/t", {"pad": "x" * 500_000}).status >= 500
        assert value(sidecar, "before") == "x" * 5000
        assert sidecar.http("GET", "/v1.0/healthz").status == 500
        ballast.unlink()
        assert save(sidecar, "after", "y")[0] == 204
        wait_until_well(sidecar)
        sidecar.kill()
    with Sidecar(disk / "state") as sidecar:
        expected = {"before": "x" * 5000, "after": "y", **{f"while{number}": "x" * 5000 for number in range(kept)}}
        assert {key: value(sidecar, key) for key in expected} == expected
        assert sidecar.http("GET", f"/v1.0/state/statestore/while{kept}").status == 204, "it was refused"


def test_a_read_only_disk_is_read(disk: Path) -> None:
    with Sidecar(disk / "state") as sidecar:
        assert save(sidecar, "before", "x")[0] == 204
        sidecar.kill()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with Sidecar(disk / "state", ready=SERVING) as sidecar:
        assert value(sidecar, "before") == "x"
        status, said = save(sidecar, "while", "x")
        assert status >= 500
        assert "read-only" in said
        assert sidecar.http("GET", "/v1.0/healthz").status == 500
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        for _ in range(100):
            if save(sidecar, "after", "y")[0] == 204:
                break
            time.sleep(0.2)
        assert value(sidecar, "after") == "y"
        wait_until_well(sidecar)


@pytest.mark.parametrize(("place", "length"), [(0, 16), (100, 8)])
def test_a_file_damaged_at_its_root_is_named(tmp_path: Path, place: int, length: int) -> None:
    """The header, and the first page's."""
    with Sidecar(tmp_path) as sidecar:
        assert sidecar.http("POST", "/v1.0/publish/pubsub/t", {"a": 1}).status == 204
        assert sidecar.stop() == 0
    path = tmp_path / "node.db"
    content = bytearray(path.read_bytes())
    content[place : place + length] = b"\xa5" * length
    path.write_bytes(content)
    with Sidecar(tmp_path, ready="") as sidecar:
        assert sidecar.wait() != 0
        assert str(path) in sidecar.said
        assert "move it away together with its -wal and -shm files" in sidecar.said
        assert "Traceback" not in sidecar.said
    path.unlink()
    with Sidecar(tmp_path) as sidecar:
        assert sidecar.stop() == 0
