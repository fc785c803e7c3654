"""The example apps, one in JavaScript and one in Python, through one process: what `tools/run` starts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.cli import Run, ask
from tests.support.drivers import SDK, node
from tests.support.sidecar import free_port, request

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = {"python3": lambda: [sys.executable], "node": node}


def copy_examples(place: Path) -> dict[str, int]:
    """The examples with their own run file, on ports of this test. Returns the API port of each app."""
    template: dict[str, Any] = yaml.safe_load((EXAMPLES / "dapr.yaml").read_text())
    ports = {}
    for app in template["apps"]:
        folder = place / app["appDirPath"]
        folder.mkdir()
        shutil.copy(EXAMPLES / app["appDirPath"] / app["command"][1], folder)
        program, *rest = app["command"]
        ports[app["appID"]] = free_port()
        app |= {"command": [*COMMANDS[program](), *rest], "appPort": free_port(), "metricsPort": free_port()}
        app |= {"daprHTTPPort": ports[app["appID"]]}
    (place / "shop" / "node_modules").symlink_to(SDK / "js" / "node_modules")
    (place / "dapr.yaml").write_text(yaml.safe_dump(template))
    return ports


def wait_all(run: Run, *texts: str) -> None:
    """Until a line with each text was said, in whatever order."""
    missing = set(texts)
    while missing:
        line = run.wait_line("== APP - ")
        missing = {text for text in missing if text not in line}


def test_shop_and_kitchen_serve_each_other(tmp_path: Path) -> None:
    ports = copy_examples(tmp_path)
    with Run(tmp_path, "run", "-f", "dapr.yaml", variables={"ORDERS": "1"}) as run:
        wait_all(
            run,
            "shop == order 1 taken: soup for 480 cents",
            "kitchen == cooked soup; 1 dishes so far",
            "shop == order 1 is ready: soup for 480 cents",
        )
        assert request(ports["kitchen"], "GET", "/v1.0/state/statestore/cooked").body == b"1"
        order = request(ports["shop"], "GET", "/v1.0/state/statestore/order-1").json()
        assert order == {"id": 1, "dish": "soup", "price": 480}
        assert "stopped successfully" in ask(tmp_path, "stop", "-f", "dapr.yaml").stdout
        assert run.wait() == 0


def test_the_kitchen_remembers_after_a_kill(tmp_path: Path) -> None:
    """It counts on from what it had: one more for the new order, and one more where the last event comes again."""
    ports = copy_examples(tmp_path)
    with Run(tmp_path, "run", "-f", "dapr.yaml", variables={"ORDERS": "1"}) as run:
        wait_all(run, "kitchen == cooked soup; 1 dishes so far")
        run.kill()
    with Run(tmp_path, "run", "-f", "dapr.yaml", variables={"ORDERS": "1"}) as run:
        wait_all(run, "kitchen == cooked soup; 2 dishes so far", "shop == order 1 taken")
        assert int(request(ports["kitchen"], "GET", "/v1.0/state/statestore/cooked").body) >= 2
        run.kill()
