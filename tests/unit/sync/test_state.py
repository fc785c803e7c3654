"""A state route at work: batches, refusals, polls and what it is told; a real journal, a remote that can fail."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.model.errors import (
    BadMetadata,
    DriverError,
    EtagInvalid,
    EtagMismatch,
    StoreUnavailable,
    Unreachable,
)
from edge_runtime.model.hlc import Clock, Stamp
from edge_runtime.model.ports import Backoff, DeleteRequest, SetRequest
from edge_runtime.model.sync import Keys
from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from edge_runtime.store.journal import Journal, open_journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.merge import Conflict, Version, digest
from edge_runtime.sync.state import Stamps, StateSync, SyncLimits
from edge_runtime.sync.state_plan import StateRoute

KEYS = Keys("app||k/")
WALL_MS = 1_700_000_000_000
LIMITS = SyncLimits(
    batch_keys_max=4, batch_bytes_max=100, keys_max=8, retry=Backoff(1, 4, 0), unreachable=Backoff(1, 8, 0)
)


class FakeRemote:
    """A remote store; `fail` may raise before anything is done."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[bytes, str]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.fail: Callable[[str, Any], None] = lambda what, key: None
        self._etags = 0

    def put(self, key: str, value: bytes) -> None:
        self._etags += 1
        self.items[key] = value, f"e{self._etags}"

    async def _call(self, what: str, key: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append((what, key))
        self.fail(what, key)

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, tuple[bytes, str] | None]:
        await self._call("get", list(keys))
        return {key: self.items[key] for key in keys if key in self.items}

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        await self._call("save", key)
        found = self.items.get(key)
        if (etag is not None and (found is None or found[1] != etag)) or (etag is None and first_write and found):
            raise EtagMismatch(key)
        self.put(key, value)

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        await self._call("delete", key)
        if self.items.get(key, (b"", ""))[1] != etag:
            raise EtagMismatch(key)
        del self.items[key]


class World:
    """The table of an app, its journal, and one route to a remote."""

    def __init__(self, table: StateTable, journal: Journal, stamps: Stamps, nursery: trio.Nursery) -> None:
        self.table, self.journal, self.stamps, self.nursery = table, journal, stamps, nursery
        self.remote = FakeRemote()
        self.sync: Any = None

    async def start(self, conflict: Any = "remote-wins", direction: Any = "both", ask: Any = None, **more: Any) -> None:
        route = StateRoute("r", KEYS, "cloud", "c/", direction, conflict, **{"poll_s": 30.0, **more})
        self.sync = StateSync(route, self.journal, self.remote, self.stamps, ask=ask, limits=LIMITS, chance=lambda: 0.5)
        await self.nursery.start(self.sync.run)
        await trio.sleep(0.1)

    async def set(self, name: str, value: bytes = b"1") -> None:
        await self.table.set(SetRequest(KEYS.prefix + name, value))
        await trio.sleep(0.1)

    async def get(self, name: str) -> bytes | None:
        item = await self.table.get(KEYS.prefix + name)
        return None if item is None else item.value

    def values(self) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self.remote.items.items()}


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    def wall_ms() -> int:
        return WALL_MS + round(trio.current_time() * 1000)

    async with open_database(location(":memory:")) as database:
        table = StateTable(database, now=lambda: wall_ms() / 1000)
        await table.prepare(cleaned=False)
        stamps = Stamps(Clock("here"), wall_ms)
        journal = await open_journal(database, table, stamps, lambda: wall_ms() / 1000)
        journal.add_route("r", KEYS)
        yield World(table, journal, stamps, nursery)
        nursery.cancel_scope.cancel()


async def test_changes_go_up_at_once(world: World, autojump_clock: MockClock) -> None:
    await world.set("early")
    await world.start()
    await world.set("a", b"1")
    await world.set("a", b"2")
    await world.table.set(SetRequest("app||other", b"1"))
    assert world.values() == {"c/early": b"1", "c/a": b"2"}
    await world.table.delete(DeleteRequest(KEYS.prefix + "a"))
    await trio.sleep(0.1)
    assert world.values() == {"c/early": b"1"}
    assert (world.sync.counts.saved, world.sync.counts.deleted) == (3, 1)


