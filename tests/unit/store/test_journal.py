"""The change journal beside a state table: what it notes, what it costs nothing for, and how a key is settled."""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.sqlite import open_sqlite_state
from edge_runtime.model.errors import ConfigError, DriverError, EtagMismatch
from edge_runtime.model.hlc import Clock
from edge_runtime.model.ports import DeleteRequest, SetRequest
from edge_runtime.model.sync import Base, Dispute, Keys, Settlement
from edge_runtime.store.conflicts import InboxLimits
from edge_runtime.store.connection import location
from edge_runtime.store.database import Database, open_database, open_databases
from edge_runtime.store.journal import SCAN_KEYS, Journal, find_journal, open_journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.state import Stamps

KEYS = Keys("app||orders/")
K = "app||orders/1"
LIMITS = InboxLimits(entries_max=3, bytes_max=2000)


class Setup(NamedTuple):
    database: Database
    table: StateTable
    journal: Journal
    now: list[float]


async def open_setup(database: Database, now: list[float]) -> Setup:
    table = StateTable(database, now=lambda: now[0])
    await table.prepare(cleaned=False)
    stamps = Stamps(Clock("n"), lambda: int(now[0] * 1000))
    journal = await open_journal(database, table, stamps, lambda: now[0], LIMITS)
    journal.add_route("r", KEYS)
    return Setup(database, table, journal, now)


@pytest.fixture
async def opened() -> AsyncIterator[Setup]:
    async with open_database(location(":memory:")) as database:
        yield await open_setup(database, [1_700_000_000.0])


async def look(opened: Setup, key: str = K) -> Any:
    return (await opened.journal.look("r", [key]))[0]


async def pending(opened: Setup) -> list[str]:
    return await opened.journal.pending(KEYS, "", 100)


async def settle(opened: Setup, **fields: Any) -> bool:
    return (await opened.journal.settle("r", [Settlement(await look(opened), **fields)]))[0]


async def test_changes_are_coalesced(opened: Setup) -> None:
    version = opened.journal.version
    for number in range(50):
        await opened.table.set(SetRequest(K, b"%d" % number))
    await opened.table.set(SetRequest("app||other/1", b"1"))
    assert await pending(opened) == [K]
    assert opened.database.read("SELECT count(*) FROM edge_journal_state") == [(1,)]
    assert (await look(opened)).local.value == b"49"
    assert opened.journal.version == version + 50


