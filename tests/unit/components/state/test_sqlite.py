"""state.sqlite: its settings, its file beside Dapr's driver, and its cleaning."""

from __future__ import annotations

import base64
import logging
import pathlib
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.sqlite import SqliteState, _clean_for_ever, open_sqlite_state
from edge_runtime.model.errors import ConfigError, DriverError, EtagMismatch, Overloaded, StoreUnavailable
from edge_runtime.model.ports import Compare, Item, Query, SetRequest
from edge_runtime.store.database import Databases, open_databases

# What Dapr's driver leaves in a file that it has made.
DAPR_FILE = """
    CREATE TABLE metadata (key text NOT NULL PRIMARY KEY, value text NOT NULL);
    CREATE TABLE state (
        key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, is_binary BOOLEAN NOT NULL, etag TEXT NOT NULL,
        expiration_time TIMESTAMP DEFAULT NULL, update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
    INSERT INTO metadata VALUES ('migrations', '1');
    INSERT INTO state (key, value, is_binary, etag) VALUES ('app||json', '{"a":1}', 0, 'e1');
    INSERT INTO state (key, value, is_binary, etag) VALUES ('app||bytes', 'eyJhIjoyfQ==', 1, 'e2');
    INSERT INTO state VALUES ('app||gone', '1', 0, 'e3', DATETIME(CURRENT_TIMESTAMP, '-1 seconds'), CURRENT_TIMESTAMP);
    INSERT INTO state VALUES
        ('app||later', '1', 0, 'e4', DATETIME(CURRENT_TIMESTAMP, '+60 seconds'), CURRENT_TIMESTAMP);
"""


def context(databases: Databases, folder: pathlib.Path, **metadata: str) -> ComponentContext:
    given = {"connectionString": "state.db", **metadata}
    return ComponentContext("store", "state.sqlite", "v1", given, "app", "", databases, str(folder), str(folder))


@asynccontextmanager
async def opened(folder: pathlib.Path, now: Any = time.time, **metadata: str) -> AsyncIterator[SqliteState]:
    async with open_databases() as databases, open_sqlite_state(context(databases, folder, **metadata), now) as store:
        yield store


def query(folder: pathlib.Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(folder / "state.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"connectionString": ""}, "'connectionString' is required"),
        ({"timeout": "999ms"}, "'timeout' is '999ms'; expected at least 1s"),
        ({"timeoutInSeconds": "0"}, "'timeout' is '0'; expected at least 1s"),
        ({"busyTimeout": "long"}, "'busyTimeout' is 'long'; expected a duration"),
        ({"tableName": "drop table"}, "'tableName' is 'drop table'; expected letters, digits and _ only"),
        ({"metadataTableName": "a-b"}, "'metadataTableName' is 'a-b'; expected letters"),
        ({"cleanupInterval": "x"}, "'cleanupInterval' is 'x'; expected a duration"),
        ({"connectionString": "a.db?_pragma=journal_mode(OFF)"}, "found forbidden option '_pragma=journal_mode'"),
    ],
)
async def test_bad_settings_are_told(tmp_path: pathlib.Path, metadata: dict[str, str], message: str) -> None:
    async with open_databases() as databases:
        with pytest.raises(ConfigError) as caught:
            async with open_sqlite_state(context(databases, tmp_path, **metadata)):
                pass
    assert message in str(caught.value)