async def test_own_writes_do_not_echo(world: World, autojump_clock: MockClock) -> None:
    await world.start()
    await world.set("a")
    await trio.sleep(200)
    writes = [call for call in world.remote.calls if call[0] != "get"]
    assert writes == [("save", "c/a")]
    assert (world.sync.counts.applied, world.sync.counts.conflicts) == (0, 0)


async def test_offline_changes_are_one_request(world: World, autojump_clock: MockClock) -> None:
    await world.start()
    world.sync.down()
    for number in range(20):
        await world.set("a", b"%d" % number)
    await trio.sleep(1000)
    assert world.remote.calls == []
    world.sync.up()
    await trio.sleep(0.1)
    assert world.values() == {"c/a": b"19"}
    assert [call[0] for call in world.remote.calls].count("save") == 1


async def test_mirror_of_nothing_rests(world: World, autojump_clock: MockClock) -> None:
    await world.start(direction="down", poll_s=0)
    await world.set("a")
    await trio.sleep(1000)
    assert world.remote.calls == []


async def test_pauses_end_with_nothing_else_due(world: World, autojump_clock: MockClock) -> None:
    await world.start(poll_s=0)
    world.sync.down()
    await world.set("a")
    world.sync.up()

    def away(what: str, key: Any) -> None:
        raise Unreachable("no route")

    world.remote.fail = away
    await trio.sleep(3)
    world.remote.fail = lambda what, key: None
    await trio.sleep(9)
    assert world.values() == {"c/a": b"1"}


async def test_unreachable_remote_is_left_alone(world: World, autojump_clock: MockClock) -> None:
    def away(what: str, key: Any) -> None:
        raise Unreachable("no route")

    world.remote.fail = away
    await world.start(poll_s=0)
    for name in "abc":
        await world.set(name)
    await trio.sleep(30)
    assert 0 < len(world.remote.calls) <= 8, "a pause that grows, for the whole route"
    world.remote.fail = lambda what, key: None
    await trio.sleep(10)
    assert set(world.values()) == {"c/a", "c/b", "c/c"}


