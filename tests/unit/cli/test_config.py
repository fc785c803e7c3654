"""`edge-runtime config`: which file, what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.__main__ import main
from edge_runtime.cli import config
from edge_runtime.cli.control import NodeControl
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.store.configuration import ConfigurationTable
from edge_runtime.store.configuration_mirror import ConfigurationMirror
from edge_runtime.store.database import open_databases
from tests.support.resources import component, write


class Node(NodeControl):
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> dict[str, Any]:
        return {"stateDirectory": str(self._directory)}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No node runs; the state directory is not there yet."""
    monkeypatch.setenv("EDGE_RUNTIME_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(config, "running_nodes", lambda environment: iter(()))
    return tmp_path / "state"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 1
    return capsys.readouterr().err


def test_a_setting_is_kept_and_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Key a saved, version 1" in printed(capsys, "set", "a", "1")
    assert (place / "configstore.db").exists()
    assert place.stat().st_mode & 0o777 == 0o700
    saved = printed(capsys, "set", "b", "two", "--version", "v7", "-m", "unit=s", "-m", "k=a=b", "--json")
    assert json.loads(saved) == {"key": "b", "saved": True, "version": "v7"}
    assert printed(capsys, "get", "b") == "two\n"
    shown = {"value": "two", "version": "v7", "metadata": {"unit": "s", "k": "a=b"}}
    assert json.loads(printed(capsys, "get", "b", "--json")) == {"key": "b", **shown}
    listed = json.loads(printed(capsys, "list", "--json"))
    assert listed == {"a": {"value": "1", "version": "1", "metadata": {}}, "b": shown}
    assert printed(capsys, "list").splitlines()[1].split() == ["a", "1", "1"]


def test_a_key_that_a_link_brings_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def bring() -> None:
        async with open_databases() as databases:
            table = ConfigurationTable(await databases.get(str(place / "configstore.db")))
            mirror = ConfigurationMirror(table, "link/cloud/central")
            await mirror.prepare()
            await mirror.take({"a": ConfigurationItem("1")}, None)

    printed(capsys, "set", "b", "2")
    trio.run(bring)
    assert "link/cloud/central brings this key: what the remote has will come back" in printed(capsys, "set", "a", "2")
    assert json.loads(printed(capsys, "set", "a", "3", "--json"))["broughtBy"] == "link/cloud/central"
    assert "brings" not in printed(capsys, "set", "b", "3")


def test_a_deleted_setting_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "set", "a", "1")
    assert "Key a deleted" in printed(capsys, "delete", "a")
    assert "key 'a' is not in" in refused(capsys, "delete", "a")
    assert "key 'a' is not in" in refused(capsys, "get", "a")
    assert printed(capsys, "list") == "No configuration items found.\n"


def test_failures_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "get", "a", "--json"]) == 1
    assert "there is no file" in json.loads(capsys.readouterr().out)["error"]


def test_a_value_may_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "value").write_text("ü\n")
    printed(capsys, "set", "a", "-f", str(tmp_path / "value"))
    assert printed(capsys, "get", "a") == "ü\n\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    printed(capsys, "set", "a", "-f", "-")
    assert printed(capsys, "get", "a") == "piped\n"
    (tmp_path / "value").write_bytes(b"\xff")
    assert "is no UTF-8 text" in refused(capsys, "set", "a", "-f", str(tmp_path / "value"))
    assert "No such file" in refused(capsys, "set", "a", "-f", str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("burn",), 'unknown command "burn" for "edge-runtime config"'),
        (("get",), "config get: expected"),
        (("set", "a"), "a value or --data-file"),
        (("set", "a", "1", "-f", "x"), "a value or --data-file"),
        (("set", "a", "1", "-m", "x"), "--metadata 'x': expected key=value"),
    ],
)
def test_mistakes_are_named(words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *words]) == 255
    assert text in capsys.readouterr().err


def test_without_words_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resources-path" in printed(capsys)


# --- which file -------------------------------------------------------------------------------------------------------


def test_a_running_node_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [Node(tmp_path / "one")]
    monkeypatch.setattr(config, "running_nodes", lambda environment: iter(nodes))
    printed(capsys, "set", "a", "1", "-s", "mine")
    assert (tmp_path / "one" / "mine.db").exists()
    nodes.append(Node(tmp_path / "two"))
    assert "several nodes run; name the state directory with --state-dir" in refused(capsys, "list")
    printed(capsys, "set", "a", "1", "--state-dir", str(tmp_path / "two"))
    assert (tmp_path / "two" / "configstore.db").exists()


def test_a_file_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "set", "a", "1", "--file", str(tmp_path / "x.db"), "--table", "t")
    assert printed(capsys, "get", "a", "--file", str(tmp_path / "x.db"), "--table", "t") == "1\n"


def test_a_component_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"connectionString": f"file:{tmp_path}/c.db", "tableName": "t"}
    secret = {"connectionString": {"secretKeyRef": {"name": "k"}}}
    resources = str(
        write(
            tmp_path / "r",
            "a.yaml",
            component("configstore", "configuration.sqlite", fields),
            component("hidden", "configuration.sqlite", secret),
        )
    )
    printed(capsys, "set", "a", "1", "-d", resources)
    assert printed(capsys, "get", "a", "--file", str(tmp_path / "c.db"), "--table", "t") == "1\n"
    assert "there is no configuration.sqlite Component 'x'" in refused(capsys, "list", "-s", "x", "-d", resources)
    assert "connectionString is no plain text" in refused(capsys, "list", "-s", "hidden", "-d", resources)


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(capsys, "set", "a", "1", "--file", str(tmp_path / "file" / "x" / "c.db"))
