"""`edge-runtime serve` as a service manager starts it: notices, sockets that are passed on, reload, stop."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.cli.control import NodeControl
from tests.integration.cli import Run, environment, shell
from tests.support.sidecar import WAIT_S, free_port, request

pytestmark = pytest.mark.slow

# Does what a manager does between fork and exec, which Popen has no safe way for.
START = """
import os, sys
names, fds = sys.argv[1], [int(fd) for fd in sys.argv[2].split(",")]
kept = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
for index, fd in enumerate(kept):
    os.dup2(fd, 3 + index, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "edge_runtime", "serve", *sys.argv[3:]])
"""


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def hear(self, line: str) -> list[str]:
        """The lines of the next notice that has this one."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if any(said.startswith(line) for said in lines):
                return lines


@contextmanager
def manager(place: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(place / "notify"))
        notify.settimeout(WAIT_S)
        yield Manager(notify)


def variables(place: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(place / "notify")}


def test_manager_hears_of_a_whole_life(tmp_path: Path) -> None:
    with manager(tmp_path) as heard, Run(tmp_path, "serve", variables=variables(tmp_path)) as node:
        assert heard.hear("READY=1") == ["READY=1", "STATUS=0 apps"]
        assert (tmp_path / "state" / "node.db").exists() or list(tmp_path.rglob("node.db"))
        with Run(tmp_path, "run", "-a", "guest-app", *shell("exec sleep 100")) as run:
            heard.hear("STATUS=1 app")
            node.signal(signal.SIGHUP)
            assert heard.hear("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
            heard.hear("READY=1")
            assert run.stop() == 0
        heard.hear("STATUS=0 apps")
        node.signal(signal.SIGTERM)
        assert heard.hear("STOPPING=1")[1] == "EXTEND_TIMEOUT_USEC=20000000"
        assert node.wait() == 0


def test_watchdog_is_fed(tmp_path: Path) -> None:
    watched = {**variables(tmp_path), "WATCHDOG_USEC": "300000"}
    with manager(tmp_path) as heard, Run(tmp_path, "serve", variables=watched) as node:
        for _ in range(3):
            heard.hear("WATCHDOG=1")
        assert node.stop() == 0


def test_failed_start_is_never_ready(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "node.db").write_bytes(b"no database, but long enough to be looked at. " * 100)
    with manager(tmp_path), Run(tmp_path, "serve", "--state-dir", str(state), variables=variables(tmp_path)) as node:
        assert node.wait() == 1
        assert "the file is not an SQLite database" in node.said


def test_passed_sockets_serve_who_came_first(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    with socket.socket(socket.AF_UNIX) as control, socket.create_server(("127.0.0.1", 0)) as http:
        control.bind(str(tmp_path / "passed.sock"))
        control.listen()
        port = http.getsockname()[1]
        (tmp_path / "config" / "dapr.yaml").write_text(
            f"version: 1\napps:\n- {{appID: first, appDirPath: ., daprHTTPPort: {port}, daprGRPCPort: {free_port()},"
            f" metricsPort: {free_port()}}}\n"
        )
        command = [sys.executable, "-c", START, "control:http", f"{control.fileno()},{http.fileno()}"]
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as early, manager(tmp_path) as heard:
            early.sendall(b"GET /v1.0/healthz/outbound HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            node = subprocess.Popen(
                [*command, "--state-dir", str(tmp_path / "state"), "--config-dir", str(tmp_path / "config")],
                env={**environment(tmp_path), **variables(tmp_path)},
                pass_fds=(control.fileno(), http.fileno()),
            )
            try:
                assert heard.hear("READY=1")[1] == "STATUS=1 app"
                assert early.recv(100).startswith(b"HTTP/1.1 204")
                assert request(port, "GET", "/v1.0/healthz/outbound").status == 204
                assert NodeControl(str(tmp_path / "passed.sock")).describe()["apps"] == ["first"]
                node.send_signal(signal.SIGTERM)
                assert node.wait(WAIT_S) == 0
            finally:
                node.kill()
                node.wait()
        assert (tmp_path / "passed.sock").exists()


def test_node_serves_the_apps_of_its_configuration(tmp_path: Path) -> None:
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    (config / "components").mkdir(parents=True)
    credentials.mkdir()
    (credentials / "edge-runtime-api-token").write_text("s3cret\n")
    (config / "components" / "kept.yaml").write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: kept}\n"
        "spec: {type: state.in-memory, version: v1}\n"
    )
    ports = [free_port() for _ in range(6)]
    (config / "dapr.yaml").write_text(
        "version: 1\napps:\n"
        f"- {{appID: a, appDirPath: ., daprHTTPPort: {ports[0]}, daprGRPCPort: {ports[1]}, metricsPort: {ports[2]}}}\n"
        f"- {{appID: b, appDirPath: ., daprHTTPPort: {ports[3]}, daprGRPCPort: {ports[4]}, metricsPort: {ports[5]},"
        " command: [sleep, '1']}\n"
    )
    told = {**variables(tmp_path), "CONFIGURATION_DIRECTORY": str(config), "CREDENTIALS_DIRECTORY": str(credentials)}
    with manager(tmp_path) as heard, Run(tmp_path, "serve", variables=told) as node:
        assert heard.hear("READY=1")[1] == "STATUS=2 apps"
        for port in (ports[0], ports[3]):
            assert request(port, "GET", "/v1.0/metadata").status == 401
            found = request(port, "GET", "/v1.0/metadata", headers={"dapr-api-token": "s3cret"}).json()
            assert [component["name"] for component in found["components"]] == ["kept"]
        with Run(tmp_path, "run", "-a", "guest", *shell("exec sleep 100"), variables={"DAPR_API_TOKEN": ""}) as guest:
            guest.wait_line("You're up and running!")
            assert any("kept (state.in-memory/v1)" in line for line in node.lines)
            assert guest.stop() == 0
        assert node.stop() == 0
        assert "app b: its command is not run by the node" in node.said
