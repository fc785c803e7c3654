"""The example of an outage, with two nodes and both apps: what `tools/run offline` starts."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.cli import environment
from tests.integration.test_sdk_examples import EXAMPLES
from tests.support.sidecar import Program, free_port

pytestmark = pytest.mark.slow


def copy_offline(place: Path) -> None:
    """The example on ports of this test, which stand in its files and in what plays it."""
    shutil.copytree(EXAMPLES / "offline", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".dapr"))
    words = {port: str(free_port()) for port in ("6021", "6022", "6031")} | {"python3": sys.executable}
    for name in ("outage.py", "office/dapr.yaml", "till/dapr.yaml", "till/resources/cloud.yaml"):
        file = place / name
        text = re.sub("|".join(words), lambda found: words[found.group()], file.read_text())
        file.write_text(text)


def test_books_are_equal_after_an_outage(tmp_path: Path) -> None:
    copy_offline(tmp_path)
    play = [sys.executable, "outage.py", str(tmp_path / "kept")]
    with Program(play, environment(tmp_path), tmp_path) as run:
        try:
            run.wait_line("the office is gone", 60)
            assert int(run.wait_line("link/cloud/pubsub/sales  down").split()[2]) > 0
            run.wait_line("the office is back", 60)
            books = [run.wait_line(f"{name:20}", 60) for name in ("till", "copy at the office", "office")]
            assert len({tuple(re.findall(r"\d+", book)) for book in books}) == 1
            run.wait_line("the books are equal")
            assert run.wait() == 0
        finally:
            run.stop()
