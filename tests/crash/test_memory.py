"""Little memory: within 64 MB the node serves, within less it serves or ends, and nothing acknowledged is lost."""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.crash.test_acknowledged_survives import Ledger, Writer, check_state, wait_until_serving
from tests.support.sidecar import Answer, Program, Sidecar, free_port, request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it"),
]

MIB: Final = 2**20
LOAD_S: Final = 2.0
CGROUPS: Final = Path("/sys/fs/cgroup")


class Node(Program):
    """A node's process, made by a command around it."""

    def __init__(self, state_dir: Path, *around: str) -> None:
        self.port = free_port()
        ports = ("--dapr-http-port", str(self.port), "--dapr-grpc-port", str(free_port()))
        flags = ("--app-id", "app", "--metrics-port", str(free_port()), "--state-dir", str(state_dir))
        super().__init__([*around, "daprd", *ports, *flags, "--log-level", "warn"])

    def __enter__(self) -> Node:
        return self

    def http(self, method: str, path: str, body: object = None) -> Answer:
        return request(self.port, method, path, body, timeout=30)


@contextmanager
def limited_to(size: int) -> Iterator[Sequence[str]]:
    """The beginning of a command line that has so much memory, the pages of its program and of files included."""
    second = (CGROUPS / "cgroup.controllers").exists()
    folder = CGROUPS / ("" if second else "memory") / f"edge-test-{os.getpid()}"
    limit = folder / ("memory.max" if second else "memory.limit_in_bytes")
    try:
        folder.mkdir()
        limit.write_text(str(size))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"memory can be limited by who may make control groups with a memory controller: {error}")
    try:
        yield "sh", "-c", f'echo $$ >{folder}/cgroup.procs && exec "$@"', "sh"
    finally:
        for _ in range(100):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def load(node: Node, ledger: Ledger, name: str) -> None:
    """By several clients for a while, or for as long as it lives."""
    writers = [Writer(node.port, f"{name}-t{number}", ledger) for number in range(4)]
    for writer in writers:
        writer.start()
    until = time.monotonic() + LOAD_S
    while time.monotonic() < until and any(writer.is_alive() for writer in writers):
        time.sleep(0.01)


def check(state_dir: Path, ledger: Ledger) -> None:
    with Sidecar(state_dir) as sidecar:
        check_state(sidecar, ledger)
        assert sidecar.stop() == 0


def answers(node: Node) -> bool:
    """It takes a write; False when it has ended. One that lives and does not answer fails the test."""
    try:
        for _ in range(20):
            if node.http("POST", "/v1.0/state/statestore", [{"key": "alive", "value": 1}]).status == 204:
                return True
            time.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"it lives and does not answer; said:\n{node.said[-4000:]}") from None
    except (ConnectionError, http.client.HTTPException):
        node.wait(10.0)
        return False
    raise AssertionError(f"it lives and takes no writes; said:\n{node.said[-4000:]}")


def serve_within(size: int, state_dir: Path) -> tuple[bool, Ledger]:
    ledger = Ledger()
    with limited_to(size) as around, Node(state_dir, *around, sys.executable, "-m", "edge_runtime") as node:
        try:
            wait_until_serving(node)  # type: ignore[arg-type]
            load(node, ledger, "limited")
            alive = answers(node)
        except AssertionError:
            if node.process.poll() is None:
                raise
            alive = False
        node.kill()
    return alive, ledger


def test_64_mb_are_enough(tmp_path: Path) -> None:
    alive, ledger = serve_within(64 * MIB, tmp_path)
    assert alive
    assert ledger.acknowledged
    check(tmp_path, ledger)


@pytest.mark.parametrize("size_mib", [48, 24])
def test_less_loses_nothing(tmp_path: Path, size_mib: int) -> None:
    alive, ledger = serve_within(size_mib * MIB, tmp_path)
    print(f"{size_mib} MiB: {'served' if alive else 'ended'}, {len(ledger.acknowledged)} keys acknowledged")
    check(tmp_path, ledger)
