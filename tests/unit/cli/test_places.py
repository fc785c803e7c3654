"""Which node the commands that care for a whole node are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.cli import places
from edge_runtime.cli.arguments import parse
from edge_runtime.cli.places import CONFIG_DIR, RESOURCES, STATE_DIR, Places, find_places
from edge_runtime.cli.processes import Sidecar


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "running_nodes", lambda environment: iter(()))
    monkeypatch.setattr(places, "sidecars", lambda: iter(()))


def found(place: Path, *words: str) -> Places:
    told = ("--state-dir", str(place / "state"), "--config-dir", str(place / "etc"))
    return find_places(parse((STATE_DIR, CONFIG_DIR, RESOURCES), [*told, *words]))


def test_what_the_system_starts_is_read(tmp_path: Path) -> None:
    (tmp_path / "etc" / "components").mkdir(parents=True)
    (tmp_path / "etc" / "apps").mkdir()
    (tmp_path / "etc" / "config.yaml").write_text("")
    (tmp_path / "etc" / "apps" / "shop.conf").write_text(
        '# an app\nEDGE_APP_FLAGS="--resources-path=/opt/shop,/opt/more --dapr-http-port 3600 --config /opt/c.yaml"\n'
    )
    (tmp_path / "etc" / "apps" / "bad.conf").write_text("EDGE_APP_FLAGS=\"unended '\n")
    (tmp_path / "etc" / "apps" / "other.txt").write_text("EDGE_APP_FLAGS=--resources-path=/no\n")
    node = found(tmp_path)
    assert node.resources == [str(tmp_path / "etc" / "components"), "/opt/shop", "/opt/more"]
    assert node.configs == [str(tmp_path / "etc" / "config.yaml"), "/opt/c.yaml"]
    assert [flags["app-id"] for flags in node.flags] == [["bad"], ["shop"]]
    assert node.flags[1]["dapr-http-port"] == ["3600"]


def test_sidecars_of_another_node_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sidecar(pid: int, directory: Path | None) -> Sidecar:
        told = {} if directory is None else {"state-dir": [str(directory)]}
        return Sidecar(pid, {"app-id": ["a"], "resources-path": [f"/opt/{pid}"], **told}, 0.0)

    running = [sidecar(1, tmp_path / "state"), sidecar(2, tmp_path / "other"), sidecar(3, None), sidecar(4, None)]
    monkeypatch.setattr(places, "sidecars", lambda: iter(running))
    variables = {1: {"A": "b"}, 2: {"A": "b"}, 3: {"STATE_DIRECTORY": str(tmp_path / "state")}}
    monkeypatch.setattr(places, "variables_of", lambda pid: variables.get(pid, {}))
    node = found(tmp_path)
    assert node.pids == [1, 3]
    assert node.resources == ["/opt/1", "/opt/3"]


def test_what_is_told_goes_first(tmp_path: Path) -> None:
    (tmp_path / "etc" / "components").mkdir(parents=True)
    assert found(tmp_path, "--resources-path", "/a,/b").resources == ["/a", "/b"]
