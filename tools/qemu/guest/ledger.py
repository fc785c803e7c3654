"""A mixed load whose acknowledgements are written down, and the proof that what was acknowledged is there.

Every operation is a numbered line: `state <key> <n>`, `topic <n>`, `outbox <n>`. It is written after the node's answer,
never before, so that a line says: this must outlive anything.
"""

from __future__ import annotations

import http.client
import http.server
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import device
import node

KEYS = 20
AWAY_S = 0.2  # between tries while the node is away
PUBLISHES = {"topic": "/v1.0/publish/pubsub/orders", "outbox": "/v1.0/publish/broker/readings"}


class Ledger:
    """What was acknowledged: the newest number of each key, every number of each topic."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.events: dict[str, set[int]] = {name: set() for name in PUBLISHES}
        self.refused: list[str] = []

    def add(self, line: str) -> None:
        kind, *words = line.split()
        if kind == "state":
            self.keys[words[0]] = max(int(words[1]), self.keys.get(words[0], -1))
        elif kind in self.events:
            self.events[kind].add(int(words[0]))

    def add_all(self, text: str) -> None:
        """A last line that was cut off counts for nothing."""
        whole, _, _ = text.rpartition("\n")
        for line in whole.splitlines():
            if re.fullmatch(r"state [\w-]+ \d+|(topic|outbox) \d+", line):
                self.add(line)

    @property
    def count(self) -> int:
        return sum(n + 1 for n in self.keys.values()) + sum(map(len, self.events.values()))


@contextmanager
def load(
    acknowledge: Callable[[str], None], *, first: int = 0, threads: int = 2, pause_s: float = 0.0
) -> Iterator[Ledger]:
    """Apps that save state and publish without end, each on one connection, while the block lasts."""
    ledger, end, lock = Ledger(), threading.Event(), threading.Lock()

    def note(line: str) -> None:
        with lock:
            acknowledge(line)
            ledger.add(line)

    work = [lambda n, w=w: _save(f"load-{w}", n) for w in range(threads)]
    work += [lambda n, w=w: _publish(w, n) for w in PUBLISHES]
    running = [
        threading.Thread(target=_repeat, args=(task, first, end, note, ledger.refused, pause_s), daemon=True)
        for task in work
    ]
    for thread in running:
        thread.start()
    try:
        yield ledger
    finally:
        end.set()
        for thread in running:
            thread.join()


Call = tuple[str, object, str]


def _save(name: str, n: int) -> Call:
    key = f"{name}-{n % KEYS}"
    return "/v1.0/state/statestore", [{"key": key, "value": {"n": n, "text": "x" * 100}}], f"state {key} {n}"


def _publish(kind: str, n: int) -> Call:
    return PUBLISHES[kind], {"n": n, "text": "x" * 100}, f"{kind} {n}"


def _repeat(
    task: Callable[[int], Call],
    first: int,
    end: threading.Event,
    note: Callable[[str], None],
    refused: list[str],
    pause_s: float,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.HTTP_PORT, timeout=node.ANSWER_S)
    for n in itertools.count(first):
        path, body, line = task(n)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 204:
                note(line)
            else:
                refused.append(f"{path}: {answer.status} {text[:200]!r}")
        except (OSError, http.client.HTTPException):
            connection.close()  # nobody knows whether it is in effect; its number is not used again
            end.wait(AWAY_S)
        if end.wait(pause_s):
            connection.close()
            return


class Receiver:
    """The app on port 8000: it takes every event and remembers the numbers. After the block it takes none."""

    def __init__(self) -> None:
        self.seen: dict[str, set[int]] = {"/orders": set(), "/readings": set()}
        self._over = threading.Event()
        seen, over = self.seen, self._over

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if over.is_set():  # the node has kept the connection; an answer would take what nobody looks for
                    self.close_connection = True
                    return
                if self.path in seen:
                    seen[self.path].add(json.loads(body)["data"]["n"])
                self._answer(200, b'{"status":"SUCCESS"}')

            def do_GET(self) -> None:
                self._answer(404, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: the console is for the checks."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", node.APP_PORT), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


def lost(ledger: Ledger, seen: Receiver, within_s: float = device.START_S) -> list[str]:
    """What of the ledger the node does not have. Events are given time to be delivered."""
    missing = [f"state {key}: {found}, acknowledged was {n}" for key, n, found in _values(ledger) if found < n]
    try:
        device.until("every event is delivered", lambda: ledger.events["topic"] <= seen.seen["/orders"], within_s)
    except device.CheckError:
        missing += _lines("topic", ledger.events["topic"] - seen.seen["/orders"])
    return missing + _lines("outbox", ledger.events["outbox"] - set(node.outbox_numbers()) - seen.seen["/readings"])


def _values(ledger: Ledger) -> Iterator[tuple[str, int, int]]:
    for key, n in ledger.keys.items():
        status, text = node.call("GET", f"/v1.0/state/statestore/{key}")
        yield key, n, json.loads(text)["n"] if status == 200 else -1


def _lines(kind: str, numbers: Iterable[int]) -> list[str]:
    return [f"{kind} {n}" for n in sorted(numbers)]
