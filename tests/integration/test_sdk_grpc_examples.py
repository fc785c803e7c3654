"""The example apps that speak gRPC, through one process: what `tools/run greenhouse` starts."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.cli import Run, ask
from tests.integration.test_sdk_examples import EXAMPLES, wait_all
from tests.support.sidecar import free_port

pytestmark = pytest.mark.slow


def copy_greenhouse(place: Path) -> None:
    """The example with its own run file, on ports of this test."""
    shutil.copytree(EXAMPLES / "greenhouse", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".dapr"))
    template: dict[str, Any] = yaml.safe_load((place / "dapr.yaml").read_text())
    for app in template["apps"]:
        app |= {"command": [sys.executable, *app["command"][1:]], "metricsPort": free_port()}
        if "appPort" in app:
            app["appPort"] = free_port()
    (place / "dapr.yaml").write_text(yaml.safe_dump(template))


def test_greenhouse_is_served_over_grpc(tmp_path: Path) -> None:
    """State and topics of the SDK, a streaming subscription, a service of its own; and all is known after a stop."""
    copy_greenhouse(tmp_path)
    with Run(tmp_path, "run", "-f", "dapr.yaml", variables={"READINGS": "3"}) as run:
        wait_all(
            run,
            "sensor == reading 3: 24.0 °C",
            "display == too hot: 32.0 °C",
            "display == it is 24.0 °C",
            "display == the warmest was reading 2 with 32.0 °C",
        )
        assert "stopped successfully" in ask(tmp_path, "stop", "-f", "dapr.yaml").stdout
        assert run.wait() == 0
    with Run(tmp_path, "run", "-f", "dapr.yaml", variables={"READINGS": "1"}) as run:
        wait_all(run, "sensor == reading 4: 31.0 °C", "display == it is 31.0 °C")
        told = json.loads(ask(tmp_path, "invoke", "-a", "climate", "-m", "warmest", "--json").stdout)
        assert json.loads(told["body"]) == {"number": 2, "celsius": 32.0}
        run.kill()
