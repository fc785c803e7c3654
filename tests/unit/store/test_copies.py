"""Copies of store files: one moment each, while others write."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.model.errors import DriverError
from edge_runtime.store.copies import Snapshot, StoreInUse, inspect_copy, is_database, kept_closed, settle


def make(path: Path, *, wal: bool = True, rows: int = 1000) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t (data) VALUES (?)", [(b"x" * 2000,)] * rows)
    connection.execute("COMMIT")
    return connection


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = make(tmp_path / "a.db")
    yield connection
    connection.close()


def test_a_copy_is_of_the_moment_of_its_snapshot(tmp_path: Path, writer: sqlite3.Connection) -> None:
    """Though somebody writes before, between, and all the while."""
    snapshot = Snapshot(str(tmp_path / "a.db"), str(tmp_path))
    steps = []

    def write() -> None:
        steps.append(writer.execute("INSERT INTO t (data) VALUES (x'00')"))

    write()
    snapshot.copy_to(str(tmp_path / "copy"), write)
    snapshot.close()
    assert len(steps) > 2
    assert inspect_copy(str(tmp_path / "copy")) == {"t": 1000}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("copy")) == ["copy"]


def test_a_file_with_a_rollback_journal_is_copied_whole(tmp_path: Path) -> None:
    """A writer makes it begin again, and has to wait in the end."""
    writer = make(tmp_path / "a.db", wal=False)
    writer.execute("PRAGMA busy_timeout = 0")
    refused = []

    def write() -> None:
        try:
            writer.execute("INSERT INTO t (data) VALUES (x'00')")
        except sqlite3.OperationalError as error:
            refused.append(str(error))

    snapshot = Snapshot(str(tmp_path / "a.db"), str(tmp_path))
    snapshot.copy_to(str(tmp_path / "copy"), write)
    snapshot.close()
    (rows,) = inspect_copy(str(tmp_path / "copy")).values()
    assert rows >= 1000
    assert refused[0] == "database is locked"
    write()
    writer.close()


def test_a_file_on_a_medium_for_reading_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    writer = make(tmp_path / "a.db")
    monkeypatch.setattr("edge_runtime.store.copies.os.access", lambda path, mode: False)
    snapshot = Snapshot(str(tmp_path / "a.db"), str(tmp_path / "scratch"))
    snapshot.copy_to(str(tmp_path / "copy"))
    snapshot.close()
    writer.close()
    assert inspect_copy(str(tmp_path / "copy")) == {"t": 1000}


def test_damage_is_found(tmp_path: Path, writer: sqlite3.Connection) -> None:
    snapshot = Snapshot(str(tmp_path / "a.db"), str(tmp_path))
    snapshot.copy_to(str(tmp_path / "copy"))
    snapshot.close()
    data = bytearray((tmp_path / "copy").read_bytes())
    data[8192:8300] = b"\xff" * 108
    (tmp_path / "copy").write_bytes(data)
    with pytest.raises(DriverError, match="damaged"):
        inspect_copy(str(tmp_path / "copy"))
    (tmp_path / "copy").write_bytes(b"SQLite format 3\0" + b"no database" * 500)
    with pytest.raises(DriverError):
        inspect_copy(str(tmp_path / "copy"))


READ = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0); c.execute('SELECT count(*) FROM t').fetchall()"
)
WAIT = "; print(flush=True); sys.stdin.read()"


def test_a_file_in_use_is_not_kept_closed(tmp_path: Path, writer: sqlite3.Connection) -> None:
    """Another process has it open, which does nothing with it at the moment."""
    path = str(tmp_path / "a.db")
    writer.close()
    other = subprocess.Popen(
        [sys.executable, "-c", READ + WAIT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(StoreInUse, match="stop the node first"), kept_closed(path):
        pass
    other.communicate("")
    with kept_closed(path):
        pass


def test_nobody_opens_what_is_kept_closed(tmp_path: Path, writer: sqlite3.Connection) -> None:
    path = str(tmp_path / "a.db")
    writer.close()
    read = [sys.executable, "-c", READ, path]
    with kept_closed(path):
        assert "database is locked" in subprocess.run(read, capture_output=True, text=True).stderr
    assert subprocess.run(read).returncode == 0


def test_what_is_beside_a_file_is_settled(tmp_path: Path, writer: sqlite3.Connection) -> None:
    data = (tmp_path / "a.db").read_bytes(), (tmp_path / "a.db-wal").read_bytes()
    (tmp_path / "left.db").write_bytes(data[0])
    (tmp_path / "left.db-wal").write_bytes(data[1])
    settle(str(tmp_path / "left.db"))
    assert not (tmp_path / "left.db-wal").exists()
    assert inspect_copy(str(tmp_path / "left.db")) == {"t": 1000}
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    settle(str(tmp_path / "broken.db"))


def test_other_files_are_no_databases(tmp_path: Path, writer: sqlite3.Connection) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert is_database(str(tmp_path / "a.db"))
    assert not is_database(str(tmp_path / "empty"))
    assert not is_database(str(tmp_path / "nothing"))
    assert not is_database(str(tmp_path))
