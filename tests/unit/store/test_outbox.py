"""The outbox's file: its ledger, its counts, damage in it, and who the node is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_runtime.model.errors import DriverError, Overloaded, StoreUnavailable
from edge_runtime.store import outbox
from edge_runtime.store.connection import location
from edge_runtime.store.database import Database, open_database, open_databases
from edge_runtime.store.identity import open_identity
from edge_runtime.store.outbox import OutboxStore, Removal, entry_size, open_outbox_store
from edge_runtime.store.outbox_ledger import LINES_MAX, write_drop
from edge_runtime.store.outbox_tables import Content, Head, head_of, open_entry, seal_entry
from edge_runtime.store.records import DamagedRecord


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(location(str(tmp_path / "node.db"))) as database:
        yield database


@pytest.fixture
async def store(database: Database) -> OutboxStore:
    return await open_outbox_store(database)


def head(place: int, size: int = 10) -> Head:
    return Head(place, size, 0, 0, f"k{place}", 0, 0, None)


async def test_old_lines_are_added_up(store: OutboxStore) -> None:
    route = await store.open_route("cloud")
    for number in range(LINES_MAX + 150):
        reason = "age" if number % 2 else "full"
        await store.database.write(
            lambda conn, number=number, reason=reason: write_drop(conn, route.id, reason, [head(number)], float(number))
        )
    lines = store.ledger("cloud", limit=5000)
    assert len(lines) <= LINES_MAX
    assert sum(line.entries for line in lines) == sum(line.lines for line in lines) == LINES_MAX + 150
    assert route.dropped() == {"age": (575, 5750), "full": (575, 5750)}
    oldest, newest = lines[0], lines[-1]
    assert (oldest.first, oldest.from_wall, oldest.first_key) == (0, 0.0, "")
    assert (newest.first, newest.lines, newest.last_key) == (LINES_MAX + 149, 1, f"k{LINES_MAX + 149}")
    assert store.ledger(limit=1) == [newest]


async def test_places_are_never_given_twice(store: OutboxStore) -> None:
    route = await store.open_route("cloud")
    first = [await route.append("k", b"x", None, 10) for _ in range(3)]
    await route.remove(Removal(sent=first), 0)
    assert route.standing()[:2] == (0, 0)
    assert await route.append("k", b"x", None, 10) == first[-1] + 1
    assert route.tail() == first[-1] + 1
    assert route.standing()[:2] == (1, 10)


async def test_removing_twice_counts_once(store: OutboxStore) -> None:
    route = await store.open_route("cloud")
    sequences = [await route.append("k", b"x", None, 10) for _ in range(3)]
    for _ in range(2):
        await route.remove(Removal(sent=sequences[:2]), 0)
    assert route.standing()[:2] == (1, 10)


async def test_reading_passes_over_damage(store: OutboxStore, monkeypatch: pytest.MonkeyPatch) -> None:
    route = await store.open_route("cloud")
    sequences = [await route.append("k", b"x", None, 10) for _ in range(4)]
    bad = "UPDATE outbox_entry SET key = CAST(x'ff' AS TEXT) WHERE id = ?"
    await store.database.write(lambda conn: conn.execute(bad, (sequences[1],)).fetchall())
    assert [found.id for found in route.read(sequences[0], sequences[3] + 1, 2)] == [sequences[0], sequences[2]]
    monkeypatch.setattr(outbox, "AROUND_MAX", 1)
    with pytest.raises(DriverError, match="Could not decode"):
        route.read(sequences[0], sequences[3] + 1, 10)
    worse = "UPDATE outbox_entry SET record = CAST(x'ff' AS TEXT) WHERE id = ?"
    await store.database.write(lambda conn: conn.execute(worse, (sequences[2],)).fetchall())
    with pytest.raises(DamagedRecord):
        route.records(sequences)


def test_a_damaged_key_is_still_shown() -> None:
    assert head_of((1, 2, 3, 4, b"\xff", 5, 6, None)).key == "�"


def test_columns_of_another_type_are_numbers_again() -> None:
    """Damage in the head of a row can make any column any type; a huge number as a key must not be an allocation."""
    row = head_of((1, "2", b"3", 4.5, 2**62, None, "6", "7"))
    assert row == Head(1, 0, 0, 0, str(2**62), 0, 0, None)
    with pytest.raises(DamagedRecord):
        open_entry(row, seal_entry(0, str(2**62), 3, 5, 6, 2, Content(b"payload", 0.0)))


@pytest.mark.parametrize(
    ("payload", "size_bytes", "expected"), [(b"12345", None, 70), (b"12345", 100, 165), ({"a": "12", "b": 7}, None, 70)]
)
def test_sizes_count_what_lies_beside(payload: bytes, size_bytes: int | None, expected: int) -> None:
    assert entry_size("k", payload, size_bytes) == expected


async def test_routes_have_a_limit(store: OutboxStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "ROUTES_MAX", 1)
    (await store.open_route("one")).close()
    with pytest.raises(Overloaded, match="makes no more"):
        await store.open_route("two")
    (await store.open_route("one")).close()
    assert store.names() == ["one"]
    assert store.look("two") is None


async def test_an_identity_stays(database: Database) -> None:
    first = await open_identity(database, 1000, clock_ms=lambda: 50, boot=lambda: "boot 1")
    assert first.base_ms == 950
    again = await open_identity(database, 5000, clock_ms=lambda: 70, boot=lambda: "boot 1")
    assert again == first, "the clock goes on within one boot"
    rebooted = await open_identity(database, 5000, clock_ms=lambda: 5, boot=lambda: "boot 2")
    assert rebooted == first._replace(base_ms=4995)


async def test_a_lost_note_begins_an_epoch(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    first = await open_identity(database, 0)
    os.unlink(database.path + "-run")
    second = await open_identity(database, 0)
    assert second.node == first.node
    assert second.epoch != first.epoch
    assert "a new epoch begins" in caplog.text


async def test_a_note_that_cannot_be_made_is_told(database: Database) -> None:
    os.mkdir(database.path + "-run")
    with pytest.raises(StoreUnavailable, match="needs its folder writable"):
        await open_identity(database, 0)


async def test_memory_has_an_identity_too() -> None:
    async with open_database(location(":memory:")) as database:
        store = await open_outbox_store(database)
        route = await store.open_route("cloud")
        assert await route.append("k", b"x", None, 10) == route.base + 1
        assert len(store.identity.node) == 32


async def test_a_backup_laid_over_the_files_begins_an_epoch(tmp_path: Path) -> None:
    """Both files are restored together, into the inodes that they had."""
    files = {name: tmp_path / name for name in ("node.db", "node.db-run")}
    async with open_databases() as databases:
        first = await open_identity(await databases.get(str(files["node.db"])), 0)
    backup = {name: path.read_bytes() for name, path in files.items()}
    async with open_databases() as databases:
        assert await open_identity(await databases.get(str(files["node.db"])), 0) == first
    for name, content in backup.items():
        files[name].write_bytes(content)
    async with open_databases() as databases:
        restored = await open_identity(await databases.get(str(files["node.db"])), 0)
    assert restored.node == first.node
    assert restored.epoch != first.epoch


async def test_a_place_is_read_once(store: OutboxStore, caplog: pytest.LogCaptureFixture) -> None:
    """Damage can give a row the number of its neighbour."""
    route = await store.open_route("cloud")
    heads = [head(route.base + place) for place in (1, 2, 2, 1, 3)]
    assert [one.id - route.base for one in route._ascending(heads)] == [1, 2, 3]
    assert "node.db is damaged" in caplog.text


async def test_a_route_whose_row_is_gone_takes_nothing(store: OutboxStore, database: Database) -> None:
    """An index may have it still. An entry that goes nowhere must not be acknowledged."""
    route = await store.open_route("cloud")
    await route.append("k", b"x", None, 10)
    await database.write(lambda conn: conn.execute("DELETE FROM outbox_route").rowcount)
    with pytest.raises(StoreUnavailable, match=r"node.db: .*the file is damaged.*restore a copy"):
        route.standing()
    with pytest.raises(StoreUnavailable, match=r"node.db: .*the file is damaged.*restore a copy"):
        await route.append("k", b"x", None, 10)
