"""Allocations that fail at any place: nothing acknowledged is lost, and the process serves on or ends.

Now and then it is left able to do neither; then its watchdog is not fed any more, and the service manager ends it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.test_acknowledged_survives import Ledger, wait_until_serving
from tests.crash.test_memory import LOAD_S, Node, check
from tests.support.sidecar import request

pytestmark = pytest.mark.slow
ANSWER_S = 5.0
WATCHDOG_S = 6.0


class Client(threading.Thread):
    """Saves on one connection until it breaks; what is refused is not acknowledged."""

    def __init__(self, port: int, name: str, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._port, self._name, self._ledger = port, name, ledger
        self.refused: Counter[int] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        for number in itertools.count(1):
            for path, keys in (("", ["single"]), ("/transaction", ["left", "right"])):
                try:
                    self._save(connection, path, [f"{self._name}-{key}" for key in keys], number)
                except (OSError, http.client.HTTPException):
                    connection.close()
                    if not self._is_there():
                        return
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)

    def _save(self, connection: http.client.HTTPConnection, path: str, keys: list[str], number: int) -> None:
        self._ledger.sent.update(dict.fromkeys(keys, number))
        rows = [{"key": key, "value": number} for key in keys]
        body: object = rows if not path else {"operations": [{"operation": "upsert", "request": row} for row in rows]}
        headers = {"content-type": "application/json"}
        connection.request("POST", f"/v1.0/state/statestore{path}", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status == 204:
            self._ledger.acknowledged.update(dict.fromkeys(keys, number))
        else:
            self.refused[answer.status] += 1

    def _is_there(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S).close()
        except OSError:
            return False
        return True


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import _testcapi"], capture_output=True, check=False).returncode != 0,
    reason="this Python was built without its test modules",
)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_acknowledged_is_lost_where_allocations_fail(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger()
    begin = tmp_path / "begin"
    around = (sys.executable, "-m", "tests.crash.short_of_memory", str(begin), str(seed))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(round(WATCHDOG_S * 1e6)))
        with Node(tmp_path / "state", *around) as node:
            wait_until_serving(node)  # type: ignore[arg-type]
            begin.touch()
            clients = [Client(node.port, f"t{number}", ledger) for number in range(4)]
            for client in clients:
                client.start()
            until = time.monotonic() + LOAD_S
            while time.monotonic() < until and node.process.poll() is None:
                time.sleep(0.01)
            begin.unlink()
            serves = saves(node) if node.process.poll() is None else None
            if serves is False:
                assert not fed(manager), "it serves nobody, and would run on like that"
            code = node.process.poll()
            node.kill()
            for client in clients:
                client.join(30)
            refused = sum((client.refused for client in clients), Counter[int]())
            print(f"exit code {code}, serves {serves}, refused {dict(refused)}")
    check(tmp_path / "state", ledger)


def saves(node: Node) -> bool:
    """Whether it does, now that allocations succeed again. What failed a moment ago may have closed the connection."""
    for _ in range(3):
        with suppress(OSError, http.client.HTTPException):
            body = [{"key": "k", "value": 1}]
            if request(node.port, "POST", "/v1.0/state/statestore", body, timeout=ANSWER_S).status == 204:
                return True
    return False


def fed(manager: socket.socket) -> bool:
    """Whether the watchdog is, from now on: within the time after which the manager ends the process."""
    manager.setblocking(False)
    with suppress(BlockingIOError):
        while manager.recv(4096):
            pass
    until = time.monotonic() + WATCHDOG_S
    while (left := until - time.monotonic()) > 0:
        manager.settimeout(left)
        with suppress(TimeoutError, BlockingIOError):
            if b"WATCHDOG=1" in manager.recv(4096):
                return True
    return False
