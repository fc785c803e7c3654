"""Backups and their way back, of folders that no node has open."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.store.copies import StoreInUse
from edge_runtime.upkeep import backup, restore
from edge_runtime.upkeep.archive import BackupBroken, Head
from edge_runtime.upkeep.backup import SCRATCH, Source, back_up, check
from edge_runtime.upkeep.restore import Wish

KEY = bytes(range(32))


def database(path: Path, word: str, rows: int = 300) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (word TEXT)")
    connection.execute("BEGIN")
    connection.execute("DELETE FROM t")
    connection.executemany("INSERT INTO t VALUES (?)", [(word * 50,)] * rows)
    connection.execute("COMMIT")
    connection.close()


def word(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("SELECT word FROM t").fetchone()[0])[:3]
    finally:
        connection.close()


def write_node(folder: Path, text: str) -> Source:
    state = folder / "state"
    database(state / "node.db", text)
    database(state / "statestore.db", text)
    database(folder / "elsewhere" / "orders.db", text)
    (state / "links").mkdir(exist_ok=True)
    (state / "links" / "cloud.paused").write_text("")
    (state / "seal.key").write_text(text)
    (state / "node.db-run").write_text("a note")
    (state / "node.db-log" / "locks").mkdir(parents=True, exist_ok=True)
    (state / "node.db-log" / "locks" / "group").write_text("")
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc" / "config.yaml").write_text(text)
    return Source(str(state), [str(folder / "elsewhere" / "orders.db")], str(folder / "etc"))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return write_node(tmp_path, "one")


def contents(folder: Path) -> dict[str, str]:
    """Everything that a node would see there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".db-" not in str(path):
            found[str(path.relative_to(folder))] = word(path) if path.suffix == ".db" else path.read_text()
    return found


def wish(tmp_path: Path, **more: object) -> Wish:
    return Wish(str(tmp_path / "backup"), None, str(tmp_path / "state"))._replace(**more)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [None, KEY])
def test_what_was_backed_up_comes_back(key: bytes | None, tmp_path: Path, source: Source) -> None:
    before = contents(tmp_path)
    target = tmp_path / "backup"
    report = back_up(source, str(target), key)
    assert report.verified
    assert report.bytes == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    assert [member.name for member in report.members if member.tables is not None] == [
        "state/statestore.db",
        "elsewhere/0/orders.db",
        "state/node.db",
    ]
    assert not any("node.db-" in member.name for member in report.members)
    assert (b"one" * 50 in target.read_bytes()) == (key is None)
    target.rename(tmp_path / "state.tar")
    os.rename(tmp_path / "state.tar", tmp_path.parent / "kept")
    write_node(tmp_path, "two")
    (tmp_path / "state" / "later").write_text("two")
    restore.restore(wish(tmp_path, source=str(tmp_path.parent / "kept"), key=key, config_dir=source.config_dir))
    assert contents(tmp_path) == before
    assert not (tmp_path / "state" / "node.db-run").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "etc", "state"]
    (tmp_path.parent / "kept").unlink()


def test_a_restore_may_make_the_directory(tmp_path: Path, source: Source) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    report = restore.restore(wish(tmp_path, state_dir=str(tmp_path / "new"), elsewhere=False))
    assert contents(tmp_path / "new") == contents(tmp_path / "state")
    assert report.kept == []


def test_what_was_there_is_kept_if_asked(tmp_path: Path, source: Source) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    write_node(tmp_path, "two")
    report = restore.restore(wish(tmp_path, keep_old=True))
    assert report.kept == [str(tmp_path / "state.before-restore")]
    assert word(tmp_path / "state.before-restore" / "node.db") == "two"
    assert word(tmp_path / "state" / "node.db") == "one"
    with pytest.raises(ConfigError, match="there from an earlier restore"):
        restore.restore(wish(tmp_path, keep_old=True))


