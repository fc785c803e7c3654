"""The command line as people use it, in a directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.sidecar import WAIT_S, Program

COMMAND = (sys.executable, "-m", "edge_runtime")


def environment(place: Path) -> dict[str, str]:
    """Nothing of the machine's own node, apps and files is seen."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DAPR_", "EDGE_RUNTIME_"))},
        "HOME": str(place),
        "EDGE_RUNTIME_RUN_DIR": str(place / "run"),
        "EDGE_RUNTIME_STATE_DIR": str(place / "state"),
    }


class Run(Program):
    """`edge-runtime` with a command that stays."""

    def __init__(self, place: Path, *words: str, variables: dict[str, str] | None = None) -> None:
        super().__init__([*COMMAND, *words], {**environment(place), **(variables or {})}, place)

    def __enter__(self) -> Run:
        return self


def ask(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`edge-runtime` with a command that answers."""
    return subprocess.run(
        [*COMMAND, *words],
        env=environment(place),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        stdin=subprocess.DEVNULL,
    )


def listed(place: Path, *app_ids: str) -> dict[str, dict[str, Any]]:
    """The rows of `list --json`, of these apps only: other sidecars may run on this machine."""
    rows = json.loads(ask(place, "list", "--json").stdout)
    return {row["appId"]: row for row in rows if row["appId"] in app_ids}


def shell(script: str) -> Sequence[str]:
    return ("--", "sh", "-c", script)
