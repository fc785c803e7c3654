"""Programs of `tests/sdk`: apps with an official SDK that say what they see, as a JSON object a line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.sidecar import Program

SDK = Path(__file__).parents[1] / "sdk"

# Where a developer's shell talks to a sidecar of their own, the drivers must not.
_NOT_INHERITED = ("DAPR_", "APP_")


class Driver(Program):
    """A running driver. A line that is no JSON object is kept in `said`, for the message of a failure."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
        super().__init__(command, {**inherited, **environment})

    def __enter__(self) -> Driver:
        return self

    def wait_said(self, name: str) -> Any:
        """The value said next under the name; what was said before it is passed over."""
        return json.loads(self.wait_line(f'{{"name":{json.dumps(name)},'))["value"]

    def gather(self, counts: Mapping[str, int]) -> dict[str, list[Any]]:
        """Everything said until each name was said so often as `counts` has it; other names come along."""
        said: dict[str, list[Any]] = defaultdict(list)
        while any(len(said[name]) < count for name, count in counts.items()):
            item = json.loads(self.wait_line('{"name":'))
            said[item["name"]].append(item["value"])
        return said

    def results(self) -> dict[str, Any]:
        """Waits for the end; everything said, by name."""
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver does not end; said:\n{self.said}") from None
        assert code == 0, f"the driver ended with {code}; said:\n{self.said}"
        items = [json.loads(line) for line in self.lines if line.startswith('{"name":')]
        return {item["name"]: item["value"] for item in items}


@cache
def node() -> list[str]:
    """The command that runs a script, which listens on the loopback alone. The test is skipped where that cannot be."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed: install Node.js 18 or later to test with the JavaScript SDK")
    if not (SDK / "js" / "node_modules").is_dir():
        pytest.skip("the JavaScript SDK is not installed: run `npm ci --ignore-scripts` in tests/sdk/js, or tools/test")
    return [found, "--require", str(SDK / "js" / "loopback.cjs")]


def javascript(script: str, port: int, **environment: str) -> Driver:
    """Runs `tests/sdk/js/<script>` beside the sidecar on the port."""
    return Driver([*node(), str(SDK / "js" / script)], {"DAPR_HTTP_PORT": str(port), **environment})


def python(script: str, port: int, **environment: str) -> Driver:
    """Runs `tests/sdk/python/<script>` beside the sidecar on the port."""
    command = [sys.executable, "-u", str(SDK / "python" / script)]
    return Driver(command, {"DAPR_HTTP_PORT": str(port), "DAPR_HEALTH_TIMEOUT": "30", **environment})


def component(name: str, kind: str, **metadata: str) -> str:
    """A Component resource, as the text of a file."""
    items = [{"name": key, "value": value} for key, value in metadata.items()]
    document = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": name},
        "spec": {"type": kind, "version": "v1", "metadata": items},
    }
    return json.dumps(document)
