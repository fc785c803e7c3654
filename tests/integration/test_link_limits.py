"""What a link may keep while it is away, with the real process: its limit in bytes, and a disk that is full."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import Run, ask
from tests.integration.test_cloud_links import HEALTHY, OUT, metric, until, url, write_link
from tests.support.app import App
from tests.support.line import Line, Mode
from tests.support.namespace import need_namespaces
from tests.support.sidecar import Answer, Sidecar, free_port, request

pytestmark = pytest.mark.slow

LIMIT_BYTES = 10 * 1024
PUBLISHED = 9
UP = "You're up and running!"


class Node:
    """`edge-runtime run` for the app `shop`, whose link has this limit."""

    def __init__(self, place: Path, line: Line, when_full: str) -> None:
        self.port = free_port()
        self.metrics_port = free_port()
        limits = f"{{size: 10Ki, whenFull: {when_full}}}"
        routes = f"{{topicsUp: [{{pubsub: pubsub, topic: orders, limits: {limits}}}]}}"
        flags = write_link(place / "resources", url(line.port), routes=routes)
        ports = ("-H", str(self.port), "--metrics-port", str(self.metrics_port))
        self.run = Run(place, "run", "-a", "shop", *ports, *flags)
        self.run.wait_line(UP)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *error: object) -> None:
        self.run.__exit__(None, None, None)

    def publish(self, number: int) -> Answer:
        return request(self.port, "POST", "/v1.0/publish/pubsub/orders", f"{number}" + "x" * 2000)

    def metrics(self) -> str:
        return request(self.metrics_port, "GET", "/metrics").body.decode()


@pytest.fixture
def cloud() -> Iterator[App]:
    with App({**HEALTHY, "/v1.0/publish/pubsub/orders": lambda came: (204, b"")}) as app:
        yield app


@pytest.fixture
def line(cloud: App) -> Line:
    line = Line(cloud.port)
    line.cut(Mode.REFUSE)
    return line


def outbox(place: Path, *words: str) -> Any:
    done = ask(place, "outbox", *words, "--app-id", "shop", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def published(cloud: App) -> list[int]:
    """The numbers of what arrived."""
    came = list(cloud.received.queue)
    return [int(one.json()["data"].rstrip("x")) for one in came if one.method == "POST"]


def test_a_full_route_refuses_what_is_new(tmp_path: Path, cloud: App, line: Line) -> None:
    """The same after a restart; what was taken arrives in order, and then there is room again."""
    with Node(tmp_path, line, "refuse") as node:
        answers = [node.publish(number) for number in range(PUBLISHED)]
        kept = [answer.status for answer in answers].count(204)
        assert [answer.status for answer in answers] == [204] * kept + [500] * (PUBLISHED - kept)
        assert 1 < kept < PUBLISHED
        assert b"limits.size of the CloudLink's route" in answers[-1].body
        assert b"10240" in answers[-1].body
        (route,) = outbox(tmp_path, "list")
        assert route["entries"] == kept
        assert route["bytes"] <= LIMIT_BYTES < route["bytes"] // kept * (kept + 1)
        assert metric(node, "edge_outbox_refused_total") == PUBLISHED - kept
        assert metric(node, "edge_outbox_bytes") == route["bytes"]
        assert outbox(tmp_path, "show", route["route"], "--dropped")["dropped"] == {}
        assert node.run.stop() == 0
    with Node(tmp_path, line, "refuse") as node:
        assert node.publish(PUBLISHED).status == 500
        line.mend()
        until(lambda: metric(node, "edge_outbox_entries") == 0)
        assert node.publish(PUBLISHED + 1).status == 204
        until(lambda: len(published(cloud)) == kept + 1)
        assert node.run.stop() == 0
    assert published(cloud) == [*range(kept), PUBLISHED + 1]


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-lowest-priority"])
def test_a_full_route_drops_as_it_is_told(tmp_path: Path, cloud: App, line: Line, when_full: str) -> None:
    """A topic's entries have one priority, so the lowest is the oldest. Every drop is told, after a restart too."""
    with Node(tmp_path, line, when_full) as node:
        assert {node.publish(number).status for number in range(PUBLISHED)} == {204}
        (route,) = outbox(tmp_path, "list")
        gone = PUBLISHED - route["entries"]
        assert 0 < gone < PUBLISHED
        assert route["bytes"] <= LIMIT_BYTES
        assert metric(node, "edge_outbox_dropped_total", reason="full") == gone
        assert metric(node, "edge_outbox_refused_total") == 0
        assert node.run.stop() == 0
    with Node(tmp_path, line, when_full) as node:
        told = outbox(tmp_path, "show", route["route"], "--dropped")
        assert told["dropped"]["full"]["entries"] == gone
        assert {row["reason"] for row in told["lines"]} == {"full"}
        assert sum(row["entries"] for row in told["lines"]) == gone
        assert sum(row["bytes"] for row in told["lines"]) == told["dropped"]["full"]["bytes"] > 2000 * gone
        line.mend()
        until(lambda: metric(node, "edge_outbox_entries") == 0)
        assert node.run.stop() == 0
    assert published(cloud) == list(range(gone, PUBLISHED))


@contextmanager
def small_disk(state: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> Iterator[None]:
    """Sidecars have a disk of their own there."""
    need_namespaces()
    state.mkdir()
    wrapper = state.with_name("python")
    script = f'mount -t tmpfs -o size={size} tmpfs {state} && exec {sys.executable} "$@"'
    wrapper.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{script}' sh \"$@\"\n")
    wrapper.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(wrapper))
        yield


def test_a_disk_that_fills_in_an_outage_loses_nothing(
    tmp_path: Path, cloud: App, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "edge"
    flags = write_link(tmp_path / "resources", url(line.port), routes=OUT)
    with small_disk(state, monkeypatch, "8m"), Sidecar(state, *flags) as edge:

        def publish(number: int) -> Answer:
            return edge.http("POST", "/v1.0/publish/pubsub/orders", f"{number}" + "x" * 20_000)

        assert edge.http("POST", "/v1.0/state/statestore", [{"key": "k", "value": "v"}]).status == 204
        assert publish(0).status == 204
        filler = Path(f"/proc/{edge.pid}/root{state}/filler")
        with filler.open("wb", 0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        taken, refused = [0], 0
        for number in range(1, 400):
            answer = publish(number)
            if answer.status == 204:
                taken.append(number)
                continue
            refused += 1
            assert answer.status == 500
            assert b"the disk is full" in answer.body
            assert b"free some space" in answer.body
            assert str(state).encode() in answer.body
            if refused == 3:
                break
        assert refused == 3
        assert edge.http("GET", "/v1.0/state/statestore/k").json() == "v"
        assert edge.http("GET", "/v1.0/healthz").status == 500
        assert metric(edge, "edge_outbox_entries") == len(taken)
        filler.unlink()
        until(lambda: publish(1000).status == 204)
        until(lambda: edge.http("GET", "/v1.0/healthz").status == 204)
        line.mend()
        until(lambda: metric(edge, "edge_outbox_entries") == 0)
        edge.signal(signal.SIGTERM)
        assert edge.wait() == 0
    assert published(cloud) == [*taken, 1000]
