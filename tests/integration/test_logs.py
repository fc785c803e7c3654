"""The lines that tools read: their form in text and JSON, and what is said when."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.resources import component, resources_flags, write
from tests.support.sidecar import READY, SERVING, Sidecar, request

pytestmark = pytest.mark.slow

TEXT = re.compile(
    r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)" level=(debug|info|warning|error|fatal) '
    r'msg=("(?:[^"\\]|\\.)*"|[A-Za-z0-9\-._/@^+]+) (.*)'
)


def test_text_lines(tmp_path: Path) -> None:
    with App({}) as app, Sidecar(tmp_path, app_id="my-app", app_port=app.port) as sidecar:
        assert sidecar.stop() == 0
    version = re.search(r"version (\S+) --", sidecar.lines[0])
    assert version is not None
    for line in sidecar.lines:
        match = TEXT.fullmatch(line)
        assert match, line
        keys = re.findall(r"(\w+)=", re.sub(r'"(?:[^"\\]|\\.)*"', "", match[4]))
        assert keys == sorted(keys), line
        assert f"instance={socket.gethostname()} " in line
        assert " type=log " in line
        assert f"ver={version[1]}" in line.replace('"', "")
    said = {
        "Starting Dapr Runtime -- version": "dapr.runtime",
        "Log level set to: info": "dapr.runtime",
        "app id: my-app": "dapr.runtime",
        "Component loaded: statestore (state.sqlite/v1)": "dapr.runtime.processor",
        f"HTTP server is running on port {sidecar.port}": "dapr.runtime.http",
        f"application discovered on port {app.port}": "dapr.runtime",
        "dapr initialized. Status: Running. Init Elapsed ": "dapr.runtime",
        "Dapr is shutting down": "dapr.runtime",
        "Daprd shutdown gracefully": "dapr.runtime",
    }
    for text, scope in said.items():
        line = next(line for line in sidecar.lines if text in line)
        assert f" scope={scope} " in line
        assert " level=info " in line
    assert re.search(r"Init Elapsed \d+ms", sidecar.said)
    assert "app_id=my-app" in next(line for line in sidecar.lines if READY in line)


def test_json_lines(tmp_path: Path) -> None:
    with Sidecar(tmp_path, "--log-as-json") as sidecar:
        assert sidecar.stop() == 0
    for line in sidecar.lines:
        entry = json.loads(line)
        assert list(entry) == sorted(entry)
        assert {"instance", "level", "msg", "scope", "time", "type", "ver"} <= set(entry)
    assert json.loads(next(line for line in sidecar.lines if READY in line))["app_id"] == "app"


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "out.log"
    file.write_text("before\n")
    with Sidecar(tmp_path, "--log-file", str(file), "--enable-metrics=false", ready="") as sidecar:
        while READY not in file.read_text():
            assert sidecar.process.poll() is None
        assert sidecar.stop() == 0
    text = file.read_text()
    assert text.startswith("before\n")
    assert "Daprd shutdown gracefully" in text
    assert sidecar.lines == []


def test_levels_and_the_api_log(tmp_path: Path) -> None:
    flags = ("--log-level", "error", "--enable-api-logging")
    with Sidecar(tmp_path, *flags, ready="") as sidecar:
        until_served(sidecar)
        headers = {"user-agent": "a test"}
        assert sidecar.http("GET", "/v1.0/state/statestore/a%20b?metadata.x=1", headers=headers).status == 204
        line = sidecar.wait_line("a test")
        assert "HTTP API Called" in line
        assert " scope=dapr.runtime.http-info " in line
        assert " level=info " in line
        for field in ("code=204", "duration=", 'useragent="a test"', "size="):
            assert field in line
        assert 'method="GET /v1.0/state/statestore/a' in line
        assert not any(text in sidecar.said for text in (READY, "Component loaded"))
    with Sidecar(tmp_path, "--log-level", "loud", ready="") as sidecar:
        assert sidecar.wait() != 0
        assert "--log-level" in sidecar.said


def until_served(sidecar: Sidecar) -> None:
    while True:
        try:
            request(sidecar.port, "GET", "/v1.0/healthz")
            return
        except OSError:
            assert sidecar.process.poll() is None, sidecar.said


def test_the_api_log_as_configured(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("spec: {logging: {apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}}}")
    with Sidecar(tmp_path, "--config", str(config), "--log-as-json") as sidecar:
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        assert sidecar.http("GET", "/v1.0/state/statestore/hidden").status == 204
        entry = json.loads(sidecar.wait_line("HTTP API Called"))
        assert entry["method"] == "GetState"
        assert "hidden" not in sidecar.said
        assert "healthz" not in sidecar.said


def test_component_lines_name_their_component(tmp_path: Path) -> None:
    odd = component("odd", "state.sqlite", {"connectionString": str(tmp_path / "x.db"), "timeoot": "3s"})
    resources = write(tmp_path / "r", "a.yaml", odd)
    with Sidecar(tmp_path, *resources_flags(resources), ready=SERVING) as sidecar:
        line = next(line for line in sidecar.lines if "timeoot" in line)
        assert " scope=dapr.contrib " in line
        assert 'component="odd (state.sqlite/v1)"' in line
        assert "timeout" in line
