"""Bindings through the real process: events of a real broker to apps of both kinds, and the official SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Mosquitto
from tests.integration.cli import ask
from tests.support.app import App, Received
from tests.support.drivers import javascript, python
from tests.support.resources import component, resources_flags, write
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


def commands(mosquitto: Mosquitto, **fields: Any) -> dict[str, Any]:
    """A binding of a topic, both ways."""
    return component("commands", "bindings.mqtt3", {"url": mosquitto.url, "topic": "t", "consumerID": "c", **fields})


def send(sidecar: Sidecar, data: Any) -> None:
    """Through the output side; the event comes back through the input side."""
    answer = sidecar.http("POST", "/v1.0/bindings/commands", {"operation": "create", "data": data})
    assert answer.status == 204


def answering(*statuses: int) -> Any:
    left = list(statuses)
    return lambda came: ((200 if came.method == "OPTIONS" else left.pop(0) if left else 200), b"")


def next_post(app: App) -> Received:
    while (came := app.next()).method != "POST":
        pass
    return came


def test_an_http_app_is_asked_and_told(tmp_path: Path, mosquitto: Mosquitto) -> None:
    resources = write(tmp_path / "r", "a.yaml", commands(mosquitto, route="/on/command"))
    with App({"/on/command": answering()}) as app:
        with Sidecar(tmp_path / "state", *resources_flags(resources), app_port=app.port) as sidecar:
            asked = app.next()
            assert (asked.method, asked.path) == ("OPTIONS", "/on/command")
            sidecar.wait_line("reading input binding commands")
            send(sidecar, {"open": True})
            came = next_post(app)
            assert (came.path, came.json(), came.headers["content-type"]) == (
                "/on/command",
                {"open": True},
                "application/json",
            )
            assert came.headers["topic"] == "t"
            text = sidecar.metrics()
            assert 'dapr_component_output_binding_count{app_id="app",component="commands"' in text
            listed = sidecar.http("GET", "/v1.0/metadata").json()["components"]
            assert [item["capabilities"] for item in listed] == [["INPUT_BINDING", "OUTPUT_BINDING"]]
            assert sidecar.stop() == 0


def test_an_app_that_does_not_want_events_gets_none(tmp_path: Path, mosquitto: Mosquitto) -> None:
    resources = write(tmp_path / "r", "a.yaml", commands(mosquitto))
    with App({}) as app:
        with Sidecar(tmp_path / "state", *resources_flags(resources), app_port=app.port) as sidecar:
            sidecar.wait_line("app has not subscribed to binding commands")
            send(sidecar, 1)
            assert sidecar.stop() == 0
        assert [item.method for item in app.received.queue] == ["OPTIONS"]


def test_events_wait_for_health(tmp_path: Path, mosquitto: Mosquitto) -> None:
    well = [False]
    routes = {"/healthz": lambda came: (200 if well[0] else 500, b""), "/commands": answering()}
    flags = ("--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1")
    resources = write(tmp_path / "r", "a.yaml", commands(mosquitto, direction="input, output"))
    with App(routes) as app:
        with Sidecar(
            tmp_path / "state", *flags, *resources_flags(resources), app_port=app.port, ready="application discovered"
        ) as sidecar:
            app.next_asked("/healthz")
            assert app.received.empty()
            well[0] = True
            sidecar.wait_line("reading input binding commands")
            send(sidecar, "ready")
            assert next_post(app).json() == "ready"
            well[0] = False
            sidecar.wait_line("App entered un-healthy status")
            well[0] = True
            sidecar.wait_line("reading input binding commands")
            assert sidecar.stop() == 0


def test_the_python_sdk_takes_events(tmp_path: Path, mosquitto: Mosquitto) -> None:
    resources = write(tmp_path / "r", "a.yaml", commands(mosquitto))
    port = free_port()
    with python("grpc_binding_app.py", 0, APP_PORT=str(port)) as app:
        app.wait_said("starting")
        flags = ("--app-protocol", "grpc", *resources_flags(resources))
        with Sidecar(tmp_path / "state", *flags, app_port=port) as sidecar:
            sidecar.wait_line("reading input binding commands")
            send(sidecar, "over gRPC")
            text, names = app.wait_said("event")
            assert text == '"over gRPC"'
            assert "topic" in names
            assert sidecar.stop() == 0


def test_the_python_sdk_reads_follows_and_invokes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    store = component(
        "configstore", "configuration.sqlite", {"connectionString": str(tmp_path / "state/configstore.db")}
    )
    files = component("files", "bindings.localstorage", {"rootPath": str(tmp_path / "files")})
    port = free_port()
    web = component("web", "bindings.http", {"url": f"http://127.0.0.1:{port}"})
    resources = write(tmp_path / "r", "a.yaml", store, files, web)
    assert ask(tmp_path, "config", "set", "a", "1", "-m", "unit=s").returncode == 0
    with Sidecar(state, *resources_flags(resources), port=port) as sidecar:
        with python("grpc_configuration.py", port, DAPR_GRPC_PORT=str(sidecar.grpc_port)) as program:
            said = {"subscribed": program.wait_said("subscribed")}
            assert ask(tmp_path, "config", "set", "a", "2").returncode == 0
            said |= program.results()
        assert said["get"] == {"a": ["1", "1", {"unit": "s"}]}
        assert said["told"] == [True, {"a": ["2", "2", {}]}]
        assert (said["unsubscribed"], said["unsubscribed.again"]) == (True, False)
        assert said["get.store"]["code"] == "INVALID_ARGUMENT"
        assert json.loads(said["create"]) == {"fileName": "a.txt"}
        assert said["file"] == "hello"
        assert said["web"] == ["204", "204 No Content"]
        refused = said["binding.operation"]
        assert (refused["code"], refused["ErrorInfo"]["reason"]) == ("INTERNAL", "ERR_INVOKE_OUTPUT_BINDING")
        assert "supported operations:create get list delete" in refused["message"]
        assert sidecar.stop() == 0


def test_the_javascript_sdk_reads_follows_and_invokes(tmp_path: Path) -> None:
    store = component(
        "configstore", "configuration.sqlite", {"connectionString": str(tmp_path / "state/configstore.db")}
    )
    files = component("files", "bindings.localstorage", {"rootPath": str(tmp_path / "files")})
    resources = write(tmp_path / "r", "a.yaml", store, files)
    assert ask(tmp_path, "config", "set", "a", "1").returncode == 0
    with Sidecar(tmp_path / "state", *resources_flags(resources)) as sidecar:
        with javascript("grpc_configuration.mjs", sidecar.port, DAPR_GRPC_PORT=str(sidecar.grpc_port)) as program:
            program.wait_said("asked")
            while 'operation="subscribe"' not in sidecar.metrics():
                pass  # the SDK does not say when it has subscribed
            assert ask(tmp_path, "config", "set", "a", "2").returncode == 0
            said = program.results()
        assert [item["value"] for item in said["get"].values()] == ["1"]
        assert [item["value"] for item in said["told"].values()] == ["2"]
        assert said["binding.operation"]["reason"] == "ERR_INVOKE_OUTPUT_BINDING"
        assert (tmp_path / "files" / "a.txt").read_text() == "hello"
        assert sidecar.stop() == 0