async def test_refused_key_stops_no_other(
    world: World, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(what: str, key: Any) -> None:
        if what == "save" and key == "c/bad":
            raise BadMetadata("the key is not allowed")

    world.remote.fail = refuse
    await world.start()
    for name in ("bad", "a", "b"):
        await world.set(name)
    assert set(world.values()) == {"c/a", "c/b"}
    assert [(one.key, one.reason) for one in await world.journal.refused()] == [
        ("app||k/bad", "the key is not allowed")
    ]
    assert world.remote.calls.count(("save", "c/bad")) == 1
    world.remote.fail = lambda what, key: None
    await world.journal.retry_refused()
    await trio.sleep(0.1)
    assert "c/bad" in world.values()
    assert "the key is not allowed" in caplog.text


async def test_failing_key_is_tried_again(world: World, autojump_clock: MockClock) -> None:
    def fail(what: str, key: Any) -> None:
        if what == "save" and key == "c/bad" and trio.current_time() < 20:
            raise DriverError("500")

    world.remote.fail = fail
    await world.start()
    await world.set("bad")
    await world.set("a")
    assert set(world.values()) == {"c/a"}
    await trio.sleep(40)
    assert set(world.values()) == {"c/a", "c/bad"}


async def test_bad_key_hides_no_other_in_a_look(world: World, autojump_clock: MockClock) -> None:
    def refuse(what: str, keys: Any) -> None:
        if what == "get" and "c/bad" in keys:
            raise BadMetadata("no such key can be")

    await world.start(poll_s=0)
    for name in ("bad", "a"):
        await world.set(name)
    world.remote.fail = refuse
    world.sync.down()
    await world.set("bad", b"2")
    await world.set("a", b"2")
    world.sync.up()
    await trio.sleep(0.1)
    assert world.values() == {"c/bad": b"1", "c/a": b"2"}
    assert [one.key for one in await world.journal.refused()] == ["app||k/bad"]


async def test_failing_look_is_tried_again(world: World, autojump_clock: MockClock) -> None:
    def fail(what: str, keys: Any) -> None:
        if trio.current_time() < 50:
            raise DriverError("500")

    await world.start()
    await world.set("a")
    world.remote.put("c/a", b"theirs")
    world.remote.fail = fail
    await trio.sleep(100)
    assert await world.get("a") == b"theirs"


async def test_remote_changes_come_down(world: World, autojump_clock: MockClock) -> None:
    await world.start()
    await world.set("a")
    world.remote.put("c/a", b"theirs")
    await trio.sleep(31)
    assert await world.get("a") == b"theirs"
    del world.remote.items["c/a"]
    await trio.sleep(31)
    assert await world.get("a") is None
    assert world.remote.calls.count(("save", "c/a")) == 1


async def test_told_keys_are_looked_at(world: World, autojump_clock: MockClock) -> None:
    await world.start(direction="down", poll_s=1000.0)
    for number in range(30):
        world.remote.put(f"c/{number}", b"1")
    world.sync.told(["elsewhere", "c/1"])
    await trio.sleep(1)
    assert await world.get("1") == b"1"
    world.remote.put("c/1", b"2")
    world.sync.told([f"c/{number}" for number in range(2, 30)])  # more than it takes: then it looks at all it knows
    await trio.sleep(1)
    assert await world.get("1") == b"2"


async def test_exact_key_is_always_looked_at(world: World, autojump_clock: MockClock) -> None:
    world.journal.remove_route("r")
    exact = Keys("app||one", exact=True)
    world.journal.add_route("r", exact)
    world.remote.put("one", b"1")
    route = StateRoute("r", exact, "cloud", "one", "down")
    await world.nursery.start(StateSync(route, world.journal, world.remote, world.stamps).run)
    await trio.sleep(1)
    item = await world.table.get("app||one")
    assert item is not None
    assert item.value == b"1"


async def test_batches_have_a_size(world: World, autojump_clock: MockClock) -> None:
    await world.start()
    world.sync.down()
    for number in range(10):
        await world.set(str(number), b'"%s"' % (b"x" * 60))
    world.sync.up()
    await trio.sleep(1)
    assert len(world.values()) == 10


async def test_conflicts_reach_the_inbox(world: World, autojump_clock: MockClock) -> None:
    await world.start("merge")
    await world.set("a", b'{"x":1,"y":1}')
    world.sync.down()
    await world.set("a", b'{"x":2,"y":1,"z":2}')
    world.remote.put("c/a", b'{"x":3,"y":3}')
    world.sync.up()
    await trio.sleep(1)
    value = await world.get("a")
    assert value is not None
    assert json.loads(value) == json.loads(world.values()["c/a"]) == {"x": 3, "y": 3, "z": 2}
    (entry,) = await world.journal.inbox.entries()
    assert (list(entry.dispute.paths), entry.dispute.base) == (["/x"], b'{"x":1,"y":1}')
    await world.journal.inbox.restore(entry.id, "local")
    await trio.sleep(1)
    assert world.values()["c/a"] == b'{"x":2,"y":1,"z":2}'


async def test_app_is_asked_until_it_answers(world: World, autojump_clock: MockClock) -> None:
    asked: list[Conflict] = []

    async def ask(conflict: Conflict) -> Version:
        asked.append(conflict)
        if len(asked) < 3:
            raise DriverError("the app is not there")
        return Version(b"both")

    await world.set("a", b"mine")
    world.remote.put("c/a", b"theirs")
    await world.start("app", ask=ask)
    await trio.sleep(20)
    assert len(asked) == 3
    assert (await world.get("a"), world.values()["c/a"]) == (b"both", b"both")


async def test_nobody_to_ask_keeps_both_versions(world: World, autojump_clock: MockClock) -> None:
    await world.set("a", b"mine")
    world.remote.put("c/a", b"theirs")
    await world.start("app")
    await trio.sleep(20)
    assert (await world.get("a"), world.values()["c/a"]) == (b"mine", b"theirs")


@pytest.mark.parametrize(("ahead_ms", "value"), [(-1000, b"mine"), (1000, b"theirs"), (10**9, b"theirs")])
async def test_later_writer_wins(world: World, autojump_clock: MockClock, ahead_ms: int, value: bytes) -> None:
    await world.set("a", b"mine")
    world.remote.put("c/a", b"theirs")
    note = {"of": digest(b"theirs").hex(), "at": str(Stamp(WALL_MS + ahead_ms, 0, "there"))}
    world.remote.put("c/a~hlc", json.dumps(note).encode())
    await world.start("last-writer")
    assert (await world.get("a"), world.values()["c/a"]) == (value, value)


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b'{"of":"other","at":"0"}'])
async def test_version_without_a_stamp_is_the_later(world: World, autojump_clock: MockClock, note: bytes) -> None:
    await world.set("a", b"mine")
    world.remote.put("c/a", b"theirs")
    world.remote.put("c/a~hlc", note)
    await world.start("last-writer")
    assert await world.get("a") == b"theirs"


