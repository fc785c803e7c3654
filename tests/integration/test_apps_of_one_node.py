"""Several apps in one process: what one of them does to itself, it does to itself alone."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.support.app import App, Received
from tests.support.sidecar import Program, free_port, request

pytestmark = pytest.mark.slow


def template(directory: Path, ports: dict[str, int], app_ports: dict[str, int]) -> Path:
    """A run file for apps without commands: only their sidecars run."""
    apps = [
        {
            "appID": name,
            "appDirPath": str(directory),
            "daprHTTPPort": port,
            "appPort": app_ports.get(name, 0),
            "daprdLogDestination": "console",
        }
        for name, port in ports.items()
    ]
    path = directory / "dapr.yaml"
    path.write_text(json.dumps({"version": 1, "apps": apps}))
    return path


def node(directory: Path, ports: dict[str, int], app_ports: dict[str, int] | None = None) -> Program:
    path = template(directory, ports, app_ports or {})
    flags = ["--no-attach", "--state-dir", str(directory / "state"), "-f", str(path)]
    return Program([sys.executable, "-m", "edge_runtime", "run", *flags])


def wait_until_all_serve(program: Program, ports: dict[str, int]) -> None:
    for port in ports.values():
        while True:
            try:
                if request(port, "GET", "/v1.0/healthz").status == 204:
                    break
            except OSError:
                assert program.process.poll() is None, program.said


def test_one_process_serves_them_all(tmp_path: Path) -> None:
    ports = {"one": free_port(), "two": free_port()}
    with node(tmp_path, ports) as program:
        wait_until_all_serve(program, ports)
        for name, port in ports.items():
            assert request(port, "GET", "/v1.0/metadata").json()["id"] == name
            assert request(port, "POST", "/v1.0/state/statestore", [{"key": "k", "value": name}]).status == 204
        assert request(ports["one"], "GET", "/v1.0/state/statestore/k").json() == "one"
        assert program.stop() == 0


@pytest.mark.parametrize("headers", [{}, {"dapr-force-shutdown": "true"}], ids=["graceful", "forced"])
def test_a_shutdown_ends_one_app_only(tmp_path: Path, headers: dict[str, str]) -> None:
    ports = {"one": free_port(), "two": free_port()}
    with node(tmp_path, ports) as program:
        wait_until_all_serve(program, ports)
        assert request(ports["one"], "POST", "/v1.0/shutdown", headers=headers).status == 204
        while True:
            try:
                request(ports["one"], "GET", "/v1.0/healthz")
            except OSError:
                break
        assert request(ports["two"], "GET", "/v1.0/healthz").status == 204
        assert program.process.poll() is None


def test_apps_call_and_hear_each_other(tmp_path: Path) -> None:
    def hello(came: Received) -> tuple[int, object]:
        return 200, {"from": came.headers.get("dapr-caller-app-id"), "query": came.path}

    subscription = [{"pubsubname": "pubsub", "topic": "news", "route": "/news"}]
    routes = {
        "/hello": hello,
        "/news": lambda _: (200, {}),
        "/dapr/subscribe": lambda _: (200, subscription),
    }
    with App(routes) as app:
        ports = {"one": free_port(), "two": free_port()}
        with node(tmp_path, ports, {"two": app.port}) as program:
            wait_until_all_serve(program, ports)
            answer = request(ports["one"], "GET", "/v1.0/invoke/two/method/hello?a=%20b")
            assert (answer.status, answer.json()) == (200, {"from": "one", "query": "/hello?a=%20b"})
            assert app.next().path == "/hello?a=%20b"
            assert request(ports["one"], "POST", "/v1.0/publish/pubsub/news", {"n": 1}).status == 204
            event = app.next().json()
            assert (event["source"], event["data"]) == ("one", {"n": 1})
            assert program.stop() == 0


def test_hangup_without_terminal_reads_files_again(tmp_path: Path) -> None:
    ports = {"one": free_port()}
    with node(tmp_path, ports) as program:
        wait_until_all_serve(program, ports)
        program.signal(signal.SIGHUP)
        program.wait_line("Going over to the new files")
        wait_until_all_serve(program, ports)
        assert program.stop() == 0
