"""SIGHUP while work is in hand: what the old files began ends well, and nothing waits for itself."""

from __future__ import annotations

import queue
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received
from tests.support.sidecar import WAIT_S, Answer, Sidecar, request

pytestmark = pytest.mark.slow

GOING = "Going over to the new files"


class Gate:
    """A route that says when it is reached and answers when it is let go."""

    def __init__(self, answer: Any = b"done") -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.answer = answer

    def __call__(self, received: Received) -> tuple[int, Any]:
        self.reached.set()
        return (200, self.answer) if self.open.wait(WAIT_S) else (504, b"nobody let it go")


def asking(*arguments: Any) -> queue.Queue[Answer]:
    """The answer of a request that another thread sends."""
    answers: queue.Queue[Answer] = queue.Queue()
    threading.Thread(target=lambda: answers.put(request(*arguments)), daemon=True).start()
    return answers


def test_open_invocations_get_their_answer(tmp_path: Path) -> None:
    gate = Gate()
    with App({"/slow": gate}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        answers = asking(sidecar.port, "POST", "/v1.0/invoke/app/method/slow", b"x")
        assert gate.reached.wait(WAIT_S)
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line(GOING)
        gate.open.set()
        assert answers.get(timeout=WAIT_S)[::2] == (200, b"done")
        sidecar.wait_line("dapr initialized")


def test_a_delivery_may_call_back(tmp_path: Path) -> None:
    gate = Gate()
    saved: queue.Queue[int] = queue.Queue()
    came: list[str] = []

    def deliver(received: Received) -> tuple[int, Any]:
        came.append(received.path)
        gate(received)
        items = [{"key": "k", "value": 1}]
        saved.put(request(sidecar.port, "POST", "/v1.0/state/statestore", items, timeout=5.0).status)
        return 200, {}

    subscriptions = [{"pubsubname": "pubsub", "topic": "t", "route": "/t"}]
    routes = {"/dapr/subscribe": lambda _: (200, subscriptions), "/t": deliver}
    with App(routes) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        assert sidecar.http("POST", "/v1.0/publish/pubsub/t", {"n": 1}).status == 204
        assert gate.reached.wait(WAIT_S)
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line(GOING)
        gate.open.set()
        assert saved.get(timeout=WAIT_S) == 204
        sidecar.wait_line("dapr initialized")
        assert came == ["/t"]  # nothing had to be delivered again


def test_long_calls_hold_nothing_up(tmp_path: Path) -> None:
    gate = Gate()
    with App({"/slow": gate}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        answers = asking(sidecar.port, "POST", "/v1.0/invoke/app/method/slow", b"x")
        assert gate.reached.wait(WAIT_S)
        for _ in range(2):
            sidecar.signal(signal.SIGHUP)
            sidecar.wait_line("dapr initialized")
            assert sidecar.http("GET", "/v1.0/healthz").status == 204
            assert sidecar.http("GET", "/v1.0/state/statestore/k").status == 204
        assert answers.empty()
        gate.open.set()
        assert answers.get(timeout=WAIT_S)[::2] == (200, b"done")
        assert sidecar.stop() == 0
