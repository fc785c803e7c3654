"""The page about the process itself."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from edge_runtime.observability.process_metrics import render_process


def test_the_process_describes_itself() -> None:
    text = render_process()
    if not text:
        pytest.skip("there is no /proc here")
    found = dict(re.findall(r"^(process_\w+) ([0-9.e+]+)$", text, re.MULTILINE))
    assert float(found["process_resident_memory_bytes"]) > 1e6
    assert float(found["process_virtual_memory_bytes"]) >= float(found["process_resident_memory_bytes"])
    assert float(found["process_cpu_seconds_total"]) > 0
    assert int(found["process_open_fds"]) >= 3
    assert 0 < float(found["process_start_time_seconds"]) <= time.time() + 1
    assert text.count("# TYPE ") == len(found)


def test_without_proc_it_says_nothing(tmp_path: Path) -> None:
    assert render_process(str(tmp_path)) == ""


def test_a_name_with_brackets_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "self" / "fd").mkdir(parents=True)
    fields = ["S", *map(str, range(1, 50))]
    (tmp_path / "self" / "stat").write_text("7 (odd) name) " + " ".join(fields))
    (tmp_path / "stat").write_text("cpu 1\nbtime 1000\n")
    text = render_process(str(tmp_path))
    assert "process_virtual_memory_bytes 20\n" in text
    assert "process_open_fds 0\n" in text
