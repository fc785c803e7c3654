"""kill -9 at random moments under mixed load, against a ledger: nothing acknowledged is lost, nothing is invented.

Each round starts the real process on the same state, looks at what the round before left, loads it from several threads
(saves, transactions over two keys, publishes) and kills it. At the end an app subscribes and every acknowledged event
has to arrive.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received
from tests.support.sidecar import SERVING, Sidecar

THREADS = 4
TOPIC = "ledger"


class Ledger:
    """What was sent and what was acknowledged. A value is a number that only grows, one writer each."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}
        self.events_sent: set[str] = set()
        self.events_acknowledged: set[str] = set()


class Writer(threading.Thread):
    """One client on one connection until the connection breaks."""

    def __init__(self, port: int, name: str, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._name = name
        self._ledger = ledger
        self._number = 0
        self.unexpected: list[str] = []

    def run(self) -> None:
        try:
            while True:
                self._number += 1
                self._save()
                self._transact()
                self._publish()
        except (OSError, http.client.HTTPException):
            pass  # the process was killed; what it did not acknowledge is open
        finally:
            self._connection.close()

    def _post(self, path: str, body: Any) -> None:
        self._connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 204:
            self.unexpected.append(f"{path}: {response.status} {text!r}")

    def _save(self) -> None:
        key = f"{self._name}-single"
        self._ledger.sent[key] = self._number
        self._post("/v1.0/state/statestore", [{"key": key, "value": self._number}])
        self._ledger.acknowledged[key] = self._number

    def _transact(self) -> None:
        keys = (f"{self._name}-left", f"{self._name}-right")
        operations = [{"operation": "upsert", "request": {"key": key, "value": self._number}} for key in keys]
        self._ledger.sent.update(dict.fromkeys(keys, self._number))
        self._post("/v1.0/state/statestore/transaction", {"operations": operations})
        self._ledger.acknowledged.update(dict.fromkeys(keys, self._number))

    def _publish(self) -> None:
        event = f"{self._name}-{self._number}"
        self._ledger.events_sent.add(event)
        self._post(f"/v1.0/publish/pubsub/{TOPIC}", {"event": event})
        self._ledger.events_acknowledged.add(event)


def check_state(sidecar: Sidecar, ledger: Ledger) -> None:
    """Every key that was ever written, against the ledger; transactions whole or not at all."""
    keys = sorted(ledger.sent)
    found: dict[str, int] = {}
    for start in range(0, len(keys), 500):
        body = {"keys": keys[start : start + 500]}
        for item in sidecar.http("POST", "/v1.0/state/statestore/bulk", body).json():
            found[item["key"]] = item.get("data", 0)
    for key in keys:
        assert ledger.acknowledged.get(key, 0) <= found[key] <= ledger.sent[key], key
        if key.endswith("-left"):
            assert found[key] == found[key.replace("-left", "-right")], key


def run_rounds(state_dir: Path, rounds: int, seed: int) -> Ledger:
    chance = random.Random(seed)
    ledger = Ledger()
    for number in range(rounds):
        with Sidecar(state_dir, "--log-level", "warn", ready="") as sidecar:
            wait_until_serving(sidecar)
            check_state(sidecar, ledger)
            writers = [Writer(sidecar.port, f"r{number}-t{thread}", ledger) for thread in range(THREADS)]
            killer = threading.Timer(chance.uniform(0.001, 0.15), sidecar.process.kill)
            for thread in (*writers, killer):
                thread.start()
            for writer in writers:
                writer.join()
                assert not writer.unexpected, writer.unexpected
            sidecar.wait()
    return ledger


def wait_until_serving(sidecar: Sidecar) -> None:
    while True:
        try:
            if sidecar.http("GET", "/v1.0/healthz").status == 204:
                return
        except OSError:
            assert sidecar.process.poll() is None, sidecar.said


def check_events(state_dir: Path, ledger: Ledger) -> None:
    """Subscribe at last: everything acknowledged arrives, and nothing that was never sent."""
    missing = set(ledger.events_acknowledged)
    invented: set[str] = set()
    complete = threading.Event()

    def take(came: Received) -> tuple[int, Any]:
        event = came.json()["data"]["event"]
        missing.discard(event)
        if event not in ledger.events_sent:
            invented.add(event)
        if not missing:
            complete.set()
        return 200, {}

    subscription = [{"pubsubname": "pubsub", "topic": TOPIC, "route": "/take"}]
    with App({"/dapr/subscribe": lambda _: (200, subscription), "/take": take}) as app:
        with Sidecar(state_dir, app_port=app.port, ready=SERVING) as sidecar:
            assert complete.wait(300), f"missing {len(missing)} events, {sorted(missing)[:5]}"
            assert sidecar.stop() == 0
    assert not invented


def play(state_dir: Path, rounds: int, seed: int) -> None:
    print(f"seed {seed}, {rounds} rounds")
    ledger = run_rounds(state_dir, rounds, seed)
    with Sidecar(state_dir) as sidecar:
        check_state(sidecar, ledger)
        assert sidecar.stop() == 0
    assert ledger.events_acknowledged, "the load acknowledged nothing: the test would prove nothing"
    check_events(state_dir, ledger)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    play(tmp_path, rounds=12, seed=1)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_in_500_kills(tmp_path: Path) -> None:
    play(tmp_path, rounds=500, seed=random.randrange(2**32))
