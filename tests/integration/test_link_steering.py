"""Links as their operator has them: seen, paused over a restart, tried at once; and a link that cannot keep events."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import Run, ask
from tests.integration.test_cloud_links import HEALTHY, OUT, publish, subscriber, until, url, write_link
from tests.support.app import App
from tests.support.namespace import need_namespaces
from tests.support.resources import component, write
from tests.support.sidecar import Answer, Sidecar, free_port, request

pytestmark = pytest.mark.slow

UP = "You're up and running!"


class Node:
    """`edge-runtime run` for the app `shop`, with the link `cloud`, on the state of the test's directory."""

    def __init__(self, place: Path, cloud: App, more: str = "", app_port: int = 0) -> None:
        self.port = free_port()
        flags = write_link(place / "resources", url(cloud.port), more=more)
        app = ("-p", str(app_port)) if app_port else ()
        self.run = Run(place, "run", "-a", "shop", "-H", str(self.port), *app, *flags)
        self.run.wait_line(UP)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *error: object) -> None:
        self.run.__exit__(None, None, None)

    def get(self, path: str = "") -> Answer:
        return request(self.port, "GET", f"/edge/v1/sync{path}")

    def publish(self, data: Any) -> None:
        assert request(self.port, "POST", "/v1.0/publish/pubsub/orders", data).status == 204


@pytest.fixture
def cloud() -> Iterator[App]:
    with App({**HEALTHY, "/v1.0/publish/pubsub/orders": lambda came: (204, b"")}) as app:
        yield app