async def test_every_write_is_noted(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    first = (await look(opened)).change
    etag = (await opened.table.get(K)).etag  # type: ignore[union-attr]
    await opened.table.set(SetRequest(K, b"2", etag))
    await opened.table.each([SetRequest(K + "b", b"1"), DeleteRequest(K + "none"), SetRequest("x", b"1")])
    await opened.table.all_or_none([SetRequest(K + "c", b"1"), DeleteRequest(K + "b"), SetRequest("y", b"1")])
    assert await pending(opened) == [K, K + "b", K + "c"]
    assert (await look(opened)).change.stamp > first.stamp
    assert (await look(opened, K + "b")).change.deleted
    await opened.table.delete(DeleteRequest(K))
    assert (await look(opened)).change.deleted


async def test_refused_writes_leave_no_note(opened: Setup) -> None:
    for write in (opened.table.set(SetRequest(K, b"1", "no")), opened.table.delete(DeleteRequest(K, "no"))):
        with pytest.raises(EtagMismatch):
            await write
    with pytest.raises(EtagMismatch):
        await opened.table.all_or_none([SetRequest(K, b"1"), SetRequest("z", b"1", "no")])
    failures = await opened.table.each([SetRequest(K, b"1", "no")])
    assert isinstance(failures[0], EtagMismatch)
    await opened.table.delete(DeleteRequest(K))  # there is none
    assert await pending(opened) == []


async def test_other_users_of_the_table_are_noted(opened: Setup) -> None:
    other = StateTable(opened.database, now=lambda: opened.now[0])
    await other.set(SetRequest(K, b"1"))
    assert await pending(opened) == [K]
    assert await open_journal(opened.database, other, lambda: "", lambda: 0.0) is opened.journal


async def test_stores_without_routes_have_no_tables(tmp_path: pathlib.Path) -> None:
    async with open_databases() as databases:
        context = ComponentContext(
            "c", "state.sqlite", "v1", {"connectionString": "s.db"}, "app", "", databases, "", str(tmp_path)
        )
        async with open_sqlite_state(context) as store:
            await store.set(SetRequest(K, b"1"))
            assert tables(tmp_path) == {"state", "metadata"}
            journal = await store.open_journal(lambda: "1", lambda: 1.0)
            assert await store.open_journal(lambda: "2") is journal
            assert tables(tmp_path) > {"edge_journal_state", "edge_base_state", "edge_conflict_state"}


def tables(folder: pathlib.Path) -> set[str]:
    connection = sqlite3.connect(folder / "s.db")
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def test_keys_overlap() -> None:
    assert Keys("a").overlap(Keys("ab"))
    assert Keys("ab").overlap(Keys("a"))
    assert Keys("a").overlap(Keys("abc", exact=True))
    assert not Keys("abc").overlap(Keys("ab", exact=True))
    assert not Keys("a", exact=True).overlap(Keys("b", exact=True))


async def test_keys_follow_one_route(opened: Setup) -> None:
    with pytest.raises(ConfigError, match="cover the same keys"):
        opened.journal.add_route("s", Keys(K, exact=True))
    opened.journal.add_route("s", Keys("app||one", exact=True))
    assert opened.journal.covers("app||one")
    assert not opened.journal.covers("app||one more")
    await opened.table.set(SetRequest("app||one", b"1"))
    assert await opened.journal.pending(Keys("app||one", exact=True), "", 9) == ["app||one"]
    opened.journal.remove_route("r")
    assert not opened.journal.covers(K)


async def test_settling_is_guarded(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    seen = await look(opened)
    await opened.table.set(SetRequest(K, b"2"))
    late = Settlement(seen, value=b"3", base=Base("e", True, None, None, (), "s"), done=True)
    assert await opened.journal.settle("r", [late]) == [False]
    assert (await look(opened)).local.value == b"2"
    assert (await look(opened)).base is None


async def test_settled_writes_are_no_changes(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    assert await settle(opened, value=b"3", base=Base("e", True, None, b"3", (b"u" * 17,), "s"), done=True)
    known = await look(opened)
    assert known.local.value == b"3"
    assert known.change is None
    assert known.base == Base("e", True, known.local.etag, b"3", (b"u" * 17,), "s")
    assert await opened.journal.scan("r", KEYS, "") is None
    assert await pending(opened) == []
    assert await opened.journal.synced("r", KEYS, "", 9) == [K]
    assert await opened.journal.synced("other", KEYS, "", 9) == []
    assert await settle(opened, value=None, base=None)
    assert await look(opened) == (K, None, None, None, False)


async def test_changes_during_a_save_stay(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    seen = await look(opened)
    await opened.table.set(SetRequest(K, b"2"))
    saved = Settlement(seen, False, base=Base(None, False, seen.local.etag, None, (), "s"), done=True)
    assert await opened.journal.settle("r", [saved]) == [True]
    assert await pending(opened) == [K]


async def test_writes_of_others_are_found(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    await opened.table.set(SetRequest(K + "gone", b"1"))
    for key in (K, K + "gone"):
        seen = await look(opened, key)
        base = Base("e", True, seen.local.etag, None, (), "s")
        await opened.journal.settle("r", [Settlement(seen, base=base, done=True)])
    tap = opened.database.taps["state"]
    tap.journal = None  # as another process
    await opened.table.set(SetRequest(K, b"2"))
    await opened.table.set(SetRequest(K + "new", b"2"))
    await opened.table.delete(DeleteRequest(K + "gone"))
    tap.journal = opened.journal
    assert await pending(opened) == []
    assert await opened.journal.scan("r", KEYS, "") is None
    assert await pending(opened) == [K, K + "gone", K + "new"]
    assert (await look(opened, K + "gone")).change.deleted


async def test_scans_are_bounded(opened: Setup) -> None:
    tap = opened.database.taps["state"]
    tap.journal = None
    await opened.table.each([SetRequest(f"{K}{number:04}", b"1") for number in range(SCAN_KEYS + 1)])
    tap.journal = opened.journal
    after = await opened.journal.scan("r", KEYS, "")
    assert after == f"{K}{SCAN_KEYS - 1:04}"
    assert await opened.journal.scan("r", KEYS, after) is None


async def test_expiry_is_no_removal(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1", ttl_s=5))
    seen = await look(opened)
    base = Base("e", True, seen.local.etag, None, (), "s")
    opened.now[0] += 10
    assert (await look(opened)).expired
    assert not (await look(opened)).change.deleted
    await opened.journal.settle("r", [Settlement(seen, False, base=base, done=True)])
    assert await opened.journal.scan("r", KEYS, "") is None
    assert await opened.table.clean(1) == 1
    assert await opened.journal.scan("r", KEYS, "") is None
    assert await pending(opened) == []
    assert (await look(opened)).expired


async def test_marks_outlive_a_crash(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    await opened.journal.mark_sent("old", {K: [b"x" * 17]})
    await opened.journal.mark_sent("r", {K: [b"c" * 17, b"u" * 17]})
    base = (await look(opened)).base
    assert (base.sent, base.stamp, base.known) == ((b"c" * 17, b"u" * 17), "", False)


async def test_refused_changes_wait_for_a_write(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    await settle(opened, guarded=False, refused="too large")
    assert await pending(opened) == []
    assert [(one.key, one.reason) for one in await opened.journal.refused()] == [(K, "too large")]
    assert await opened.journal.retry_refused() == 1
    assert await pending(opened) == [K]
    await settle(opened, guarded=False, refused="too large")
    await opened.table.set(SetRequest(K, b"2"))
    assert await pending(opened) == [K]


async def test_removals_are_forgotten_in_time(opened: Setup) -> None:
    await settle(opened, base=Base(None, True, None, None, (b"c" * 17,), "5"))
    assert await opened.journal.synced("r", KEYS, "", 9, gone=True) == [K]
    await opened.journal.forget_removed("r", "5")
    assert (await look(opened)).base is not None
    await opened.journal.forget_removed("r", "6")
    assert (await look(opened)).base is None


async def test_clock_goes_on_from_the_file(opened: Setup) -> None:
    assert await opened.journal.latest_stamp() == ""
    await opened.table.set(SetRequest(K, b"1"))
    assert await opened.journal.latest_stamp() == (await look(opened)).change.stamp


async def test_siblings_are_written_as_by_apps(opened: Setup) -> None:
    await settle(opened, sibling=(K + "~1", b"1"))
    await settle(opened, sibling=("elsewhere", b"2"))
    assert await pending(opened) == [K + "~1"]
    assert (await opened.table.get("elsewhere")).value == b"2"  # type: ignore[union-attr]


# --- the conflict inbox -----------------------------------------------------------------------------------------------


def dispute(number: int = 0, size: int = 1) -> Dispute:
    return Dispute("merge", "merged", None, b"%d" % number * size, None, ["local"], ["/a"], "1", None)


async def test_conflicts_are_kept_with_the_settlement(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    assert await settle(opened, value=b"2", done=True, dispute=dispute(7))
    (entry,) = await opened.journal.inbox.entries()
    assert (entry.key, entry.at, entry.resolved, entry.damaged) == (K, opened.now[0], False, False)
    assert entry.dispute == dispute(7)
    assert await opened.journal.inbox.get(entry.id) == entry
    await opened.journal.inbox.restore(entry.id, "local")
    assert (await look(opened)).local.value == b"7"
    assert await pending(opened) == [K]
    assert (await opened.journal.inbox.standing())[:2] == (1, 0)
    await opened.journal.inbox.restore(entry.id, "remote")
    assert (await look(opened)).local is None


async def test_full_inbox_drops_resolved_first(opened: Setup, caplog: pytest.LogCaptureFixture) -> None:
    inbox = opened.journal.inbox
    for number in range(3):
        await settle(opened, dispute=dispute(number))
    first, second, _ = await inbox.entries()
    assert await inbox.resolve([second.id]) == 1
    await settle(opened, dispute=dispute(3))
    assert [entry.dispute.local for entry in await inbox.entries()] == [b"0", b"2", b"3"]
    assert (await inbox.standing()).dropped == 0
    await settle(opened, dispute=dispute(4))
    assert [entry.dispute.local for entry in await inbox.entries(resolved=False)] == [b"2", b"3", b"4"]
    assert (await inbox.standing()).dropped == 1
    assert "nobody had looked at" in caplog.text
    await settle(opened, dispute=dispute(5, 5000))  # larger than the inbox: it alone is kept
    assert [len(entry.dispute.local or b"") for entry in await inbox.entries()] == [5000]
    assert (await inbox.standing()).dropped == 4
    assert await inbox.get(first.id) is None


async def test_restoring_says_what_is_wrong(opened: Setup) -> None:
    inbox = opened.journal.inbox
    with pytest.raises(DriverError, match="not there any more"):
        await inbox.restore(1, "local")
    await settle(opened, dispute=dispute())
    (entry,) = await inbox.entries()
    with pytest.raises(DriverError, match="no base version"):
        await inbox.restore(entry.id, "base")
    await opened.database.write(lambda conn: conn.execute("UPDATE edge_conflict_state SET record = x'00'"))
    assert (await inbox.entries())[0].damaged
    with pytest.raises(DriverError, match="is damaged"):
        await inbox.restore(entry.id, "local")


async def test_file_goes_on_after_reopening(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s.db")
    async with open_database(location(path)) as database:
        first = await open_setup(database, [1_700_000_000.0])
        await first.table.set(SetRequest(K, b"1"))
        await settle(first, dispute=dispute())
    async with open_database(location(path)) as database:
        second = await open_setup(database, [1_700_000_000.0])
        assert await pending(second) == [K]
        assert len(await second.journal.inbox.entries()) == 1


async def test_what_waits_and_what_is_refused_is_counted(opened: Setup) -> None:
    for number in range(3):
        await opened.table.set(SetRequest(f"app||orders/{number}", b"1"))
    seen = await look(opened)
    assert await opened.journal.settle("r", [Settlement(seen, refused="not allowed")]) == [True]
    assert opened.journal.counts(KEYS) == (2, 1)
    assert opened.journal.counts(Keys("app||orders/1", exact=True)) == (0, 1)
    assert opened.journal.counts(Keys("other||")) == (0, 0)
    assert [one.key for one in await opened.journal.refused(prefix="app||")] == [K]
    assert await opened.journal.refused_count("app||") == 1
    for keys, prefix in (([K], "other||"), (["app||orders/2"], "app||"), (None, "")):
        assert await opened.journal.retry_refused(keys, prefix) == 0
    assert await opened.journal.retry_refused([K], "app||") == 1
    assert opened.journal.counts(KEYS) == (3, 0)


async def test_followed_keys_keep_the_base_that_they_have(opened: Setup) -> None:
    await opened.table.set(SetRequest(K, b"1"))
    await settle(opened, base=Base("e1", True, "l", None, (), "1"), done=True)
    await opened.journal.follow("r", [K, "app||orders/new"])
    assert await opened.journal.synced("r", KEYS, "", 10) == [K, "app||orders/new"]
    assert (await look(opened)).base.remote_etag == "e1"
    assert (await look(opened, "app||orders/new")).base == Base()


async def test_who_only_looks_makes_no_journal(tmp_path: pathlib.Path) -> None:
    async with open_database(location(str(tmp_path / "state.db"))) as database:
        table = StateTable(database)
        await table.prepare(cleaned=False)
        assert find_journal(database, table, lambda: 0.0) is None
        journal = await open_journal(database, table, lambda: "stamp", lambda: 0.0)
        assert find_journal(database, table, lambda: 0.0) is journal
        table.tap.journal = None
        found = find_journal(database, table, lambda: 0.0)
        assert found is not None
        assert await found.inbox.entries() == []
        assert table.tap.journal is None
