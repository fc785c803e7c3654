"""`edge-runtime doctor` beside a node that runs, with brokers and links that answer and some that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Mosquitto
from tests.integration.cli import Run, ask
from tests.support.resources import component, document, write
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow

UP = "You're up and running!"


def link(name: str, port: int, **spec: Any) -> dict[str, Any]:
    return document(
        "CloudLink",
        name,
        {"endpoint": {"http": f"http://127.0.0.1:{port}"}, **spec},
        version="edge-runtime.io/v1alpha1",
    )


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker")
    with broker:
        yield broker


def examined(place: Path, *words: str, code: int) -> dict[str, dict[str, Any]]:
    done = ask(place, "doctor", "--json", "--config-dir", str(place / "etc"), *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["healthy"] == (code == 0)
    return {check["name"]: check for check in document["checks"]}


def test_a_node_that_runs_is_examined(tmp_path: Path, mosquitto: Mosquitto) -> None:
    port = free_port()
    resources = tmp_path / "etc" / "components"
    write(resources, "broker.yaml", component("events", "pubsub.mqtt3", {"url": mosquitto.url, "consumerID": "shop"}))
    with Sidecar(tmp_path / "cloud", environment={"DAPR_API_TOKEN": "right"}) as cloud:
        write(resources, "link.yaml", link("cloud", cloud.port, token={"value": "right"}))
        words = ("run", "-a", "shop", "-H", str(port), "--resources-path", str(resources), "--no-attach")
        with Run(tmp_path, *words) as node:
            node.wait_line(UP)
            checks = examined(tmp_path, code=0)
            for name in ("broker of events", "cloud link cloud", "database node.db", "resource files"):
                assert checks[name]["verdict"] == "ok", checks[name]
            assert (
                "a flushed write takes" in checks["flush"]["seen"]
            )  # how long, and whether to believe it, is the disk's
            assert checks[f"port {port}"]["seen"] == "the node listens there for the HTTP API of shop"
            assert node.stop() == 0
        assert not [line for line in node.lines if "took over" in line or "lost" in line.lower()]
        assert [path.name for path in (tmp_path / "state").iterdir() if "doctor" in path.name] == []


def test_what_cannot_be_reached_is_told_with_its_mend(tmp_path: Path, mosquitto: Mosquitto) -> None:
    resources = tmp_path / "etc" / "components"
    away = {"url": f"mqtt://127.0.0.1:{free_port()}", "consumerID": "shop"}
    write(resources, "a.yaml", component("away", "pubsub.mqtt3", away))
    write(
        resources,
        "b.yaml",
        component("nowhere", "bindings.mqtt3", {**away, "url": "mqtt://no.such.host.invalid", "topic": "a"}),
    )
    secret = {"secretKeyRef": {"name": "nothing", "key": "nothing"}}
    write(
        resources, "c.yaml", component("secret", "pubsub.mqtt3", {**away, "url": secret}, auth={"secretStore": "none"})
    )
    write(resources, "d.yaml", link("gone", free_port()))
    with Sidecar(tmp_path / "cloud", environment={"DAPR_API_TOKEN": "right"}) as cloud:
        write(resources, "e.yaml", link("refused", cloud.port, token={"value": "not-the-token-7391"}))
        write(resources, "f.yaml", component("typo", "state.sqlte"))
        checks = examined(tmp_path, "--timeout", "5", code=1)
        for name, verdict, mend in (
            ("broker of away", "fail", "start what should listen there"),
            ("broker of nowhere", "fail", "name server"),
            ("broker of secret", "warn", "environment of the app"),
            ("cloud link gone", "fail", "start what should listen there"),
            ("resource files", "fail", "correct spec.type in"),
        ):
            assert checks[name]["verdict"] == verdict, checks[name]
            assert mend in checks[name]["mend"], checks[name]
        assert "7391" not in json.dumps(checks)
        assert checks["cloud link refused"]["verdict"] == "fail", checks["cloud link refused"]
        assert "spec.token" in checks["cloud link refused"]["mend"], checks["cloud link refused"]
        shown = ask(tmp_path, "doctor", "--config-dir", str(tmp_path / "etc"), "--offline")
        assert shown.returncode == 1
        assert "FAIL  resource files" in shown.stdout
        assert "cloud link" not in shown.stdout
