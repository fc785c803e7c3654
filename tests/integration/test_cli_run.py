"""`edge-runtime run`: an app and its sidecar start, show and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.cli import COMMAND, Run, ask, environment, listed, shell
from tests.support.sidecar import WAIT_S, free_port, request

pytestmark = pytest.mark.slow

UP = "You're up and running!"


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] in (b"Z", b"X"):
                    return
        except FileNotFoundError:
            return
    raise AssertionError(f"process {pid} still runs")


def test_app_is_told_and_shown(tmp_path: Path) -> None:
    script = "echo I am $APP_ID at $DAPR_HTTP_PORT; exec sleep 100"
    with Run(tmp_path, "run", "-a", "shown-app", "-p", str(free_port()), *shell(script)) as run:
        started = run.wait_line("Starting Dapr with id shown-app. HTTP Port: ")
        port = int(started.partition("HTTP Port: ")[2].partition(".")[0])
        run.wait_line(UP)
        line = run.wait_line("I am") if "I am" not in run.said else run.said
        assert f"== APP == I am shown-app at {port}" in line
        row = listed(tmp_path, "shown-app")["shown-app"]
        assert (row["httpPort"], row["cliPid"], row["daprdPid"]) == (port, run.pid, run.pid)
        assert row["command"] == f"sh -c {script}"
        extended = request(port, "GET", "/v1.0/metadata").json()["extended"]
        assert extended["appPID"] == str(row["appPid"])
        assert extended["cliPID"] == str(run.pid)
        assert run.stop() == 0
        until_gone(row["appPid"])
    assert "Exited App successfully" in run.said


def test_process_looks_like_a_sidecar(tmp_path: Path) -> None:
    with Run(tmp_path, "run", "-a", "seen-app", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        assert Path(f"/proc/{run.pid}/comm").read_text() == "daprd\n"
        words = Path(f"/proc/{run.pid}/cmdline").read_text().split("\0")
        port = listed(tmp_path, "seen-app")["seen-app"]["httpPort"]
        assert "--app-id=seen-app" in words
        assert f"--dapr-http-port={port}" in words


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 1)])
def test_exit_of_the_app_ends_all(tmp_path: Path, code: int, expected: int) -> None:
    with Run(tmp_path, "run", "-a", "short-app", *shell(f"exit {code}")) as run:
        assert run.wait() == expected
    assert ("The App process exited with error code: 3" in run.said) == bool(code)
    assert "Daprd shutdown gracefully" in run.said


def test_unknown_command_is_named(tmp_path: Path) -> None:
    with Run(tmp_path, "run", "-a", "lost-app", "--", "no-such-command") as run:
        assert run.wait() == 1
    assert "Failed to find command 'no-such-command'" in run.said


def test_sidecar_alone_runs_too(tmp_path: Path) -> None:
    with Run(tmp_path, "run", "-a", "lone-app") as run:
        run.wait_line("no application command found")
        run.wait_line(UP)
        run.signal(signal.SIGINT)
        assert run.wait() == 0


def test_shutdown_api_ends_the_app(tmp_path: Path) -> None:
    port = free_port()
    with Run(tmp_path, "run", "-a", "shut-app", "-H", str(port), *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        assert request(port, "POST", "/v1.0/shutdown").status == 204
        assert run.wait() == 0


def test_killed_node_takes_its_app_along(tmp_path: Path) -> None:
    port = free_port()
    with Run(tmp_path, "run", "-a", "killed-app", "-H", str(port), *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        app_pid = listed(tmp_path, "killed-app")["killed-app"]["appPid"]
        run.kill()  # returns when the reader of its output has seen the end
        until_gone(app_pid)
    with Run(tmp_path, "run", "-a", "killed-app", "-H", str(port), *shell("exit 0")) as run:
        assert run.wait() == 0


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    script = "trap 'echo deaf' TERM; echo up; while :; do sleep 0.1; done"
    with Run(tmp_path, "run", "-a", "deaf-app", *shell(script)) as run:
        run.wait_line("== APP == up")
        run.signal(signal.SIGTERM)
        run.wait_line("== APP == deaf")
        run.signal(signal.SIGTERM)
        assert run.wait() == 1


def test_taken_port_is_named(tmp_path: Path) -> None:
    with Run(tmp_path, "run", "-a", "first-app", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        port = listed(tmp_path, "first-app")["first-app"]["httpPort"]
        answer = ask(tmp_path, "run", "-a", "other-app", "-H", str(port), *shell("exit 0"))
    assert answer.returncode == 1
    assert f"invalid configuration for HTTPPort. Port {port} is not available" in answer.stderr


def test_app_that_stops_finds_its_sidecar(tmp_path: Path) -> None:
    """The app is stopped first, so that it can still save what it has."""
    code = (
        "import os, signal, sys, time, urllib.request\n"
        "def save(*_):\n"
        "    url = f\"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/state/statestore\"\n"
        '    data = b\'[{"key": "last", "value": "words"}]\'\n'
        "    urllib.request.urlopen(urllib.request.Request(url, data, {'content-type': 'application/json'}))\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('up', flush=True)\n"
        "time.sleep(100)\n"
    )
    with Run(tmp_path, "run", "-a", "saving-app", "--", sys.executable, "-c", code) as run:
        run.wait_line("== APP == up")
        assert run.stop() == 0
    assert ask(tmp_path, "state", "get", "-a", "saving-app", "last").stdout == "words\n"


def test_bare_environment_is_enough(tmp_path: Path) -> None:
    script = tmp_path / "deep" / "edge"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom edge_runtime.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(script)
    places = {name: value for name, value in environment(tmp_path).items() if name.startswith("EDGE_RUNTIME_")}
    command = [str(link), "run", "-a", "bare-app", "--", "/bin/sh", "-c", "echo HOME=$HOME"]
    ended = subprocess.run(command, env=places, cwd="/", capture_output=True, text=True, timeout=WAIT_S)
    assert ended.returncode == 0, ended.stderr
    assert "== APP == HOME=\n" in ended.stdout


def test_state_and_topics_are_shown(tmp_path: Path) -> None:
    with Run(tmp_path, "run", "-a", "data-app", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        assert ask(tmp_path, "state", "set", "-a", "data-app", "one", '{"a": 1}').returncode == 0
        assert ask(tmp_path, "state", "set", "-a", "data-app", "two", "text").returncode == 0
        assert ask(tmp_path, "state", "list", "-a", "data-app").stdout == "one\ntwo\n"
        assert ask(tmp_path, "state", "list", "-a", "data-app", "--after", "one").stdout == "two\n"
        assert ask(tmp_path, "state", "get", "-a", "data-app", "one").stdout == '{"a": 1}\n'
        published = ask(tmp_path, "publish", "-i", "data-app", "-p", "pubsub", "-t", "orders", "-d", "1")
        assert published.returncode == 0, published.stderr
        assert "orders" in ask(tmp_path, "topics").stdout
        assert ask(tmp_path, "state", "delete", "-a", "data-app", "one").returncode == 0
        missing = ask(tmp_path, "state", "get", "-a", "data-app", "one")
        assert (missing.returncode, "is not in statestore" in missing.stderr) == (1, True)
        unknown = ask(tmp_path, "state", "get", "-a", "data-app", "-s", "nowhere", "one")
        assert (unknown.returncode, "nowhere" in unknown.stderr) == (1, True)
    # Nothing runs any more: the files are read.
    assert ask(tmp_path, "state", "list", "-a", "data-app").stdout == "two\n"
    assert ask(tmp_path, "state", "get", "-a", "data-app", "two").stdout == "text\n"
    assert "orders" in ask(tmp_path, "topics").stdout
    assert ask(tmp_path, "state", "set", "-a", "data-app", "one", "1").returncode == 1


def test_app_is_called_and_stopped(tmp_path: Path) -> None:
    app = (
        "import http.server, os\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        body = self.rfile.read(int(self.headers['content-length']))\n"
        "        self.send_response(200 if self.path == '/echo' else 418)\n"
        "        self.send_header('content-length', str(len(body)))\n"
        "        self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['APP_PORT'])), Handler).serve_forever()\n"
    )
    words = ("run", "-a", "echo-app", "-p", str(free_port()), "--", sys.executable, "-c", app)
    with Run(tmp_path, *words) as run:
        run.wait_line("dapr initialized")
        called = ask(tmp_path, "invoke", "-a", "echo-app", "-m", "echo", "-d", "hello")
        assert (called.returncode, called.stdout) == (0, "hello\n✅  App invoked successfully\n")
        refused = ask(tmp_path, "invoke", "-a", "echo-app", "-m", "teapot", "-d", "x")
        assert (refused.returncode, "error invoking app echo-app: 418" in refused.stderr) == (1, True)
        stopped = ask(tmp_path, "stop", "-a", "echo-app", "nobody")
        assert stopped.returncode == 0
        assert "app stopped successfully: echo-app" in stopped.stdout
        assert "failed to stop app id nobody: couldn't find app id nobody" in stopped.stderr
        assert run.wait() == 0


def test_reader_that_leaves_does_not_matter(tmp_path: Path) -> None:
    command = [*COMMAND, "run", "-a", "quiet-app", *shell("i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done")]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, env=environment(tmp_path), stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert process.wait(WAIT_S) == 0


def test_unreadable_value_is_named(tmp_path: Path) -> None:
    answer = ask(tmp_path, "run", "-a", "some-app", "--max-body-size", "4MB", *shell("exit 0"))
    assert answer.returncode == 1
    assert "invalid argument '4MB' for --max-body-size: expected a size such as 4Mi" in answer.stderr
    assert "Traceback" not in answer.stderr
