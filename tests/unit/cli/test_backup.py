"""`edge-runtime backup` and `restore`, from a shell, for a node that does not run."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edge_runtime.__main__ import main
from edge_runtime.cli import config, places
from tests.support.resources import component, write


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a node, one database of which lies elsewhere."""
    monkeypatch.setenv("EDGE_RUNTIME_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("EDGE_RUNTIME_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(config, "running_nodes", lambda environment: iter(()))
    monkeypatch.setattr(places, "running_nodes", lambda environment: iter(()))
    monkeypatch.setattr(places, "sidecars", lambda: iter(()))
    (tmp_path / "state").mkdir()
    for path in (tmp_path / "state" / "node.db", tmp_path / "orders.db"):
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        connection.close()
    etc = tmp_path / "etc"
    write(
        etc / "components", "a.yaml", component("a", "state.sqlite", {"connectionString": str(tmp_path / "orders.db")})
    )
    (etc / "apps").mkdir()
    (etc / "apps" / "shop.conf").write_text(f'EDGE_APP_FLAGS="--resources-path {tmp_path / "more"}"\n')
    write(
        tmp_path / "more",
        "b.yaml",
        component("b", "state.sqlite", {"connectionString": "{podName}.db"}, scopes=["shop"]),
    )
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    assert main([*words, "--json"]) == code
    outcome: dict[str, object] = json.loads(capsys.readouterr().out)
    return outcome


def test_a_backup_is_made_sealed_and_restored(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, target = str(node / "key"), str(node / "backup")
    assert main(["backup", "keygen", key]) == 0
    assert (node / "key").stat().st_mode & 0o777 == 0o600
    assert main(["backup", "keygen", key]) == 1
    assert "name a file that is not there yet" in capsys.readouterr().err
    outcome = told(capsys, "backup", target, "--seal-key", key, "--config-dir", str(node / "etc"), "--with-config")
    assert (outcome["sealed"], outcome["verified"]) == (True, True)
    assert [row["path"] for row in outcome["databases"]] == [str(node / "orders.db"), str(node / "state" / "node.db")]  # type: ignore[attr-defined]
    assert "config/components/a.yaml" in outcome["files"]  # type: ignore[operator]
    (note,) = outcome["notes"]  # type: ignore[misc]
    assert "b.yaml:1: b: its file is no plain text" in note

    assert "--seal-key" in str(told(capsys, "restore", target, "--verify", code=1)["error"])
    assert told(capsys, "restore", target, "--verify", "--seal-key", key)["stateDirectory"] == str(node / "state")
    (node / "state" / "node.db").unlink()
    assert main(["restore", target, "--seal-key", key, "--keep-old"]) == 0
    assert (node / "state" / "node.db").exists()
    said = capsys.readouterr().out
    assert "what was there is kept in" in said
    assert "start the node" in said


def test_a_backup_goes_into_a_pipe(node: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["backup", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert b"restore --verify" in err
    (node / "backup").write_bytes(out)
    assert main(["restore", "--verify", str(node / "backup")]) == 0
    assert b"is whole" in capfdbinary.readouterr().out


def test_what_cannot_be_done_is_told(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (node / "short").write_text("abcd")
    for words, text in (
        (("backup", str(node / "nothing" / "backup")), "No such file or directory"),
        (("backup", str(node / "backup"), "--seal-key", str(node / "short")), "backup keygen"),
        (("backup", str(node / "backup"), "--with-config", "--config-dir", "/nowhere"), "leave --with-config away"),
        (("backup", str(node / "backup"), "--state-dir", "/nowhere"), "there is no such directory"),
        (("restore", str(node / "nothing")), "No such file or directory; nothing was changed"),
        (("restore", str(node / "nothing"), "--verify"), "cannot be read"),
        (("restore", str(node / "short")), "it is no backup"),
        (("restore", str(node / "short"), "--verify"), "it is no backup"),
    ):
        assert text in str(told(capsys, *words, code=1)["error"])
    assert main(["backup", "a", "b"]) == 255
    assert main(["restore", "a", "b"]) == 255
    assert sorted(path.name for path in node.iterdir()) == ["etc", "more", "orders.db", "short", "state"]
