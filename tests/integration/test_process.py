"""The process: how it starts, what its ports say, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.app import App, Received
from tests.support.sidecar import SERVING, Program, Sidecar, free_port, request

pytestmark = pytest.mark.slow


def test_it_starts_and_ends_well(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        assert sidecar.http("GET", "/v1.0/healthz/outbound").status == 204
        assert "dapr_runtime_component_loaded" in sidecar.metrics()
        assert sidecar.stop() == 0
        assert "Daprd shutdown gracefully" in sidecar.said


def test_without_files_the_defaults_exist(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        found = {item["name"]: item["type"] for item in sidecar.http("GET", "/v1.0/metadata").json()["components"]}
    assert found == {
        "statestore": "state.sqlite",
        "pubsub": "pubsub.sqlite",
        "secretstore": "secretstores.local.env",
        "configstore": "configuration.sqlite",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_zero(tmp_path: Path, number: int) -> None:
    with Sidecar(tmp_path) as sidecar:
        sidecar.signal(number)
        assert sidecar.wait() == 0


def test_a_stop_with_open_calls_is_clean(tmp_path: Path) -> None:
    held = threading.Event()
    let_go = threading.Event()

    def hold(_: Received) -> tuple[int, bytes]:
        held.set()
        let_go.wait(30)
        return 200, b""

    with App({"/hold": hold}) as app:
        with Sidecar(tmp_path, "--dapr-graceful-shutdown-seconds", "2", app_port=app.port) as sidecar:
            caller = threading.Thread(target=_ignore_failure, args=(sidecar, "/v1.0/invoke/app/method/hold"))
            caller.start()
            assert held.wait(30)
            assert sidecar.stop() == 0
            caller.join()
        let_go.set()


def _ignore_failure(sidecar: Sidecar, path: str) -> None:
    try:
        sidecar.http("GET", path)
    except OSError:
        pass


def test_the_shutdown_api_ends_it(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        assert sidecar.http("POST", "/v1.0/shutdown").status == 204
        assert sidecar.wait() == 0


def test_a_forced_shutdown_ends_with_one(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        assert sidecar.http("POST", "/v1.0/shutdown", headers={"dapr-force-shutdown": "true"}).status == 204
        assert sidecar.wait() == 1


def test_blocked_shutdown_keeps_serving(tmp_path: Path) -> None:
    with Sidecar(tmp_path, "--dapr-block-shutdown-duration=10m") as sidecar:
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_line("Blocking shutdown")
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        assert sidecar.http("POST", "/v1.0/shutdown").status == 204
        assert sidecar.wait() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with Sidecar(tmp_path, "--dapr-block-shutdown-duration=10m") as sidecar:
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_line("Blocking shutdown")
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == 1


def test_after_a_kill_all_is_there(tmp_path: Path) -> None:
    port = free_port()
    with Sidecar(tmp_path, port=port) as sidecar:
        assert sidecar.http("POST", "/v1.0/state/statestore", [{"key": "a", "value": {"n": 2**60 + 1}}]).status == 204
        sidecar.kill()
    with Sidecar(tmp_path, port=port) as sidecar:
        assert sidecar.http("GET", "/v1.0/state/statestore/a").body == b'{"n":%d}' % (2**60 + 1)


def test_hangup_reads_the_files_again(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "a.yaml").write_text(_component("one", "state.in-memory"))
    with Sidecar(tmp_path, "--resources-path", str(resources)) as sidecar:
        pid, said = sidecar.pid, sidecar.http("GET", "/v1.0/metadata").json()
        assert [item["name"] for item in said["components"]] == ["one"]
        assert sidecar.http("PUT", "/v1.0/metadata/note", b"kept").status == 204
        (resources / "b.yaml").write_text(_component("two", "state.in-memory"))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line("Component loaded: two")
        said = sidecar.http("GET", "/v1.0/metadata").json()
        assert [item["name"] for item in said["components"]] == ["one", "two"]
        assert said["extended"]["note"] == "kept"
        assert sidecar.pid == pid
        (resources / "b.yaml").write_text(_component("two", "state.nonsense"))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line("state.nonsense")


def _component(name: str, kind: str, **metadata: str) -> str:
    items = [{"name": key, "value": value} for key, value in metadata.items()]
    document = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": {"type": kind, "version": "v1", "metadata": items},
    }
    return json.dumps(document)


def test_a_fatal_resource_ends_with_one(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "bad.yaml").write_text(_component("s", "state.sqllite"))
    with Sidecar(tmp_path, "--resources-path", str(resources), ready="Fatal error from runtime") as sidecar:
        assert sidecar.wait() == 1
        assert "bad.yaml" in sidecar.said
        assert "state.sqlite" in sidecar.said


def test_an_unknown_flag_names_the_nearest(tmp_path: Path) -> None:
    with Sidecar(tmp_path, "--ap-port", "1", ready="app-port") as sidecar:
        assert sidecar.wait() == 2


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as first, Sidecar(tmp_path / "other", port=first.port, ready="") as second:
        assert second.wait() == 1
        assert f"--dapr-http-port {first.port}" in second.said


def test_it_runs_with_an_empty_environment(tmp_path: Path) -> None:
    """No HOME, no PATH, another directory, through a link."""
    script = Path(sys.executable).parent / "daprd"
    if not script.exists():
        pytest.skip("the package is not installed with its scripts")
    link = tmp_path / "link"
    link.symlink_to(script)
    port = free_port()
    command = [str(link), "-app-id", "x", f"-dapr-http-port={port}", "--metrics-port", "0", "--config=''"]
    with Program([*command, "--state-dir", str(tmp_path / "s")], environment={}, directory="/") as program:
        program.wait_line(SERVING)
        assert request(port, "GET", "/v1.0/healthz/outbound").status == 204
        assert program.stop() == 0


def test_readers_of_its_output_see_the_end(tmp_path: Path) -> None:
    """A grandchild that outlives the process must not hold its output open."""
    app = [sys.executable, "-c", "import time; time.sleep(600)"]
    port = free_port()
    flags = ["--app-id", "x", "--dapr-http-port", str(port), "--state-dir", str(tmp_path), "--no-attach"]
    command = [sys.executable, "-m", "edge_runtime", "run", *flags, "--", *app]
    with Program(command) as program:
        program.wait_line("You're up and running")
        children = subprocess.run(
            ["pgrep", "-P", str(program.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        program.kill()  # `wait` joins the reader, which ends only at the end of the output
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_unix_sockets_replace_the_port(tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    directory = tmp_path / "sockets"
    directory.mkdir()
    with Sidecar(tmp_path, "--unix-domain-socket", str(directory), app_id="u") as sidecar:
        path = directory / "dapr-u-http.socket"
        url = "http://localhost/v1.0/healthz"
        status = subprocess.run(
            [curl, "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(path), url],
            capture_output=True,
            check=True,
        )
        assert status.stdout == b"204"
        with pytest.raises(OSError):
            sidecar.http("GET", "/v1.0/healthz")
        assert sidecar.stop() == 0
    assert not path.exists()


def test_the_public_port_shows_health_only(tmp_path: Path) -> None:
    port = free_port()
    flags = ("--dapr-public-port", str(port))
    with Sidecar(tmp_path, *flags, environment={"DAPR_API_TOKEN": "secret"}) as sidecar:
        assert sidecar.http("GET", "/v1.0/metadata").status == 401
        assert request(port, "GET", "/v1.0/metadata").status == 200
        assert request(port, "GET", "/v1.0/healthz").status == 204
        assert request(port, "GET", "/v1.0/state/statestore/x").status == 404
