"""Secrets in the node's file: sealed, bounded, and aged whatever the wall clock does."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from edge_runtime.security.secret_box import SecretBox
from edge_runtime.store import sealed_secrets
from edge_runtime.store.database import open_databases
from edge_runtime.store.sealed_secrets import Clocks, Damaged, SealedSecrets, Secret, open_sealed_secrets

NOW = 1_790_000_000.0
HOUR = 3600


class Machine:
    """A board: how long it is up, in which boot, and what its wall clock says."""

    def __init__(self) -> None:
        self.up_s = 100.0
        self.boots = 1
        self.wall = NOW
        self.right = False

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: round(self.up_s * 1000), lambda: str(self.boots), lambda: self.wall, lambda: self.right)

    def run(self, seconds: float) -> None:
        self.up_s += seconds
        self.wall += seconds

    def boot(self, wall: float, up_s: float = 5.0) -> None:
        self.boots += 1
        self.up_s, self.wall = up_s, wall


@asynccontextmanager
async def opened(place: Path, machine: Machine, key: bytes = bytes(32)) -> AsyncIterator[SealedSecrets]:
    async with open_databases() as databases:
        database = await databases.get(str(place / "node.db"))
        yield await open_sealed_secrets(database, SecretBox(key), machine.clocks)


async def names(kept: SealedSecrets, route: str = "cloud/vault") -> set[str]:
    return {one.secret.name for one in (await kept.read_all(route))[0]}


def words_of(place: Path) -> set[bytes]:
    """All runs of letters in the files."""
    return {word for entry in place.iterdir() for word in re.findall(rb"[a-z-]+", entry.read_bytes())}


def change(place: Path, sql: str, rows: Sequence[Sequence[object]] = ((),)) -> None:
    with closing(sqlite3.connect(place / "node.db")) as connection, connection:
        connection.executemany(sql, rows)


async def age_s(kept: SealedSecrets, name: str = "a") -> float:
    found = await kept.read("cloud/vault", Secret(name))
    assert found is not None
    return found.age_s


async def test_a_secret_is_kept_and_found(tmp_path: Path) -> None:
    async with opened(tmp_path, Machine()) as kept:
        assert await kept.put("cloud/vault", {"db": {"user": "ann", "password": "pa$$"}}, {"version_id": "2"}) == 0
        found = await kept.read("cloud/vault", Secret("db", {"version_id": "2"}))
        assert found == (("db", {"version_id": "2"}), {"user": "ann", "password": "pa$$"}, 0.0)
        assert await kept.read("cloud/vault", Secret("db")) is None
        assert await kept.read("cloud/other", Secret("db", {"version_id": "2"})) is None
        await kept.remove("cloud/vault", [Secret("db", {"version_id": "2"}), Secret("none")])
        assert await names(kept) == set()


async def test_nothing_lies_open_on_disk(tmp_path: Path) -> None:
    async with opened(tmp_path, Machine()) as kept:
        await kept.put("cloud/vault", {"database": {"password": "correct-horse"}}, {"tag": "production"})
    assert not {b"correct-horse", b"password", b"database", b"production"} & words_of(tmp_path)


async def test_age_is_the_time_that_the_machine_is_up(tmp_path: Path) -> None:
    machine = Machine()
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        machine.run(HOUR)
        assert await age_s(kept) == HOUR
        for wall in (0.0, NOW + 50 * 365 * 86400, NOW):  # whatever it says
            machine.wall = wall
            assert await age_s(kept) == HOUR


async def test_age_goes_on_over_boots(tmp_path: Path) -> None:
    machine = Machine()
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        machine.run(HOUR)
        await kept.note({"cloud/vault": 86400})
        machine.run(60)  # lost: nobody noted it
    machine.boot(wall=0.0)
    async with opened(tmp_path, machine) as kept:
        assert await age_s(kept) == HOUR
        machine.run(HOUR)
        assert await age_s(kept) == 2 * HOUR
    async with opened(tmp_path, machine) as kept:  # another process in the same boot
        assert await age_s(kept) == 2 * HOUR


async def test_time_switched_off_counts_by_a_clock_that_is_right(tmp_path: Path) -> None:
    machine = Machine()
    machine.right = True
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
    machine.boot(wall=NOW + 30 * 86400)
    async with opened(tmp_path, machine) as kept:
        assert await age_s(kept) == 30 * 86400
        machine.right = False
        assert await age_s(kept) == 0
        machine.right, machine.wall = True, NOW - 86400  # it cannot be younger either
        assert await age_s(kept) == 0


async def test_a_clock_that_was_not_right_then_does_not_count(tmp_path: Path) -> None:
    machine = Machine()
    machine.wall = 1000.0  # 1970
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        machine.wall, machine.right = NOW, True
        assert await age_s(kept) == 0


async def test_what_is_too_old_is_forgotten_with_a_note(tmp_path: Path) -> None:
    machine = Machine()
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        await kept.put("cloud/long", {"a": {"a": "1"}}, {})
        machine.run(HOUR)
        await kept.put("cloud/vault", {"b": {"b": "1"}}, {})
        await kept.note({"cloud/vault": HOUR / 2})
        assert await names(kept) == {"b"}
        assert await names(kept, "cloud/long") == {"a"}


async def test_an_empty_file_is_not_written(tmp_path: Path) -> None:
    machine = Machine()
    async with open_databases() as databases:
        database = await databases.get(str(tmp_path / "node.db"))
        kept = await open_sealed_secrets(database, SecretBox(bytes(32)), machine.clocks)
        before = database.commits
        await kept.note({"cloud/vault": 60})
        assert database.commits == before


async def test_damage_stays_in_its_record(tmp_path: Path) -> None:
    machine = Machine()
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        machine.run(1)
        await kept.put("cloud/vault", {"b": {"b": "2"}, "c": {"c": "3"}}, {})
        change(tmp_path, "UPDATE sealed_secret SET record = x'00' || record WHERE at = (SELECT min(at) FROM"
               " sealed_secret)")  # fmt: skip
        with pytest.raises(Damaged):
            await kept.read("cloud/vault", Secret("a"))
        found, damaged = await kept.read_all("cloud/vault")
        assert ({one.secret.name for one in found}, damaged) == ({"b", "c"}, 1)
        change(tmp_path, "UPDATE sealed_secret SET record = 7")
        assert await kept.read_all("cloud/vault") == ([], 3)


async def test_a_record_in_another_s_place_is_damage(tmp_path: Path) -> None:
    """Who may write the file cannot pass one store's secret for another's."""
    async with opened(tmp_path, Machine()) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        await kept.put("cloud/vault", {"b": {"b": "2"}}, {})
        await kept.put("cloud/other", {"a": {"a": "3"}}, {})
        change(tmp_path, "UPDATE sealed_secret SET record = (SELECT record FROM sealed_secret WHERE"
               " route = 'cloud/other')")  # fmt: skip
        with pytest.raises(Damaged, match="another's place"):
            await kept.read("cloud/vault", Secret("a"))


async def test_another_key_opens_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, Machine()) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
    async with opened(tmp_path, Machine(), b"k" * 32) as kept:
        assert await kept.read("cloud/vault", Secret("a")) is None  # not even found
        assert await kept.read_all("cloud/vault") == ([], 1)


async def test_the_oldest_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_secrets, "RECORDS_MAX", 3)
    monkeypatch.setattr(sealed_secrets, "BYTES_MAX", 900)
    monkeypatch.setattr(sealed_secrets, "RECORD_BYTES_MAX", 900)
    machine = Machine()
    async with opened(tmp_path, machine) as kept:
        for name in "abcd":
            await kept.put("cloud/vault", {name: {name: "1"}}, {})
            machine.run(1)
        assert await names(kept) == {"b", "c", "d"}
        assert await kept.put("cloud/vault", {"e": {"e": "x" * 750}}, {}) == 0
        assert await names(kept) == {"d", "e"}
        assert await kept.put("cloud/vault", {"f": {"f": "x" * 1000}}, {}) == 1
        assert await names(kept) == {"d", "e"}


async def test_a_disk_that_takes_nothing_gives_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    async with opened(tmp_path, machine) as kept:
        await kept.put("cloud/vault", {"a": {"a": "1"}}, {})
        machine.run(HOUR)
        await kept.note({"cloud/vault": 86400})
    machine.boot(wall=0.0)
    async with open_databases() as databases:
        database = await databases.get(str(tmp_path / "node.db"), read_only=True)
        kept = await open_sealed_secrets(database, SecretBox(bytes(32)), machine.clocks)
        assert await age_s(kept) == HOUR
    assert "the clock of kept secrets could not be noted" in caplog.text