def sync(place: Path, *words: str) -> Any:
    done = ask(place, "sync", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def published(cloud: App) -> list[Any]:
    came = list(cloud.received.queue)
    return [one.json()["data"] for one in came if one.method == "POST"]


def test_a_link_is_seen_and_steered(tmp_path: Path, cloud: App) -> None:
    with Node(tmp_path, cloud, "  budget: {bytesPerDay: 10M}\n") as node:
        until(lambda: sync(tmp_path, "status", "-a", "shop")[0]["state"] == "up")
        (link,) = sync(tmp_path, "pause", "cloud", "-a", "shop")
        assert link["state"] == "paused"
        node.publish("one")
        node.publish("two")
        (link,) = sync(tmp_path, "status", "-a", "shop")
        assert link["routes"][0]["entries"] == 2
        assert link["budget"]["dayLeftBytes"] < 10_000_000
        (planned,) = sync(tmp_path, "dry-run", "cloud", "-a", "shop")
        assert (planned["entries"], planned["daysEstimated"]) == (2, 0)
        assert node.get("/cloud").json()["state"] == "paused"
        shown = ask(tmp_path, "sync", "status", "-a", "shop").stdout
        assert "pubsub/orders" in shown
        assert published(cloud) == []
        node.run.kill()
    (link,) = sync(tmp_path, "status", "--state-dir", str(tmp_path / "state"))
    assert (link["state"], link["routes"][0]["entries"]) == ("paused", 2)
    with Node(tmp_path, cloud) as node:  # also over a kill
        assert node.get().json()["links"][0]["state"] == "paused"
        assert published(cloud) == []
        refused = ask(tmp_path, "sync", "now", "cloud", "-a", "shop")
        assert (refused.returncode, "is paused; resume it first" in refused.stderr) == (1, True)
        sync(tmp_path, "resume", "cloud", "-a", "shop")
        until(lambda: published(cloud) == ["one", "two"])
        assert sync(tmp_path, "now", "--all", "-a", "shop")[0]["state"] == "up"


def test_now_opens_a_closed_window(tmp_path: Path, cloud: App) -> None:
    with Node(tmp_path, cloud, "  windows: [{days: mon, from: '00:00', to: '00:01'}]\n") as node:
        until(lambda: node.get("/cloud").json()["state"] in ("waiting", "up"))
        node.publish("one")
        assert sync(tmp_path, "now", "cloud", "-a", "shop", "--outside-window")[0]["state"] == "up"
        until(lambda: published(cloud) == ["one"])


def test_apps_are_told_of_a_pause(tmp_path: Path, cloud: App) -> None:
    with subscriber("edge.links") as app, Node(tmp_path, cloud, app_port=app.port):
        states = []
        for action, state in (("pause", "paused"), ("resume", "up")):
            sync(tmp_path, action, "cloud", "-a", "shop")
            while states[-1:] != [state]:
                data = app.next().json()["data"]
                assert data["link"] == "cloud"
                states.append(data["state"])
        assert "paused" in states


def test_a_link_that_can_keep_nothing_refuses_its_events_only(tmp_path: Path, cloud: App) -> None:
    """As on a full disk: the outbox cannot be opened, and everything else goes on."""
    write(tmp_path / "resources", "pubsub.yaml", component("pubsub", "pubsub.in-memory", {}))
    broken = tmp_path / "edge" / "node.db"
    broken.mkdir(parents=True)
    flags = write_link(tmp_path / "resources", url(cloud.port), routes=OUT)
    with Sidecar(tmp_path / "edge", *flags) as edge:
        answer = edge.http("POST", "/v1.0/publish/pubsub/orders", "refused")
        assert (answer.status, b"the event cannot be kept for the cloud link" in answer.body) == (500, True)
        publish(edge, "only here", "others")
        (link,) = edge.http("GET", "/edge/v1/sync").json()["links"]
        assert "node.db" in link["routes"][0]["lastError"]
        broken.rmdir()
        until(lambda: edge.http("POST", "/v1.0/publish/pubsub/orders", "kept").status == 204)
        until(lambda: published(cloud) == ["kept"])
        assert edge.stop() == 0


def test_state_routes_are_seen_and_planned(tmp_path: Path) -> None:
    routes = "{state: [{store: statestore, keys: 'orders/*', direction: up}]}"
    with Sidecar(tmp_path / "cloud", app_id="cloud") as far:
        flags = write_link(tmp_path / "resources", url(far.port), routes=routes)
        with Sidecar(tmp_path / "edge", *flags) as edge:
            until(lambda: edge.http("GET", "/edge/v1/sync/cloud").json()["state"] == "up")
            assert edge.http("POST", "/edge/v1/sync/cloud/pause", b"").json()["state"] == "paused"
            assert edge.http("POST", "/v1.0/state/statestore", [{"key": "orders/1", "value": 1}]).status == 204
            (route,) = edge.http("GET", "/edge/v1/sync/cloud").json()["routes"]
            assert (route["route"], route["pending"], route["refused"], route["conflicts"]) == ("state", 1, 0, 0)
            (planned,) = edge.http("GET", "/edge/v1/sync/cloud/dry-run").json()["routes"]
            assert planned["pending"] == 1
            assert planned["steps"][0]["key"].endswith("orders/1")
            assert edge.http("POST", "/edge/v1/sync/cloud/resume", b"").status == 200
            until(lambda: edge.http("GET", "/edge/v1/sync/cloud").json()["routes"][0]["pending"] == 0)
            assert edge.http("GET", "/edge/v1/sync/cloud").json()["routes"][0]["saved"] == 1
            assert edge.stop() == 0


def test_a_full_disk_ends_neither_link_nor_node(tmp_path: Path, cloud: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of its own, so small that it can be filled, and a link that comes while it is full."""
    need_namespaces()
    state, resources, wrapper = (tmp_path / name for name in ("edge", "resources", "python"))
    state.mkdir()
    resources.mkdir()
    script = f'mount -t tmpfs -o size=1500k tmpfs {state} && exec {sys.executable} "$@"'
    wrapper.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{script}' sh \"$@\"\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    with Sidecar(state, "--resources-path", str(resources)) as edge:
        filler = Path(f"/proc/{edge.pid}/root{state}/filler")
        with filler.open("wb", 0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        write_link(resources, url(cloud.port))
        edge.signal(signal.SIGHUP)
        until(lambda: edge.said.count("dapr initialized") == 2)
        answer = edge.http("POST", "/v1.0/publish/pubsub/orders", "refused")
        assert (answer.status, b"the disk is full" in answer.body) == (500, True)
        (route,) = edge.http("GET", "/edge/v1/sync/cloud").json()["routes"]
        assert "the disk is full" in route["lastError"]
        filler.unlink()
        until(lambda: edge.http("POST", "/v1.0/publish/pubsub/orders", "kept").status == 204)
        until(lambda: published(cloud) == ["kept"])
        assert edge.said.count("cannot be opened, what it is given is refused") == 1
        assert edge.stop() == 0
