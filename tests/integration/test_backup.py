"""A node is backed up while apps write, lost, and restored: nothing of before is missing, nothing is given twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import Run, ask
from tests.support.resources import component, write
from tests.support.sidecar import free_port, request

pytestmark = pytest.mark.slow

UP = "You're up and running!"
ROUTE = "pubsub.mqtt3/shop/broker"


class Node:
    """One app, whose broker is away for ever, and whose state lies partly elsewhere."""

    def __init__(self, place: Path) -> None:
        self.port = free_port()
        self.run = Run(
            place,
            "run",
            "-a",
            "shop",
            "-H",
            str(self.port),
            "--resources-path",
            str(place / "resources"),
            "--no-attach",
        )
        self.run.wait_line(UP)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *error: object) -> None:
        self.run.__exit__(None, None, None)

    def save(self, store: str, key: str) -> None:
        assert request(self.port, "POST", f"/v1.0/state/{store}", [{"key": key, "value": key}]).status == 204

    def has(self, store: str, key: str) -> bool:
        return request(self.port, "GET", f"/v1.0/state/{store}/{key}").status == 200

    def publish(self, number: int) -> None:
        assert request(self.port, "POST", "/v1.0/publish/broker/a", number).status == 204


class Writer(threading.Thread):
    """Saves one key after the other until it is told to stop; `saved` have been acknowledged."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self.enough = threading.Event()
        self.saved = 0

    def run(self) -> None:
        while not self.enough.is_set():
            self._node.save("statestore", f"busy-{self.saved}")
            self.saved += 1


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, kind, fields in (
        ("statestore", "state.sqlite", {"connectionString": str(tmp_path / "state" / "statestore.db")}),
        ("orders", "state.sqlite", {"connectionString": str(tmp_path / "data" / "orders.db")}),
        ("broker", "pubsub.mqtt3", {"url": f"mqtt://127.0.0.1:{free_port()}", "consumerID": "shop"}),
    ):
        write(tmp_path / "resources", f"{name}.yaml", component(name, kind, fields))
    (tmp_path / "data").mkdir()
    return tmp_path


def ids(place: Path) -> list[str]:
    done = ask(place, "outbox", "export", ROUTE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["id"] for line in done.stdout.splitlines()]


def told(place: Path, *words: str, code: int = 0) -> dict[str, Any]:
    done = ask(place, *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def test_a_lost_node_goes_on_from_its_backup(place: Path) -> None:
    target, key = str(place / "backup"), str(place / "key")
    assert ask(place, "backup", "keygen", key).returncode == 0
    with Node(place) as node:
        node.save("orders", "first")
        for number in range(5):
            node.publish(number)
        writer = Writer(node)
        writer.start()
        try:
            for _ in range(3):
                before = writer.saved
                outcome = told(place, "backup", target, "--seal-key", key)
                assert writer.saved > before, "the node goes on meanwhile"
        finally:
            writer.enough.set()
            writer.join()
        assert outcome["verified"]
        assert [Path(row["path"]).name for row in outcome["databases"]] == ["statestore.db", "orders.db", "node.db"]
        node.save("orders", "second")
        for number in range(5, 10):
            node.publish(number)
        refused = told(place, "restore", target, "--seal-key", key, "--state-dir", str(place / "state"), code=1)
        assert "stop it first" in refused["error"]
        node.run.kill()

    lost = ids(place)
    assert len(lost) == 10
    told(place, "restore", target, "--seal-key", key)
    assert ids(place) == lost[:5]
    with Node(place) as node:
        assert node.has("statestore", f"busy-{before - 1}" if before else "busy-0")
        assert node.has("orders", "first")
        assert not node.has("orders", "second")
        for number in range(5, 10):
            node.publish(number)
        assert node.run.stop() == 0
    found = ids(place)
    assert found[:5] == lost[:5]
    assert len({*found, *lost}) == 15, "no id is given to two events"
