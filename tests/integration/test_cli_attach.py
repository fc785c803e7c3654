"""`edge-runtime serve`, and apps that attach to it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.integration.cli import Run, ask, listed, shell
from tests.support.sidecar import request

pytestmark = pytest.mark.slow

UP = "You're up and running!"
SERVING = "Starting Dapr Runtime"


def serve(place: Path, *words: str) -> Run:
    """A node that is ready, which it says as it says it to systemd."""
    address = place / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(address))
        notify.settimeout(30)
        node = Run(place, "serve", *words, variables={"NOTIFY_SOCKET": str(address)})
        assert notify.recv(1000).startswith(b"READY=1\n")
    address.unlink()
    return node


def test_app_lives_in_the_node(tmp_path: Path) -> None:
    with serve(tmp_path) as node, Run(tmp_path, "run", "-a", "guest-app", *shell("exec sleep 100")) as run:
        node.wait_line("Apps may join at")
        run.wait_line("Attaching to the node at")
        run.wait_line("HTTP server is running on port")  # the sidecar's log, passed on
        run.wait_line(UP)
        row = listed(tmp_path, "guest-app")["guest-app"]
        assert (row["daprdPid"], row["cliPid"]) == (node.pid, run.pid)
        extended = request(row["httpPort"], "GET", "/v1.0/metadata").json()["extended"]
        assert extended["appCommand"] == "sh -c exec sleep 100"
        assert extended["cliPID"] == str(run.pid)
        assert run.stop() == 0
        assert "Daprd shutdown gracefully" in run.said
        assert listed(tmp_path, "guest-app") == {}
        assert node.stop() == 0


def test_node_outlives_a_killed_guest(tmp_path: Path) -> None:
    with serve(tmp_path) as node:
        with Run(tmp_path, "run", "-a", "brief-app", *shell("exec sleep 100")) as run:
            run.wait_line(UP)
            run.kill()
        node.wait_line("App brief-app was detached")
        with Run(tmp_path, "run", "-a", "brief-app", *shell("exit 0")) as run:
            assert run.wait() == 0


def test_guest_ends_with_a_killed_node(tmp_path: Path) -> None:
    with serve(tmp_path) as node, Run(tmp_path, "run", "-a", "orphan-app", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        node.kill()
        assert run.wait() == 1
        assert "control.sock has died" in run.said
        assert "Exited App successfully" in run.said


def test_guest_ends_well_with_a_stopped_node(tmp_path: Path) -> None:
    with serve(tmp_path) as node, Run(tmp_path, "run", "-a", "polite-app", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        assert node.stop() == 0
        assert run.wait() == 0
        assert "has died" not in run.said


def test_one_guest_is_stopped_alone(tmp_path: Path) -> None:
    with serve(tmp_path), Run(tmp_path, "run", "-a", "stay-app", *shell("exec sleep 100")) as stays:
        stays.wait_line(UP)
        with Run(tmp_path, "run", "-a", "leave-app", *shell("exec sleep 100")) as leaves:
            leaves.wait_line(UP)
            assert "stopped successfully" in ask(tmp_path, "stop", "leave-app").stdout
            assert leaves.wait() == 0
        assert set(listed(tmp_path, "stay-app", "leave-app")) == {"stay-app"}


def test_name_is_given_once(tmp_path: Path) -> None:
    with serve(tmp_path), Run(tmp_path, "run", "-a", "twin-app", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        second = ask(tmp_path, "run", "-a", "twin-app", *shell("exit 0"))
    assert second.returncode == 1
    assert "an app with the id 'twin-app' runs on this node already" in second.stderr


def test_run_may_stay_alone(tmp_path: Path) -> None:
    with serve(tmp_path), Run(tmp_path, "run", "-a", "own-app", "--standalone", *shell("exec sleep 100")) as run:
        run.wait_line(UP)
        assert listed(tmp_path, "own-app")["own-app"]["daprdPid"] == run.pid


def test_closed_node_is_left_alone(tmp_path: Path) -> None:
    with serve(tmp_path, "--attach=none") as node:
        with Run(tmp_path, "run", "-a", "alone-app", *shell("exec sleep 100")) as run:
            run.wait_line(UP)
            assert listed(tmp_path, "alone-app")["alone-app"]["daprdPid"] == run.pid
        named = ask(
            tmp_path, "run", "-a", "x-app", "--control-socket", f"{tmp_path}/run/control.sock", *shell("exit 0")
        )
        assert named.returncode == 1
        assert "takes no apps" in named.stderr
        assert node.stop() == 0


def test_second_node_is_refused(tmp_path: Path) -> None:
    with serve(tmp_path):
        second = ask(tmp_path, "serve")
    assert second.returncode == 1
    assert "another node listens there" in second.stdout + second.stderr


def test_bad_flags_are_the_clients_error(tmp_path: Path) -> None:
    (tmp_path / "res").mkdir()
    (tmp_path / "res" / "bad.yaml").write_text(
        json.dumps(
            {
                "apiVersion": "dapr.io/v1alpha1",
                "kind": "Component",
                "metadata": {"name": "x"},
                "spec": {"type": "state.nothing", "version": "v1"},
            }
        )
    )
    with serve(tmp_path) as node:
        refused = ask(tmp_path, "run", "-a", "bad-app", "--resources-path", f"{tmp_path}/res", *shell("exit 0"))
        assert refused.returncode == 1
        assert "state.nothing" in refused.stderr
        assert node.stop() == 0


def test_run_file_attaches_every_app(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "dapr.yaml").write_text(
        "version: 1\n"
        "apps:\n"
        "- {appDirPath: one, appID: file-one, command: [sleep, '100']}\n"
        "- {appDirPath: two, appID: file-two, command: [sleep, '100']}\n"
    )
    with serve(tmp_path) as node, Run(tmp_path, "run", "-f", ".") as run:
        run.wait_line('Started Dapr with app id "file-one"')
        run.wait_line('Started Dapr with app id "file-two"')
        rows = listed(tmp_path, "file-one", "file-two")
        assert {row["daprdPid"] for row in rows.values()} == {node.pid}
        assert {row["cliPid"] for row in rows.values()} == {run.pid}
        assert run.stop() == 0
    log = next((tmp_path / "one/.dapr/logs").glob("file-one_daprd_*.log")).read_text()
    assert "HTTP server is running on port" in log
    assert "HTTP server is running on port" not in run.said
