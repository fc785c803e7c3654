"""HTTP/2 without TLS, to the HTTP API and to apps with --app-protocol h2c, with foreign libraries at the other end."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.drivers import Driver
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow

FOREIGN = Path(__file__).parents[1] / "foreign"


def node(script: str, port: int) -> Driver:
    """Runs a script that needs nothing but Node itself."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: install Node.js 18 or later to test with its HTTP/2")
    return Driver([found, str(FOREIGN / script), str(port)], {})


def curl(*arguments: str) -> tuple[str, str]:
    """What curl says: the version of HTTP with the status, and the body."""
    found = shutil.which("curl")
    if found is None or "HTTP2" not in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("curl with HTTP/2 is not installed")
    command = [found, "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_version} %{http_code}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    body, _, said = done.stdout.rpartition("\n")
    return said, body


@contextmanager
def h2c_app(tmp_path: Path, *flags: str) -> Iterator[tuple[Sidecar, Driver]]:
    port = free_port()
    with node("http2_app.mjs", port) as app:
        app.wait_said("listening")
        with Sidecar(tmp_path, "--app-protocol", "h2c", *flags, app_port=port) as sidecar:
            yield sidecar, app


def test_curl_speaks_http2(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        state = f"http://127.0.0.1:{sidecar.port}/v1.0/state/statestore"
        header = "content-type: application/json"
        saved = curl("--http2-prior-knowledge", "-H", header, "-d", '[{"key":"a","value":1}]', state)
        assert saved == ("2 204", "")
        assert curl("--http2-prior-knowledge", f"{state}/a") == ("2 200", "1")
        assert curl("--http2-prior-knowledge", "--head", f"{state}/a")[0].startswith("2 ")
        assert curl("--http2", f"{state}/a") == ("1.1 200", "1"), "an offer to change over is not taken"


def test_http2_can_be_switched_off(tmp_path: Path) -> None:
    with Sidecar(tmp_path, environment={"DAPR_HTTP_DISABLE_H2C": "true"}) as sidecar:
        url = f"http://127.0.0.1:{sidecar.port}/v1.0/healthz"
        with pytest.raises(subprocess.CalledProcessError):
            curl("--http2-prior-knowledge", url)
        assert curl(url)[0] == "1.1 204"


def test_token_guards_http2_too(tmp_path: Path) -> None:
    with Sidecar(tmp_path, environment={"DAPR_API_TOKEN": "secret"}) as sidecar:
        url = f"http://127.0.0.1:{sidecar.port}/v1.0/state/statestore/a"
        assert curl("--http2-prior-knowledge", url)[0] == "2 401"
        assert curl("--http2-prior-knowledge", "-H", "dapr-api-token: secret", url)[0] == "2 204"


def test_node_client_is_served(tmp_path: Path) -> None:
    with (
        h2c_app(tmp_path, "--max-body-size", "32Mi") as (sidecar, app),
        node("http2_client.mjs", sidecar.port) as client,
    ):
        assert client.results() == {
            "saved": 204,
            "got": [200, '{"n":1}', "7", False],
            "head": [404, 0],
            "many": True,
            "unknown": 404,
            "echoed": [200, True],
            "continued": "hi",
            "left": True,
            "pinged": True,
        }
        assert app.wait_said("closed") == 8, "the app's stream is cancelled when the caller leaves"


def test_h2c_app_is_invoked(tmp_path: Path) -> None:
    with h2c_app(tmp_path) as (sidecar, app):
        invoke = "/v1.0/invoke/app/method"
        assert sidecar.http("POST", f"{invoke}/echo", b"hello").body == b"hello"
        answer = sidecar.http("PUT", f"{invoke}/teapot?x=1", b"")
        assert (answer.status, answer.headers["x-kettle"], answer.body) == (418, "on", b"short and stout")
        headers = sidecar.http("GET", f"{invoke}/headers?q=1", headers={"X-A": "1", "Connection": "close"}).json()
        assert (headers[":path"], headers[":scheme"], headers["x-a"]) == ("/headers?q=1", "http", "1")
        assert "connection" not in headers
        assert headers[":authority"].startswith("127.0.0.1:")
        failed = sidecar.http("GET", f"{invoke}/refuse")
        assert (failed.status, failed.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        assert sidecar.http("POST", f"{invoke}/echo", b"again").body == b"again"
    assert _count(app, "session") == 1, "every call went over one connection"


def _count(app: Driver, name: str) -> int:
    return sum(1 for line in app.lines if line.startswith(f'{{"name":{json.dumps(name)},'))


def test_h2c_app_gets_its_events(tmp_path: Path) -> None:
    with h2c_app(tmp_path) as (sidecar, app):
        for number in range(3):
            assert sidecar.http("POST", "/v1.0/publish/pubsub/orders", {"n": number}).status == 204
        events: list[Any] = [app.wait_said("event")["data"] for _ in range(3)]
        assert sorted(event["n"] for event in events) == [0, 1, 2]


def test_h2c_app_may_come_back(tmp_path: Path) -> None:
    with h2c_app(tmp_path) as (sidecar, app):
        invoke = "/v1.0/invoke/app/method/echo"
        assert sidecar.http("POST", invoke, b"1").body == b"1"
        port = json.loads(next(line for line in app.lines if "listening" in line))["value"]
        app.kill()
        assert sidecar.http("POST", invoke, b"2").status == 500
        with node("http2_app.mjs", port) as again:
            again.wait_said("listening")
            assert sidecar.http("POST", invoke, b"3").body == b"3"
