"""State routes between two real nodes: the second plays the sidecar in the cloud, and is asked for Dapr's API only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse
from tests.integration.test_cloud_links import DOWN, metric, until, url, write_link
from tests.support.app import App, Received
from tests.support.callback_app import INVOKE, CallbackApp
from tests.support.line import Line, Mode
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

CONFLICTS = "/edge/v1/conflicts"
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
def edge_of(
    pair: Pair, tmp_path: Path, routes: str, more: str = "", flags: Sequence[str] = (), **options: Any
) -> Iterator[Sidecar]:
    link = write_link(tmp_path / "resources", url(pair.line.port), url(pair.grpc_line.port), routes, more)
    with Sidecar(tmp_path / "edge", *link, *flags, app_id="edge", **options) as node:
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


def test_a_new_key_comes_by_the_change_topic(pair: Pair, tmp_path: Path) -> None:
    slow = "changeTopic: {pubsub: pubsub, topic: changes}, direction: down"
    with edge_of(pair, tmp_path, route(slow).replace(POLL, "poll: 1h")) as edge:
        save(pair.cloud, "orders/1", 1)
        save(pair.cloud, "orders/2", 2)
        save(pair.cloud, "orders/3", 3)
        until(pair.grpc_line.rpcs)
        for event, query in (
            ({"key": "orders/1"}, ""),
            ({"keys": ["cloud||orders/2", "else"]}, ""),
            ({"total": 3}, "?metadata.cloudevent.key=orders/3"),
        ):
            assert pair.cloud.http("POST", f"/v1.0/publish/pubsub/changes{query}", event).status == 204
        until(lambda: [load(edge, f"orders/{n}") for n in (1, 2)] == [1, 2])
        save(pair.cloud, "orders/1", "later")
        assert pair.cloud.http("POST", "/v1.0/publish/pubsub/changes", "something has changed").status == 204
        until(lambda: load(edge, "orders/1") == "later")
        assert load(edge, "else") is None


def test_offline_writes_arrive_when_the_link_is_back(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, route(), "  probe: {interval: 300ms}\n") as edge:
        save(edge, "orders/kept", 0)
        save(edge, "orders/gone", 0)
        until(lambda: load(pair.cloud, "orders/gone") == 0)
        pair.cut()
        edge.wait_line(DOWN)
        for number in range(1, 20):
            save(edge, "orders/kept", number)
        save(edge, "orders/new", 1)
        remove(edge, "orders/gone")
        until(lambda: metric(edge, "edge_state_route_pending_keys") == 3)
        edge.kill()
    with edge_of(pair, tmp_path, route(), "  probe: {interval: 300ms}\n") as edge:
        save(edge, "orders/new", 2)
        pair.mend()
        until(lambda: load(pair.cloud, "orders/kept") == 19)
        until(lambda: (load(pair.cloud, "orders/new"), load(pair.cloud, "orders/gone")) == (2, None))
        until(lambda: metric(edge, "edge_state_route_pending_keys") == 0)
        assert metric(edge, "edge_state_route_keys_total", action="conflicts") == 0


@contextmanager
def conflict_of(pair: Pair, tmp_path: Path, policy: str, **options: Any) -> Iterator[Sidecar]:
    """Both sides had count 1; the cloud wrote 7, and later the edge 2, while there was no line."""
    routes = route(f"conflict: {policy}")
    with edge_of(pair, tmp_path, routes, "  probe: {interval: 300ms}\n", **options) as edge:
        save(edge, "orders/1", {"count": 1})
        until(lambda: load(pair.cloud, "orders/1") == {"count": 1})
        until(lambda: metric(edge, "edge_state_route_keys_total", action="fetched") >= 2)
        pair.cut()
        edge.wait_line(DOWN)
        save(pair.cloud, "orders/1", {"count": 7, "by": "ops"})
        save(edge, "orders/1", {"count": 2, "new": True})
        pair.mend()
        yield edge


def settled(pair: Pair, edge: Sidecar, value: Any) -> None:
    until(lambda: load(edge, "orders/1") == value)
    until(lambda: load(pair.cloud, "orders/1") == value)


@pytest.mark.parametrize(
    ("policy", "kept", "loser"),
    [
        ("remote-wins", {"count": 7, "by": "ops"}, "local"),
        ("local-wins", {"count": 2, "new": True}, "remote"),
        ("last-writer", {"count": 7, "by": "ops"}, "local"),
        ("merge", {"count": 7, "by": "ops", "new": True}, "local"),
        ("keep-both", {"count": 7, "by": "ops"}, "local"),
    ],
)
def test_a_conflict_is_settled_by_the_policy(pair: Pair, tmp_path: Path, policy: str, kept: Any, loser: str) -> None:
    with conflict_of(pair, tmp_path, policy) as edge:
        settled(pair, edge, kept)
        assert metric(edge, "edge_state_route_keys_total", action="conflicts") == 1
        entry = edge.http("GET", f"{CONFLICTS}/statestore?versions=true").json()["conflicts"][0]
        assert (entry["key"], entry["policy"], entry["losers"]) == ("orders/1", policy, [loser])
        assert entry["local"]["value"] == {"count": 2, "new": True}
        assert entry["remote"]["value"] == {"count": 7, "by": "ops"}


def test_an_http_app_decides(pair: Pair, tmp_path: Path) -> None:
    dead = threading.Event()

    def answer(came: Received) -> tuple[int, Any]:
        if not dead.is_set():
            return 503, b""
        asked = came.json()
        return 200, {"count": asked["local"]["value"]["count"] + asked["remote"]["value"]["count"]}

    with App({"/edge/conflicts/statestore": answer}) as app:
        with conflict_of(pair, tmp_path, "app", app_port=app.port) as edge:
            asked = app.next().json()
            assert (asked["link"], asked["store"], asked["key"]) == ("cloud", "statestore", "orders/1")
            assert asked["base"]["value"] == {"count": 1}
            assert asked["local"]["at"].startswith("20")
            save(edge, "orders/2", "others go on")
            until(lambda: load(pair.cloud, "orders/2") == "others go on")
            assert load(edge, "orders/1") == {"count": 2, "new": True}
            dead.set()
            settled(pair, edge, {"count": 9})


def test_a_grpc_app_decides(pair: Pair, tmp_path: Path) -> None:
    def answer(asked: InvokeRequest) -> InvokeResponse:
        assert asked.method == "edge/conflicts/statestore"
        question = json.loads(asked.data.value)
        assert (question["key"], question["base"]) == ("orders/1", {"value": {"count": 1}})
        reply = InvokeResponse(content_type="application/json")
        reply.data.value = b'{"count": 3}'
        return reply

    with CallbackApp({INVOKE: answer}) as app:
        with conflict_of(pair, tmp_path, "app", app_port=app.port, flags=["--app-protocol", "grpc"]) as edge:
            settled(pair, edge, {"count": 3})
