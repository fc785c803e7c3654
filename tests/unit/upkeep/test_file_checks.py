"""Checks of the node's own files, and the whole examination."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path

import pytest

from edge_runtime.upkeep import doctor
from edge_runtime.upkeep.checks import Check, System
from edge_runtime.upkeep.doctor import Patient, examine, queue_bytes
from edge_runtime.upkeep.file_checks import check_configuration, check_databases, check_permissions, check_resources
from edge_runtime.upkeep.files import database_of, read_for_every_app
from tests.support.resources import component, document, write


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    connection = sqlite3.connect(folder / "node.db")
    connection.execute("CREATE TABLE edge_migrations (name TEXT)")
    connection.execute("INSERT INTO edge_migrations VALUES ('outbox-1')")
    connection.commit()
    connection.close()
    return folder


def permissions(state: Path, socket_path: str = "/nowhere/control.sock", config: str = "/nowhere") -> dict[str, Check]:
    checks = check_permissions(str(state), config, socket_path, System("/nowhere"))
    return {check.name: check for check in checks}


def test_a_state_directory_is_for_its_owner_alone(state: Path) -> None:
    assert permissions(state)["state directory"].verdict == "ok"
    state.chmod(0o755)
    check = permissions(state)["state directory"]
    assert (check.verdict, check.mend) == ("warn", f"`chmod 700 {state}`")
    state.chmod(0o700)
    (state / "seal.key").write_text("")
    (state / "seal.key").chmod(0o644)
    assert permissions(state)["state directory"].mend == f"`chmod 600 {state / 'seal.key'}`"
    assert permissions(state / "later")["state directory"].verdict == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_found(state: Path) -> None:
    os.chown(state / "node.db", 12345, -1)
    check = permissions(state)["state directory"]
    assert check.verdict == "fail"
    assert "node.db does not belong to root" in check.seen


def test_a_control_socket_is_not_for_everybody(state: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    assert permissions(state, path)["control socket"].verdict == "skipped"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o660)
        assert permissions(state, path)["control socket"].verdict == "ok"
        os.chmod(path, 0o666)
        assert permissions(state, path)["control socket"].verdict == "fail"
    os.unlink(path)
    Path(path).write_text("")
    assert "is no socket" in permissions(state, path)["control socket"].seen


def test_configuration_is_not_for_everybody_to_change(state: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "config.yaml").write_text("")
    assert permissions(state, config=str(tmp_path / "etc"))["configuration directory"].verdict == "ok"
    (tmp_path / "etc" / "config.yaml").chmod(0o666)
    assert permissions(state, config=str(tmp_path / "etc"))["configuration directory"].verdict == "fail"


def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    """Also in what only some app would load, and beside a directory that is missing."""
    folder = tmp_path / "components"
    write(folder, "a.yaml", component("a", "state.sqlte", scopes=["shop"]))
    (folder / "b.yaml").write_text("kind: [")
    found = read_for_every_app([str(folder), str(tmp_path / "missing")])
    assert found.apps == ["shop"]
    checks = list(check_resources([str(folder)], found))
    assert sorted(check.verdict for check in checks) == ["fail", "fail", "warn"]
    text = "\n".join(f"{check.seen} {check.mend}" for check in checks)
    assert "a.yaml:1" in text
    assert 'did you mean "state.sqlite"' in text
    assert "b.yaml:" in text
    assert "missing" in text
    assert next(iter(check_resources([], found))).verdict == "ok"


def test_files_without_a_mistake_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", component("a", "state.sqlite", {"connectionString": "data/a.db"}))
    found = read_for_every_app([str(tmp_path)])
    (check,) = check_resources([str(tmp_path)], found)
    assert (check.verdict, check.seen.split(" in ")[0]) == ("ok", "1 components and 0 cloud links")
    assert database_of(found.components[0]) == os.path.realpath("data/a.db")


def test_a_configuration_is_read(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: a}\nspec: {}\n")
    bad.write_text("a: [")
    assert [check.verdict for check in check_configuration([str(good), str(bad)])] == ["ok", "fail"]


def test_databases_are_read_and_damage_is_found(state: Path) -> None:
    (check,) = check_databases(str(state), [])
    assert check.verdict == "ok"
    assert "outbox-1" in check.seen
    connection = sqlite3.connect(state / "node.db")
    connection.execute("CREATE TABLE t (data BLOB)")
    connection.executemany("INSERT INTO t VALUES (?)", [(b"x" * 3000,)] * 20)
    connection.commit()
    connection.close()
    data = bytearray((state / "node.db").read_bytes())
    data[-4096 * 4 :] = b"\xff" * 4096 * 4
    (state / "node.db").write_bytes(data)
    (check,) = check_databases(str(state), [])
    assert check.verdict == "fail"
    assert "docs/backup.md" in check.mend


def test_what_may_wait_is_summed(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", component("a", "pubsub.mqtt3", {"url": "mqtt://x", "outboxBytesMax": "1Mi"}))
    write(tmp_path, "b.yaml", component("b", "pubsub.mqtt3", {"url": "mqtt://x"}))
    spec = {
        "endpoint": {"http": "http://cloud:3500"},
        "routes": {
            "topicsUp": [{"pubsub": "pubsub", "topic": "orders", "limits": {"size": "2Mi"}}],
            "invocation": [{"appID": "billing", "queued": True, "limits": {"size": "3Mi"}}, {"appID": "x"}],
        },
    }
    write(tmp_path, "c.yaml", document("CloudLink", "cloud", spec, version="edge-runtime.io/v1alpha1"))
    found = read_for_every_app([str(tmp_path)])
    assert found.warnings == ()
    assert queue_bytes(found.components, found.links) == (1 + 64 + 2 + 3) * 2**20


def test_a_check_that_breaks_down_takes_no_other_along(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(system: System) -> list[Check]:
        raise ValueError("odd file")

    monkeypatch.setattr(doctor, "check_clock", broken)
    checks = examine(Patient(str(state), "/nowhere", "/nowhere/control.sock", peers=False))
    (check,) = (check for check in checks if check.name == "clock")
    assert (check.verdict, check.seen) == ("warn", "could not be looked at: ValueError: odd file")
    assert {"versions", "medium", "memory", "resource files"} <= {check.name for check in checks}