async def test_stamps_are_left_at_the_remote(world: World, autojump_clock: MockClock) -> None:
    def fail(what: str, key: Any) -> None:
        if what == "save" and key == "c/b~hlc":
            raise DriverError("500")

    world.remote.fail = fail
    await world.start("last-writer")
    await world.set("a", b"1")
    await world.set("b", b"1")
    assert json.loads(world.values()["c/a~hlc"])["of"] == digest(b"1").hex()
    assert set(world.values()) == {"c/a", "c/a~hlc", "c/b"}
    await world.table.delete(DeleteRequest(KEYS.prefix + "a"))
    await trio.sleep(0.1)
    assert json.loads(world.values()["c/a~hlc"])["of"] == digest(None).hex()


async def test_store_that_fails_is_waited_for(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = world.journal.scan

    async def fail(*args: Any) -> str | None:
        if trio.current_time() < 10:
            raise StoreUnavailable("the disk is full")
        return await scan(*args)

    monkeypatch.setattr(world.journal, "scan", fail)
    await world.start()
    await world.set("a")
    assert world.values() == {}
    await trio.sleep(20)
    assert world.values() == {"c/a": b"1"}


async def test_writes_of_other_processes_go_up(world: World, autojump_clock: MockClock) -> None:
    await world.start()
    tap = world.table.tap
    tap.journal = None
    await world.set("a")
    tap.journal = world.journal
    assert world.values() == {}
    await trio.sleep(LIMITS.scan_s + 1)
    assert world.values() == {"c/a": b"1"}


async def test_quiet_routes_write_nothing(
    world: World, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await world.start()
    await world.set("a")
    await trio.sleep(100)
    commits = world.table._database.commits
    await trio.sleep(1000)
    assert world.table._database.commits == commits
    assert caplog.text == ""


async def conflicts(world: World, *names: str) -> None:
    """Both sides have written these keys, and neither knows of the other."""
    world.sync.down()
    for name in names:
        await world.table.set(SetRequest(KEYS.prefix + name, b'"here"'))
        world.remote.put(f"c/{name}", b'"there"')
    world.sync.up()
    await trio.sleep(0.1)


async def test_a_silent_app_holds_up_no_other_key(world: World, autojump_clock: MockClock) -> None:
    asked: list[str] = []
    answer = trio.Event()

    async def ask(conflict: Conflict) -> Version:
        asked.append(conflict.key)
        await answer.wait()
        return Version(b'"both"')

    await world.start("app", ask=ask)
    names = [f"k{number:02}" for number in range(12)]
    await conflicts(world, *names)
    await world.set("free")
    assert world.values()["c/free"] == b"1"
    assert len(asked) == 8, "so many questions are open at a time"
    answer.set()
    await trio.sleep(60)
    assert {world.values()[f"c/{name}"] for name in names} == {b'"both"'}
    assert sorted(asked) == [KEYS.prefix + name for name in names]


async def test_an_answer_to_old_versions_is_not_used(world: World, autojump_clock: MockClock) -> None:
    questions: list[Conflict] = []
    answers: list[trio.Event] = [trio.Event(), trio.Event()]

    async def ask(conflict: Conflict) -> Version:
        questions.append(conflict)
        number = len(questions)
        await answers[number - 1].wait()
        return Version(b'"answer %d"' % number)

    await world.start("app", ask=ask)
    await conflicts(world, "a")
    await world.set("a", b'"newer"')
    answers[0].set()
    await trio.sleep(1)
    assert [one.local.value for one in questions] == [b'"here"', b'"newer"']
    answers[1].set()
    await trio.sleep(1)
    assert world.values()["c/a"] == await world.get("a") == b'"answer 2"'


async def test_a_key_that_cannot_be_read_hides_no_other(world: World, autojump_clock: MockClock) -> None:
    await world.start(poll_s=5.0)
    for name in "ab":
        await world.set(name)
    found = world.remote.bulk_get

    async def partly(store: str, keys: Sequence[str]) -> Mapping[str, Any]:
        return {
            key: DriverError("sealed") if key == "c/a" else item for key, item in (await found(store, keys)).items()
        }

    world.remote.bulk_get = partly  # type: ignore[method-assign]
    world.remote.put("c/a", b"2")
    world.remote.put("c/b", b"2")
    await trio.sleep(10)
    assert (await world.get("a"), await world.get("b")) == (b"1", b"2")
    assert "sealed" in world.sync.last_error


async def test_now_looks_at_what_waits(world: World, autojump_clock: MockClock) -> None:
    def fail(what: str, key: Any) -> None:
        if what == "save":
            raise DriverError("500")

    world.remote.fail = fail
    await world.start(poll_s=0)
    await world.set("a")
    assert world.sync.last_error == "key 'app||k/a': 500"
    world.remote.fail = lambda what, key: None
    world.sync.now()
    await trio.sleep(0.1)
    assert world.values() == {"c/a": b"1"}
    assert (world.sync.last_error, world.sync.reachable) == ("", True)


async def test_a_dry_run_says_and_does_nothing(world: World, autojump_clock: MockClock) -> None:
    await world.start(poll_s=0)
    await world.set("gone")
    world.sync.down()
    await world.set("new")
    await world.set("clash")
    await world.table.delete(DeleteRequest(KEYS.prefix + "gone"))
    world.remote.put("c/clash", b"7")
    before = list(world.remote.calls)
    offline = {one.key[-4:]: one.action for one in await world.sync.dry_run()}
    assert offline == {"lash": "save", "gone": "look", "/new": "save"}
    assert world.remote.calls == before
    world.sync._reachable_at = 0.0  # the link is up, and the loop has not heard of it
    online = {one.key[-4:]: (one.action, one.outcome) for one in await world.sync.dry_run()}
    assert online == {
        "lash": ("conflict", "the remote's version was taken"),
        "gone": ("remove", ""),
        "/new": ("save", ""),
    }
    assert await world.get("clash") == b"1"
    assert len(await world.sync.dry_run(limit=1)) == 1


async def test_what_is_followed_outlives_the_process(world: World, autojump_clock: MockClock) -> None:
    await world.start(direction="down")
    world.sync.down()
    world.remote.put("c/new", b"1")
    await world.sync.follow(["c/new", "c/nothing", "c/new~hlc", "elsewhere"])
    assert await world.journal.synced("r", KEYS, "", 10) == ["app||k/new", "app||k/nothing"]
    second = StateSync(world.sync.route, world.journal, world.remote, world.stamps, limits=LIMITS)
    await world.nursery.start(second.run)
    await trio.sleep(1)
    assert await world.get("new") == b"1"
    assert await world.journal.synced("r", KEYS, "", 10) == ["app||k/new"], "what is not there needs no following"


async def test_a_slow_poll_reaches_its_end(world: World, autojump_clock: MockClock) -> None:
    await world.start(poll_s=1.0)
    for number in range(20):
        await world.set(f"k{number:02}")
    found = world.remote.bulk_get

    async def slowly(store: str, keys: Sequence[str]) -> Mapping[str, Any]:
        await trio.sleep(0.5)
        return await found(store, keys)

    world.remote.bulk_get = slowly  # type: ignore[method-assign]
    world.remote.put("c/k19", b"2")
    await trio.sleep(20)
    assert await world.get("k19") == b"2"


async def test_a_remote_that_refuses_its_own_etags_is_left_in_peace(world: World, autojump_clock: MockClock) -> None:
    """A value that it has and does not show, say: without pauses the route would ask as fast as the line lets it."""

    def refuse(what: str, key: Any) -> None:
        if what == "save" and key == "c/odd":
            raise EtagMismatch("there is one already")

    world.remote.fail = refuse
    await world.start()
    await world.set("odd")
    await world.set("a")
    await trio.sleep(20)
    assert set(world.values()) == {"c/a"}
    assert 4 < world.remote.calls.count(("save", "c/odd")) < 50
    assert "refuses the etag" in world.sync.last_error
    world.remote.fail = lambda what, key: None
    await trio.sleep(10)
    assert set(world.values()) == {"c/a", "c/odd"}
    assert world.sync.last_error == ""


async def test_an_etag_that_is_none_is_looked_at_anew(world: World, autojump_clock: MockClock) -> None:
    """The remote's store is another one now, with etags of another kind, that has the values of the former."""
    await world.start(poll_s=0)
    await world.set("a", b"1")
    world.remote.put("c/a", b"1")
    world.sync.told(["c/a"])
    await trio.sleep(0.1)
    etag = world.remote.items["c/a"][1]

    def save(what: str, key: Any) -> None:
        if what == "save" and etag != "" and world.remote.items["c/a"][1] == etag:
            world.remote.items["c/a"] = b"1", "x7"
            raise EtagInvalid("invalid etag value")

    world.remote.fail = save
    await world.set("a", b"2")
    await trio.sleep(1)
    assert await world.journal.refused() == []
    assert await world.get("a") == b"1"
    (entry,) = await world.journal.inbox.entries()
    assert (entry.dispute.local, entry.dispute.losers) == (b"2", ["local"])


async def test_a_look_that_fails_is_tried_with_fewer_keys(world: World, autojump_clock: MockClock) -> None:
    """A slow line may have no time for the values of so many."""

    def slow(what: str, key: Any) -> None:
        if what == "get" and len(key) > 1:
            raise DriverError("no answer within 15 s")

    for name in ("c/a", "c/b", "c/c", "c/d"):
        world.remote.put(name, b"1")
    await world.start(poll_s=0)
    world.remote.fail = slow
    world.sync.told(["c/a", "c/b", "c/c", "c/d"])
    await trio.sleep(30)
    assert [await world.get(name) for name in "abcd"] == [b"1"] * 4


@pytest.mark.parametrize("value", [b"\xff\x00", b"hello", b""])
async def test_bytes_that_are_no_json_cross_both_ways(world: World, autojump_clock: MockClock, value: bytes) -> None:
    await world.start()
    await world.set("up", value)
    world.remote.put("c/down", value)
    world.sync.told(["c/down"])
    await trio.sleep(0.1)
    assert world.values()["c/up"] == value
    assert await world.get("down") == value
    await trio.sleep(200)
    assert [call for call in world.remote.calls if call[0] != "get"] == [("save", "c/up")]
    assert world.sync.counts.conflicts == 0


async def test_another_spelling_comes_down(world: World, autojump_clock: MockClock) -> None:
    """Who stores texts means them: 1.0 is another version than 1."""
    await world.start()
    await world.set("a", b"1.0")
    await trio.sleep(40)
    world.remote.put("c/a", b"1")
    await trio.sleep(40)
    assert await world.get("a") == b"1"
    assert world.sync.counts.conflicts == 0


@pytest.mark.parametrize(
    ("policy", "value", "loser"),
    [
        ("remote-wins", b"\xfftheirs", "local"),
        ("local-wins", b"\xffours", "remote"),
        ("last-writer", b"\xfftheirs", "local"),
        ("merge", b"\xfftheirs", "local"),
        ("keep-both", b"\xfftheirs", "local"),
        ("app", b"\xffapp", "local"),
    ],
)
async def test_policies_take_bytes_whole(
    world: World, autojump_clock: MockClock, policy: str, value: bytes, loser: str
) -> None:
    async def ask(conflict: Conflict) -> Version:
        assert (conflict.base, conflict.local.value, conflict.remote.value) == (b"\xff", b"\xffours", b"\xfftheirs")
        return Version(b"\xffapp")

    await world.start(policy, ask=ask)
    await world.set("a", b"\xff")
    await trio.sleep(40)
    world.sync.down()
    await world.set("a", b"\xffours")
    world.remote.put("c/a", b"\xfftheirs")
    world.sync.up()
    await trio.sleep(40)
    assert (await world.get("a"), world.values()["c/a"]) == (value, value)
    (entry,) = await world.journal.inbox.entries()
    assert (entry.dispute.local, entry.dispute.remote) == (b"\xffours", b"\xfftheirs")
    assert loser in entry.dispute.losers
    siblings = [one for key, one in world.values().items() if key.startswith("c/a~") and not key.endswith("~hlc")]
    assert siblings == ([b"\xffours"] if policy == "keep-both" else [])


async def test_a_store_without_etags_is_not_followed(world: World, autojump_clock: MockClock) -> None:
    """Each version would look like the one before: what changes there would never be seen."""
    await world.start()
    world.remote.items["c/a"] = b"1", ""
    world.sync.told(["c/a"])
    await trio.sleep(20)
    assert await world.get("a") is None
    assert "store cloud tells no etags" in world.sync.last_error
