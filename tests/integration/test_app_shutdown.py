"""What a stop of the sidecar means for the app, and what the channel to it does not do."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from tests.integration.test_app_delivery import Held, publish
from tests.support.app import App
from tests.support.resources import broker, component, resources_flags, subscription, write
from tests.support.sidecar import READY, Sidecar

pytestmark = pytest.mark.slow


def test_a_blocked_shutdown_stops_deliveries_only(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in"))
    flags = ("--dapr-block-shutdown-duration=300ms", *resources_flags(resources))
    with App({"/in": lambda _: (200, b""), "/direct": lambda _: (200, b"")}) as app:
        with Sidecar(tmp_path, *flags, app_port=app.port) as sidecar:
            publish(sidecar, "t", "before")
            assert app.next().path == "/in"
            sidecar.signal(signal.SIGTERM)
            sidecar.wait_line("stopping subscriptions")
            publish(sidecar, "t", "after")
            assert sidecar.http("GET", "/v1.0/invoke/app/method/direct").status == 200
            assert app.next().path == "/direct"
            assert sidecar.wait() == 0
        assert app.received.empty()
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port):
            assert app.next().json()["data"] == "after"


def test_an_overdue_stop_ends_with_one(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in"))
    held = Held()
    flags = ("--dapr-graceful-shutdown-seconds=1", *resources_flags(resources))
    with App({"/in": held}) as app:
        with Sidecar(tmp_path, *flags, app_port=app.port) as sidecar:
            publish(sidecar, "t", "x")
            first = app.next()
            assert sidecar.stop() == 1
            assert "level=fatal" in sidecar.said
            held.let_go.set()
        with Sidecar(tmp_path, *flags, app_port=app.port):
            assert app.next().json()["id"] == first.json()["id"]


def test_a_stop_before_the_app_is_there(tmp_path: Path) -> None:
    with Sidecar(tmp_path, app_port=1, ready="waiting on port 1") as sidecar:
        assert sidecar.stop() == 0


def test_calls_in_hand_outlive_a_reload(tmp_path: Path) -> None:
    held = Held()
    with App({"/x": held}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        answers = []
        caller = threading.Thread(
            target=lambda: answers.append(sidecar.http("GET", "/v1.0/invoke/app/method/x").status)
        )
        caller.start()
        app.next()
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line(READY)
        assert sidecar.http("GET", "/v1.0/state/statestore/a").status == 204
        held.let_go.set()
        caller.join()
        assert answers == [200]


def test_a_namespaced_broker_prefixes_its_topics(tmp_path: Path) -> None:
    """Two namespaces on one file do not hear each other."""
    spaced = component(
        "pubsub", "pubsub.sqlite", {"connectionString": str(tmp_path / "p.db"), "consumerID": "{namespace}"}
    )
    resources = write(tmp_path / "r", "a.yaml", spaced, subscription("t", "/in"))
    flags = resources_flags(resources)
    routes = {"/in": lambda _: (200, b"")}
    with (
        App(routes) as one,
        App(routes) as two,
        Sidecar(tmp_path / "1", *flags, app_port=one.port, environment={"NAMESPACE": "one"}) as first,
        Sidecar(tmp_path / "2", *flags, app_port=two.port, environment={"NAMESPACE": "two"}) as second,
    ):
        publish(first, "t", "for one")
        publish(second, "t", "for two")
        events = (one.next().json(), two.next().json())
        assert [(event["data"], event["topic"]) for event in events] == [("for one", "t"), ("for two", "t")]
        assert one.received.empty()
        assert two.received.empty()
