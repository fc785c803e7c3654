"""An outage from beginning to end: two nodes, a link between them, and one end of it that goes away.

    python3 outage.py <directory for what the nodes keep>

It starts the nodes, kills the office's and later the till's (SIGKILL), looks with the commands of `edge-runtime`,
brings all back and waits until the books are equal. Exit code 1 when they do not come to be.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OFFICE, TILL = "http://127.0.0.1:6021", "http://127.0.0.1:6031"
COMMAND = (sys.executable, "-m", "edge_runtime")
WAIT_S = 60


class Node:
    """One `edge-runtime run` with its app."""

    def __init__(self, name: str, url: str, state: Path) -> None:
        self.url = url
        words = ("run", "-f", str(HERE / name), "--no-attach", "--state-dir", str(state / name))
        self._command = (*COMMAND, *words)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)
        wait_for("a node that answers", lambda: self.get("/v1.0/healthz") is not None)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            return None

    def book(self, key: str = "book") -> dict[str, int]:
        return json.loads(self.get(f"/v1.0/state/statestore/{key}") or b'{"sales": 0, "cents": 0}')  # type: ignore[no-any-return]

    def note(self, key: str, value: Any) -> None:
        body = json.dumps([{"key": key, "value": value}]).encode()
        headers = {"content-type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/v1.0/state/statestore", body, headers), timeout=5)


def say(text: str) -> None:
    print(f"\n» {text}", flush=True)


def look(*words: str) -> None:
    print(f"\n$ edge-runtime {' '.join(words)}", flush=True)
    subprocess.run([*COMMAND, *words], check=False)
    print(flush=True)


def wait_for(what: str, done: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: not within {WAIT_S} s")
        time.sleep(0.1)


def sell(till: Node, sales: int) -> int:
    """Waits for so many more. Returns how many there are then, at the least."""
    least = till.book()["sales"] + sales
    wait_for("sales", lambda: till.book()["sales"] >= least)
    return least


def outage(office: Node, till: Node) -> None:
    say("two nodes start: the till's, and the office's, which plays the cloud; sales cross the link between them")
    office.start()
    till.start()
    till.note("closed", False)
    least = sell(till, 3)
    wait_for("sales at the office", lambda: office.book()["sales"] >= least)

    say("the office is gone: kill -9. The till sells on")
    office.kill()
    sell(till, 5)
    look("outbox", "list", "-a", "till")
    look("sync", "status", "-a", "till")

    say("the till's node is killed too: kill -9. It starts again, without the office")
    till.kill()
    till.start()
    sell(till, 3)

    say("the office is back; the shop closes")
    office.start()
    till.note("closed", True)
    wait_for("equal books", lambda: till.book() == office.book() == office.book("till-book"))
    look("sync", "status", "-a", "till")
    for name, book in (
        ("till", till.book()),
        ("copy at the office", office.book("till-book")),
        ("office", office.book()),
    ):
        print(f"{name:20}{book['sales']:6} sales {book['cents']:8} cents", flush=True)
    say("the books are equal")


def main(state: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    state.mkdir(parents=True, exist_ok=True)
    office, till = Node("office", OFFICE, state), Node("till", TILL, state)
    try:
        outage(office, till)
    except KeyboardInterrupt:
        say("ended by hand")
    finally:
        till.stop()
        office.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