class PowerCut(BaseException):
    """Nothing after it happens, not even what `finally` says."""


def test_a_power_cut_leaves_the_old_or_the_new(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    points: list[str] = []
    restore.restore(wish(tmp_path, elsewhere=False), points.append)
    assert points == ["staged", str(tmp_path / "state")]
    for at, expected in zip(points, ("two", "one"), strict=True):
        write_node(tmp_path, "two")

        def cut(point: str, at: str = at) -> None:
            if point == at:
                raise PowerCut

        with monkeypatch.context() as patched:
            patched.setattr("edge_runtime.upkeep.restore.shutil.rmtree", lambda *_, **__: None)
            with pytest.raises(PowerCut):
                restore.restore(wish(tmp_path, elsewhere=False), cut)
        assert contents(tmp_path / "state")["seal.key"] == expected
        assert word(tmp_path / "state" / "node.db") == expected
        # Once more, with what the cut has left.
        restore.restore(wish(tmp_path, elsewhere=False))
        assert word(tmp_path / "state" / "node.db") == "one"
        assert not (tmp_path / "state.restore-new").exists()


def test_a_damaged_backup_changes_nothing(tmp_path: Path, source: Source) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    data = bytearray((tmp_path / "backup").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "backup").write_bytes(data)
    before = contents(tmp_path / "state")
    with pytest.raises(BackupBroken, match="backup: "):
        restore.restore(wish(tmp_path))
    assert contents(tmp_path / "state") == before
    assert not (tmp_path / "state.restore-new").exists()


def test_a_directory_in_use_is_refused(tmp_path: Path, source: Source) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM t'); print(flush=True)"
    for path in (tmp_path / "state" / "node.db", tmp_path / "elsewhere" / "orders.db"):
        other = subprocess.Popen(
            [sys.executable, "-c", script + "; sys.stdin.read()", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StoreInUse, match="stop the node first"):
            restore.restore(wish(tmp_path))
        other.communicate("")
    restore.restore(wish(tmp_path))


def test_the_backup_of_a_newer_program_is_refused(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(backup, "__version__", "99.0")
        back_up(source, str(tmp_path / "backup"), None)
    with pytest.raises(ConfigError, match=r"version 99.0, which is newer than this one .*--force"):
        restore.restore(wish(tmp_path))
    restore.restore(wish(tmp_path, force=True))


def test_too_little_room_is_told_before(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    monkeypatch.setattr(restore, "_free_bytes", lambda path: 1000)
    with pytest.raises(ConfigError, match=r"needs \d+ bytes .* 1000 are free"):
        restore.restore(wish(tmp_path))


def test_configuration_that_is_not_there_is_missed(tmp_path: Path, source: Source) -> None:
    back_up(source._replace(config_dir=""), str(tmp_path / "backup"), None)
    with pytest.raises(ConfigError, match="has no configuration; leave --with-config away"):
        restore.restore(wish(tmp_path, config_dir=str(tmp_path / "etc")))
    assert (tmp_path / "etc" / "config.yaml").read_text() == "one"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A megabyte, then it is full. Where no file system can be mounted there is no such test."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(place)], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_nothing_left(tmp_path: Path, source: Source, small_disk: Path) -> None:
    database(tmp_path / "state" / "large.db", "abcdefghij", 5000)
    with pytest.raises((ConfigError, DriverError), match="free some space"):
        back_up(source, str(small_disk / "backup"), None)
    assert list(small_disk.iterdir()) == []
    with pytest.raises(ConfigError, match="No space left on device; free some space there"):
        back_up(source, str(small_disk / "backup"), KEY)
    assert list(small_disk.iterdir()) == []
    back_up(source, str(tmp_path / "backup"), None)
    with pytest.raises(ConfigError, match="a file system is mounted there"):
        restore.restore(wish(tmp_path, state_dir=str(small_disk)))
    with pytest.raises(ConfigError, match="are free; free some space"):
        restore.restore(wish(tmp_path, state_dir=str(small_disk / "state")))
    assert list(small_disk.iterdir()) == []


def test_what_cannot_be_read_back_is_no_backup(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backup").write_text("an earlier one")

    def damage(path: str, key: bytes | None) -> list[object]:
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 2)
            file.write(b"damage")
        return list(check(path, key))

    monkeypatch.setattr(backup, "check", damage)
    with pytest.raises(BackupBroken, match=r"cannot be read back: .*; check the medium"):
        back_up(source, str(tmp_path / "backup"), None)
    assert (tmp_path / "backup").read_text() == "an earlier one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "elsewhere", "etc", "state"]


def test_a_damaged_database_is_not_backed_up(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "state" / "statestore.db"
    data = bytearray(path.read_bytes())
    data[8192:8300] = b"\xff" * 108
    path.write_bytes(data)
    with pytest.raises(DriverError, match="damaged"):
        back_up(source, str(tmp_path / "backup"), None)
    assert not (tmp_path / "backup").exists()


def test_leavings_of_a_killed_backup_go(tmp_path: Path, source: Source) -> None:
    (tmp_path / "state" / f"{SCRATCH}999999999").mkdir()
    (tmp_path / "state" / f"{SCRATCH}999999999" / "copy").write_text("x")
    (tmp_path / "state" / f"{SCRATCH}{os.getppid()}").mkdir()
    report = back_up(source, str(tmp_path / "backup"), None)
    assert not (tmp_path / "state" / f"{SCRATCH}999999999").exists()
    assert (tmp_path / "state" / f"{SCRATCH}{os.getppid()}").exists()
    assert not any(SCRATCH in member.name for member in report.members)


def test_a_backup_beside_the_data_is_not_in_itself(tmp_path: Path, source: Source) -> None:
    for _ in range(2):
        report = back_up(source, str(tmp_path / "state" / "backup"), None)
    assert "state/backup" not in {member.name for member in report.members}


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such directory"):
        back_up(Source(str(tmp_path / "nothing")), str(tmp_path / "backup"), None)


def test_the_head_tells_where_it_was(tmp_path: Path, source: Source) -> None:
    back_up(source, str(tmp_path / "backup"), None)
    head: Head = restore.restore(wish(tmp_path)).head
    assert (head.state_dir, head.config_dir) == (source.state_dir, source.config_dir)
    assert head.bytes > 1000


def test_files_that_change_meanwhile_do_no_harm(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One goes after it was listed, one grows after it was opened, and a large one shrinks."""
    (tmp_path / "state" / "goes").write_text("x")
    (tmp_path / "state" / "grows").write_text("x" * 100)
    real = backup._gather

    def gather(source: Source, target: str) -> object:
        found = real(source, target)
        (tmp_path / "state" / "goes").unlink()
        return found

    monkeypatch.setattr(backup, "_gather", gather)
    fstat = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        facts = fstat(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("grows"):
            with open(tmp_path / "state" / "grows", "a") as file:
                file.write("more")
        return facts

    with monkeypatch.context() as patched:
        patched.setattr(backup.os, "fstat", grow)
        names = {member.name for member in back_up(source, str(tmp_path / "backup"), None).members}
    assert "state/grows" in names
    assert "state/goes" not in names

    with open(tmp_path / "state" / "large", "wb") as file:
        file.truncate(5 * 2**20)

    def shrink(descriptor: int) -> os.stat_result:
        facts = fstat(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("large"):
            os.truncate(tmp_path / "state" / "large", 10)
        return facts

    (tmp_path / "state" / "goes").write_text("x")
    monkeypatch.setattr(backup.os, "fstat", shrink)
    with pytest.raises(ConfigError, match="changed meanwhile; try again"):
        back_up(source, str(tmp_path / "backup"), None)
    assert check(str(tmp_path / "backup"), None), "the earlier one is still there"