async def test_every_field_is_taken(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    metadata = {
        "timeoutInSeconds": "30",
        "busyTimeout": "500ms",
        "disableWAL": "on",
        "tableName": "mine",
        "metadataTableName": "about",
        "cleanupIntervalInSeconds": "60",
        "actorStateStore": "true",
        "tabelName": "mine",
    }
    with caplog.at_level(logging.WARNING):
        async with opened(tmp_path, **metadata) as store:
            await store.set(SetRequest("key", b"1"))
    assert query(tmp_path, "PRAGMA journal_mode") == [("delete",)]
    assert query(tmp_path, "SELECT value FROM mine") == [("1",)]
    assert query(tmp_path, "SELECT * FROM about") == [("migrations", "1")]
    assert [record.message for record in caplog.records] == [
        "component 'store': metadata 'tabelName' is not known and ignored (did you mean \"tableName\"?)"
    ]


# --- beside Dapr's driver ---------------------------------------------------------------------------------------------


async def test_file_of_dapr_is_read_and_written(tmp_path: pathlib.Path) -> None:
    made = sqlite3.connect(tmp_path / "state.db")
    made.executescript(DAPR_FILE)
    schema = made.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    made.close()
    async with opened(tmp_path) as store:
        assert await store.get("app||json") == Item(b'{"a":1}', "e1")
        assert await store.get("app||bytes") == Item(b'{"a":2}', "e2")
        assert await store.get("app||gone") is None
        later = await store.get("app||later")
        assert later is not None
        assert later.expires_at is not None
        assert abs(later.expires_at - time.time() - 60) < 5
        hits = await store.query(Query(Compare("EQ", "a", 2)))
        assert [key for key, _ in hits.results] == ["app||bytes"]
        await store.set(SetRequest("app||json", b'{"a":3}', etag="e1"))
        with pytest.raises(EtagMismatch):
            await store.set(SetRequest("app||gone", b"1", etag="e3"))
    assert query(tmp_path, "SELECT name, sql FROM sqlite_master ORDER BY name") == schema
    assert query(tmp_path, "SELECT key, value FROM metadata") == [("migrations", "1")]


async def test_rows_are_as_dapr_writes_them(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as store:
        await store.set(SetRequest("json", '{"ü":"Ü"}'.encode()))
        await store.set(SetRequest("bytes", b"\xff\x00", ttl_s=100))
    columns = "key, value, typeof(value), is_binary, length(etag)"
    assert query(tmp_path, f"SELECT {columns} FROM state ORDER BY key DESC") == [
        ("json", '{"ü":"Ü"}', "text", 0, 36),
        ("bytes", base64.b64encode(b"\xff\x00").decode(), "text", 1, 36),
    ]
    text = "update_time GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9]'"
    assert query(tmp_path, f"SELECT count(*) FROM state WHERE {text}") == [(2,)]
    assert query(tmp_path, "SELECT key FROM state WHERE expiration_time IS NULL") == [("json",)]
    left = query(tmp_path, "SELECT unixepoch(expiration_time) - unixepoch(update_time) FROM state WHERE key = 'bytes'")
    assert left[0][0] in (100, 101)
    assert (
        query(tmp_path, "SELECT abs(unixepoch(update_time) - unixepoch(CURRENT_TIMESTAMP)) < 5 FROM state")
        == [(1,)] * 2
    )


async def test_damaged_base64_is_told(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as store:
        await store.set(SetRequest("bytes", b"\xff"))
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("UPDATE state SET value = '!'")
        other.close()
        with pytest.raises(DriverError, match="no base64"):
            await store.get("bytes")
        assert (await store.query(Query())).results == []


async def test_two_tables_share_one_mark(tmp_path: pathlib.Path) -> None:
    async with open_databases() as databases:
        async with open_sqlite_state(context(databases, tmp_path)) as one:
            async with open_sqlite_state(context(databases, tmp_path, tableName="two")) as two:
                await one.set(SetRequest("k", b"1"))
                assert await two.get("k") is None
                await two.set(SetRequest("k", b"2"))
                assert (await one.get("k") or Item(b"", "")).value == b"1"


async def test_components_share_a_file(tmp_path: pathlib.Path) -> None:
    async with open_databases() as databases:
        async with open_sqlite_state(context(databases, tmp_path)) as one:
            async with open_sqlite_state(context(databases, tmp_path, tableName="two", metadataTableName="m2")) as two:
                await one.set(SetRequest("key", b"1"))
                await two.set(SetRequest("key", b"2"))
                assert [hit[1].value for hit in (await two.query(Query())).results] == [b"2"]
            found = await one.get("key")
            assert found is not None
            assert found.value == b"1"


async def test_read_only_file_serves_reads(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as store:
        await store.set(SetRequest("key", b"1"))
    async with opened(tmp_path, connectionString="file:state.db?mode=ro") as store:
        found = await store.get("key")
        assert found is not None
        assert len((await store.query(Query())).results) == 1
        with pytest.raises(StoreUnavailable, match="read only"):
            await store.set(SetRequest("key", b"2"))


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_endless_result_is_refused(tmp_path: pathlib.Path) -> None:
    async with opened(tmp_path) as store:
        await store.bulk_set([SetRequest(f"k{number:05}", b"1") for number in range(10_001)])
        with pytest.raises(DriverError, match=r"more than 10000 results; ask for pages with page\.limit"):
            await store.query(Query())
        page = await store.query(Query(limit=20_000))
        assert len(page.results) == 10_000
        assert len((await store.query(Query(limit=20_000, token=page.token))).results) == 1


# --- cleaning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year_2040", [2_208_988_800.0, 2**32 + 5.0])
async def test_times_to_live_go_by_a_wall_clock_that_jumps(tmp_path: pathlib.Path, year_2040: float) -> None:
    wall = [100.0]  # a board without a battery
    today = 1_790_000_000.0
    async with opened(tmp_path, lambda: wall[0]) as store:

        async def there() -> set[str]:
            return {key for key in ("early", "today", "late", "always") if await store.get(key) is not None}

        await store.set(SetRequest("early", b"1", ttl_s=3600))
        await store.set(SetRequest("always", b"1"))
        assert await there() == {"early", "always"}
        wall[0] = today
        await store.set(SetRequest("today", b"1", ttl_s=3600))
        assert await there() == {"today", "always"}
        wall[0] = year_2040
        await store.set(SetRequest("late", b"1", ttl_s=3600))
        assert await there() == {"late", "always"}
        wall[0] = year_2040 + 3599
        assert await there() == {"late", "always"}
        wall[0] = today + 60  # nothing was lost by the wrong year
        assert await there() >= {"today", "always"}
        wall[0] = today + 3600
        assert "today" not in await there()


async def test_expired_rows_are_removed(tmp_path: pathlib.Path, autojump_clock: trio.testing.MockClock) -> None:
    start = 1_700_000_000.0

    def now() -> float:
        return start + trio.current_time() - begin

    begin = trio.current_time()
    async with opened(tmp_path, now, cleanupInterval="10m") as store:
        await store.bulk_set([SetRequest(f"gone{number}", b"1", ttl_s=5) for number in range(1200)])
        await store.set(SetRequest("kept", b"1"))
        await trio.sleep(601)
        for _ in range(1000):  # the clock may be quicker than the writer's thread
            await trio.sleep(1)
            if query(tmp_path, "SELECT count(*) FROM state") == [(1,)]:
                break
        assert query(tmp_path, "SELECT value LIKE '20__-__-__ __:__:__' FROM metadata WHERE key = 'last-cleanup'") == [
            (1,)
        ]
        stamp = query(tmp_path, "SELECT value FROM metadata WHERE key = 'last-cleanup'")
        await trio.sleep(3600)
        assert query(tmp_path, "SELECT value FROM metadata WHERE key = 'last-cleanup'") == stamp


async def test_a_full_queue_ends_no_cleaning(autojump_clock: trio.testing.MockClock) -> None:
    class Table:
        asked = 0

        async def clean(self, interval_s: float) -> int:
            self.asked += 1
            raise Overloaded("the write queue is full")

    table = Table()
    with trio.move_on_after(35):
        await _clean_for_ever("store", table, 10)  # type: ignore[arg-type]
    assert table.asked == 3


async def test_nothing_is_removed_unasked(tmp_path: pathlib.Path, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(tmp_path, lambda: 1_700_000_000.0 + trio.current_time()) as store:
        await store.set(SetRequest("gone", b"1", ttl_s=5))
        await trio.sleep(80_000)
        assert await store.get("gone") is None
    assert query(tmp_path, "SELECT count(*) FROM state") == [(1,)]
