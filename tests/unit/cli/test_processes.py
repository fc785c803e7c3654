import os
from pathlib import Path

from edge_runtime.cli.processes import flags_of, sidecars


def process(proc: Path, pid: int, name: str, *words: str, ticks: int = 0) -> None:
    place = proc / str(pid)
    place.mkdir(parents=True)
    rest = " ".join(["S", *("0" for _ in range(18)), str(ticks), "0"])
    (place / "stat").write_text(f"{pid} ({name}) {rest}\n")
    (place / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())


def test_sidecars_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 1\nbtime 1000\n")
    process(tmp_path, 30, "daprd", "daprd", "--app-id", "x", "--dapr-http-port=1", "--app-port", "2")
    process(tmp_path, 20, "daprd", "/usr/bin/daprd", "--app-id=y", ticks=os.sysconf("SC_CLK_TCK") * 5)
    process(tmp_path, 10, "python3", "python3", "--app-id", "z")
    process(tmp_path, 11, "daprd", "daprd", "--log-level", "info")
    process(tmp_path, 12, "daprd) (x", "daprd", "--app-id", "odd")
    (tmp_path / "13").mkdir()
    second, first = sidecars(str(tmp_path))
    assert (first.pid, first.app_id, first.http_port, first.grpc_port, first.app_port) == (30, "x", 1, 50001, 2)
    assert (second.app_id, second.http_port, second.started_at) == ("y", 3500, 1005.0)
    assert first.metrics_enabled


def test_flags_are_read_as_dapr_reads_them() -> None:
    words = ["daprd", "--a", "1", "--b=2", "--bare", "--b", "3", "word", "--last", "--", "--not", "x"]
    assert flags_of(words) == {"a": ["1"], "b": ["2", "3"], "bare": [""], "last": [""]}


def test_values_that_are_no_ports_are_left(tmp_path: Path) -> None:
    process(tmp_path, 5, "daprd", "daprd", "--app-id=x", "--dapr-http-port=many", "--enable-metrics=false")
    (only,) = sidecars(str(tmp_path))
    assert only.http_port == 3500
    assert not only.metrics_enabled


def test_this_machine_can_be_walked() -> None:
    assert isinstance(list(sidecars()), list)
