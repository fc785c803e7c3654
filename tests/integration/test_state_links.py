"""State routes between two real nodes: the second plays the sidecar in the cloud, and is asked for Dapr's API only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cloud_links import until, url, write_link
from tests.support.line import Line, Mode
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

STORE = "/v1.0/state/statestore"
POLL = "poll: 300ms"


def route(more: str = "", keys: str = "orders/*") -> str:
    """The routes of a link with one state route."""
    return f"{{state: [{{store: statestore, keys: '{keys}', {POLL}{', ' if more else ''}{more}}}]}}"


def save(node: Sidecar, key: str, value: Any) -> None:
    answer = node.http("POST", STORE, [{"key": key, "value": value}])
    assert answer.status == 204, answer.body


def load(node: Sidecar, key: str) -> Any:
    """None when there is nothing."""
    answer = node.http("GET", f"{STORE}/{key.replace('/', '%2F')}")
    return answer.json() if answer.status == 200 else None


def remove(node: Sidecar, key: str) -> None:
    assert node.http("DELETE", f"{STORE}/{key.replace('/', '%2F')}").status == 204


class Pair:
    """The cloud's node and the line to it."""

    def __init__(self, cloud: Sidecar, line: Line, grpc_line: Line) -> None:
        self.cloud = cloud
        self.line = line
        self.grpc_line = grpc_line

    def cut(self) -> None:
        self.line.cut(Mode.REFUSE)
        self.grpc_line.cut(Mode.REFUSE)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        cloud = stack.enter_context(Sidecar(tmp_path / "cloud", app_id="cloud"))
        line = stack.enter_context(Line(cloud.port))
        yield Pair(cloud, line, stack.enter_context(Line(cloud.grpc_port)))


@contextmanager
def edge_of(pair: Pair, tmp_path: Path, routes: str, more: str = "", **options: Any) -> Iterator[Sidecar]:
    flags = write_link(tmp_path / "resources", url(pair.line.port), url(pair.grpc_line.port), routes, more)
    with Sidecar(tmp_path / "edge", *flags, app_id="edge", **options) as node:
        yield node


def test_changes_cross_both_ways(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, route()) as edge:
        save(edge, "orders/1", {"n": 1})
        save(edge, "other", 1)
        until(lambda: load(pair.cloud, "orders/1") == {"n": 1})
        save(pair.cloud, "orders/1", {"n": 2})
        until(lambda: load(edge, "orders/1") == {"n": 2})
        remove(edge, "orders/1")
        until(lambda: load(pair.cloud, "orders/1") is None)
        assert load(pair.cloud, "other") is None
        assert edge.stop() == 0
