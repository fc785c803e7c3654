"""What comes down a link into local stores, between two real nodes: settings that are mirrored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import ask
from tests.integration.test_cloud_links import DOWN, UP, metric, until, url, write_link
from tests.integration.test_configuration_stores import Stream, put
from tests.support.app import App
from tests.support.line import Line, Mode
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

ALL = "{configuration: [{store: configstore, remoteStore: configstore}]}"
STORE = "/v1.0/configuration/configstore"


class Ends:
    """The cloud's node with its place, and the lines to it."""

    def __init__(self, cloud: Sidecar, place: Path, line: Line, grpc_line: Line) -> None:
        self.cloud = cloud
        self.place = place
        self.line = line
        self.grpc_line = grpc_line

    def cut(self) -> None:
        self.line.cut(Mode.REFUSE)
        self.grpc_line.cut(Mode.REFUSE)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with ExitStack() as stack:
        place = tmp_path / "far"
        place.mkdir()
        cloud = stack.enter_context(Sidecar(place / "state", app_id="cloud"))
        line, grpc_line = (stack.enter_context(Line(port)) for port in (cloud.port, cloud.grpc_port))
        yield Ends(cloud, place, line, grpc_line)


@contextmanager
def edge_of(ends: Ends, tmp_path: Path, routes: str, more: str = "", **options: Any) -> Iterator[Sidecar]:
    flags = write_link(tmp_path / "resources", url(ends.line.port), url(ends.grpc_line.port), routes, more)
    with Sidecar(tmp_path / "state", *flags, app_id="edge", **options) as node:
        yield node


def settings(node: Sidecar, key: str = "") -> Any:
    answer = node.http("GET", f"{STORE}?key={key}" if key else STORE)
    return answer.json() if answer.body else {}


def test_settings_come_down_and_stay(ends: Ends, tmp_path: Path) -> None:
    item = {"value": "1", "version": "v1", "metadata": {"unit": "s"}}
    put(ends.place, "a", "1", "-m", "unit=s", "--version", "v1")
    put(tmp_path, "own", "kept")
    told: Any = {f"/configuration/configstore/{key}": lambda came: (200, b"") for key in ("a", "b")}
    with App(told) as app, edge_of(ends, tmp_path, ALL, app_port=app.port) as edge:
        assert edge.http("GET", f"{STORE}/subscribe").status == 200
        until(lambda: settings(edge, "a") == {"a": item})
        stream = Stream(edge)
        assert stream.values() == {}
        put(ends.place, "b", "2")
        assert stream.values() == {"b": "2"}
        while "b" not in (came := app.next().json()["items"]):
            pass
        assert came["b"]["value"] == "2"
        assert ask(ends.place, "config", "delete", "b").returncode == 0
        assert stream.values() == {"b": ""}
        ends.cut()
        edge.wait_line(DOWN)
        put(ends.place, "a", "2")
        assert settings(edge).keys() == {"a", "own"}
        assert edge.stop() == 0
    with edge_of(ends, tmp_path, ALL) as edge:  # offline from its first moment
        assert settings(edge, "a") == {"a": item}
        put(tmp_path, "a", "by hand")
        assert settings(edge, "a")["a"]["value"] == "by hand"
        ends.mend()
        edge.wait_line(UP)
        until(lambda: settings(edge, "a")["a"]["value"] == "2")
        assert settings(edge, "own")["own"]["value"] == "kept"
        assert metric(edge, "edge_link_bytes_total", **{"class": "configuration", "direction": "received"}) > 0
        assert edge.stop() == 0
    assert set(ends.grpc_line.rpcs()) == {"/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration"}
    paths = {re.sub(r"\?.*", "", request) for request in ends.line.requests()}
    assert paths == {"GET /v1.0/healthz/outbound", f"GET {STORE}"}


def test_named_keys_alone_come_down(ends: Ends, tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        put(ends.place, key, "1")
    routes = (
        "{configuration: [{store: configstore, keys: [a, z], remoteStore: configstore},"
        " {store: configstore, keys: b, remoteStore: configstore}, {store: statestore, remoteStore: configstore}]}"
    )
    with edge_of(ends, tmp_path, routes) as edge:
        until(lambda: settings(edge).keys() == {"a", "b"})
        put(ends.place, "c", "2")
        put(ends.place, "z", "9")
        until(lambda: settings(edge).keys() == {"a", "b", "z"})
        assert "the component 'statestore' of app edge is state.sqlite; its settings do not come down" in edge.said
