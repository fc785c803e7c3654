"""The outbox from end to end: what is taken in, kept, sent in order, given up and dropped, and what is said of it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import BadMetadata, DriverError, Overloaded, StoreUnavailable, Unreachable
from edge_runtime.model.hlc import parse
from edge_runtime.model.ports import Backoff, RouteSettings
from edge_runtime.observability.metrics import render
from edge_runtime.store.log_wakes import GroupLock
from edge_runtime.store.outbox import RouteStore
from edge_runtime.store.outbox_tables import ENTRY_OVERHEAD
from edge_runtime.sync import forward
from edge_runtime.sync.forward import OutboxLimits
from tests.brokers import until
from tests.outboxes import LIMITS, OtherEnd, open_world

SOON = Backoff(first_s=0.001, most_s=0.002)
# Of one entry with a key of one byte and a payload of ten.
SIZE = ENTRY_OVERHEAD + 11


async def fill(route: Any, count: int, key: str = "k") -> None:
    for number in range(count):
        await route.append(key, b"%010d" % number)


async def _after_a_while(disk: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    disk.set()


def numbers(payloads: Sequence[bytes]) -> list[int]:
    return [int(payload) for payload in payloads]


async def test_what_waits_is_sent_in_order(tmp_path: Path) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        assert not route.backlog
        ids = [await route.append("k", b"%d" % number) for number in range(100)]
        assert route.backlog
        assert end.tried == []
        route.up()
        await end.wait_for(100)
        assert numbers(end.payloads) == list(range(100))
        assert [entry.id for entry in end.entries] == ids
        assert len(set(ids)) == 100
        await until(lambda: not route.backlog)
        assert world.outbox.entries("cloud") == []


async def test_entries_outlive_the_process(tmp_path: Path) -> None:
    end = OtherEnd()
    payload = {"topic": "t", "data": b"\0\xff", "retain": True}
    async with open_world(tmp_path) as world, world.route(end) as route:
        entry_id = await route.append("k", payload)
    async with open_world(tmp_path) as world, world.route(end) as route:
        assert route.backlog
        route.up()
        await end.wait_for(1)
        second = await route.append("k", b"later")
        await end.wait_for(2)
    entry, later = end.entries
    assert (entry.id, entry.route, entry.key, entry.payload, entry.attempts) == (entry_id, "cloud", "k", payload, 0)
    assert second == later.id
    assert (second.node, second.epoch) == (entry_id.node, entry_id.epoch)
    assert second.sequence > entry_id.sequence
    assert later.enqueued_hlc > entry.enqueued_hlc
    assert parse(entry.enqueued_hlc).node == entry_id.node
    assert later.enqueued_at >= entry.enqueued_at


async def test_an_entry_s_age_is_not_that_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken in 1970, sent a moment later, after the clock was set."""
    end, wall = OtherEnd(), [100.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    async with open_world(tmp_path) as world, world.route(end) as route:
        await route.append("k", b"early")
        wall[0] = 1_790_000_000.0
        route.up()
        await end.wait_for(1)
    assert 0 <= wall[0] - end.entries[0].enqueued_at < 60


async def test_what_comes_at_the_end_is_known_to_the_next(tmp_path: Path) -> None:
    """The disk is slow while one driver leaves a route and another opens it."""
    end, gate = OtherEnd(), threading.Event()
    async with open_world(tmp_path) as world, trio.open_nursery() as nursery:
        async with world.route(OtherEnd()) as route:
            nursery.start_soon(world.outbox._shared.store.database.write, lambda _: gate.wait(5))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(route.append, "k", b"late")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(_open_gate_later, gate)
        with pytest.raises(StoreUnavailable, match="has been closed"):
            await route.append("k", b"too late")
        async with world.route(end) as route:
            route.up()
            await end.wait_for(1)
            await until(lambda: not route.backlog)
    assert end.payloads == [b"late"]


async def _open_gate_later(gate: threading.Event) -> None:
    await trio.sleep(0.05)
    gate.set()


async def test_a_lost_link_stops_the_route(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 3: [Unreachable("the cable is out")]}
    async with open_world(tmp_path) as world, world.route(end, in_flight_max=1) as route:
        await fill(route, 6)
        route.up()
        await until(lambda: not route.state.up)
        assert route.state.reason == "the cable is out"
        assert numbers(end.payloads) == [0, 1, 2]
        route.up()
        await end.wait_for(6)
        assert numbers(end.payloads) == list(range(6))
        assert end.entries[3].attempts == 0


async def test_a_poisoned_key_lets_others_pass(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [DriverError("not now")] * 3}
    async with open_world(tmp_path) as world, world.route(end, retry=SOON) as route:
        await fill(route, 200, "poisoned")
        await fill(route, 200, "well")
        route.up()
        await end.wait_for(400)
        for key in ("poisoned", "well"):
            assert numbers([entry.payload for entry in end.entries if entry.key == key]) == list(range(200))
        assert sum(entry.attempts for entry in end.entries) == 3


async def test_rejected_entries_are_dead_letters(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 1: [BadMetadata("no such topic")]}
    async with open_world(tmp_path) as world, world.route(end) as route:
        await fill(route, 3)
        route.up()
        await end.wait_for(2)
        (letter,) = await until(lambda: world.outbox.dead_letters("cloud"))
        assert (letter.reason, letter.content.payload, letter.head.key) == ("no such topic", b"%010d" % 1, "k")
        assert not route.backlog
        assert route.state.dead_entries == 1
        assert await world.outbox.retry("cloud", [letter.head.id]) == 1
        await end.wait_for(3)
        assert end.entries[2].id.sequence == letter.head.id
        assert world.outbox.dead_letters("cloud") == []
        assert world.outbox.ledger() == []


async def test_attempts_have_an_end(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [DriverError("broken")] * 5}
    async with open_world(tmp_path) as world, world.route(end, retry=SOON, attempts_max=2) as route:
        await fill(route, 2)
        route.up()
        await end.wait_for(1)
        (letter,) = await until(lambda: world.outbox.dead_letters("cloud"))
        assert (letter.reason, letter.head.attempts) == ("broken", 2)


async def test_attempts_outlive_an_orderly_end(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [DriverError("broken")] * 2}
    slow = Backoff(first_s=600.0)
    async with open_world(tmp_path) as world, world.route(end, retry=slow) as route:
        await fill(route, 1)
        route.up()
        await end.wait_tried(1)
        await until(lambda: route.state.in_flight == 0)
    async with open_world(tmp_path) as world, world.route(end, retry=slow, attempts_max=2) as route:
        route.up()
        assert await until(lambda: world.outbox.dead_letters("cloud"))


async def test_a_drivers_mistake_is_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [ZeroDivisionError("oops")]}
    async with open_world(tmp_path) as world, world.route(end, retry=SOON) as route:
        await fill(route, 1)
        route.up()
        await end.wait_for(1)
        assert end.entries[0].attempts == 1
    assert "sending failed" in caplog.text


async def test_a_full_route_refuses(tmp_path: Path) -> None:
    end = OtherEnd()
    async with (
        open_world(tmp_path) as world,
        world.route(end, bytes_max=3 * SIZE, limit_name="outboxBytesMax") as route,
    ):
        await fill(route, 3)
        with pytest.raises(Overloaded, match=r"route cloud is full: .* the limit is outboxBytesMax \(225\)"):
            await route.append("k", b"0123456789")
        assert route.state.entries == 3
        route.up()
        await end.wait_for(3)
        await route.append("k", b"0123456789")
        await end.wait_for(4)
        assert 'dapr_edge_outbox_refused_total{route="cloud"} 1' in render([world.metrics])


async def test_the_oldest_make_room(tmp_path: Path) -> None:
    end = OtherEnd()
    async with (
        open_world(tmp_path) as world,
        world.route(end, bytes_max=3 * SIZE, when_full="drop-oldest") as route,
    ):
        await fill(route, 5)
        assert route.state.entries == 3
        assert route.state.bytes == 3 * SIZE
        lines = world.outbox.ledger("cloud")
        assert [(line.reason, line.entries, line.bytes, line.first_key) for line in lines] == [
            ("full", 1, SIZE, "k")
        ] * 2
        assert world.outbox.dropped("cloud") == {"full": (2, 2 * SIZE)}
        route.up()
        await end.wait_for(3)
        assert numbers(end.payloads) == [2, 3, 4]
        assert 'dapr_edge_outbox_dropped_total{reason="full",route="cloud"} 2' in render([world.metrics])


FIVE_GIB = 5 * 2**30
PIECE = 2**25  # no write may be larger
PIECES = FIVE_GIB // PIECE


async def append_large(route: Any, number: int, size: int = PIECE) -> None:
    """An entry that counts with so many bytes, of which few are written."""
    await route.append("k", b"%d" % number, size_bytes=size - ENTRY_OVERHEAD - 1)


@pytest.mark.slow
async def test_five_gibibytes_are_held_to_the_byte(tmp_path: Path) -> None:
    """Beyond what 32 bits count, after a restart too."""
    end = OtherEnd()
    limit = {"bytes_max": FIVE_GIB, "limit_name": "limits.size"}
    async with open_world(tmp_path) as world, world.route(end, **limit) as route:
        for number in range(PIECES - 1):
            await append_large(route, number)
        await append_large(route, PIECES - 1, PIECE - 64)
        assert route.state.bytes == FIVE_GIB - 64
    async with open_world(tmp_path) as world, world.route(end, **limit) as route:
        assert route.state.bytes == FIVE_GIB - 64
        refused = rf"{FIVE_GIB - 64} bytes in {PIECES} entries wait .*; the limit is limits.size \({FIVE_GIB}\)"
        with pytest.raises(Overloaded, match=refused):
            await route.append("k", b"")  # one byte more than there is room for
        await route.append("", b"")
        assert (route.state.entries, route.state.bytes) == (PIECES + 1, FIVE_GIB)
        route.up()
        await end.wait_for(PIECES + 1)
        await until(lambda: not route.backlog)
        assert route.state.bytes == 0
    assert numbers([payload for payload in end.payloads if payload]) == list(range(PIECES))


@pytest.mark.slow
async def test_five_gibibytes_are_dropped_and_counted(tmp_path: Path) -> None:
    end = OtherEnd()
    limit: dict[str, Any] = {"bytes_max": PIECE, "when_full": "drop-oldest"}
    async with open_world(tmp_path) as world, world.route(end, **limit) as route:
        for number in range(PIECES + 1):
            await append_large(route, number)
        assert (route.state.entries, route.state.bytes) == (1, PIECE)
    async with open_world(tmp_path) as world, world.route(end, **limit) as route:
        assert (route.state.entries, route.state.bytes) == (1, PIECE)
        assert world.outbox.dropped("cloud") == {"full": (PIECES, FIVE_GIB)}
        route.up()
        await end.wait_for(1)
    assert numbers(end.payloads) == [PIECES]


async def test_the_unimportant_make_room(tmp_path: Path) -> None:
    end = OtherEnd()
    async with (
        open_world(tmp_path) as world,
        world.route(end, bytes_max=4 * SIZE, when_full="drop-lowest-priority") as route,
    ):
        for number, priority in enumerate((9, None, 1, 4)):
            await route.append("k", b"%010d" % number, priority=priority)
        await route.append("k", b"%010d" % 4)  # in place of 2
        await route.append("k", b"%010d" % 5, priority=9)  # in place of 1
        with pytest.raises(Overloaded, match="drop-lowest-priority finds too little"):
            await route.append("k", b"%010d" % 6, priority=3)
        route.up()
        await end.wait_for(4)
        assert numbers(end.payloads) == [0, 3, 4, 5]


@pytest.mark.parametrize(
    ("key", "payload", "priority", "text"),
    [
        ("k", b"x" * 500, None, "the whole route takes 300; the limit is bytes_max"),
        ("k" * 1025, b"x", None, "more than 1024 bytes"),
        ("k", b"x", 10, "expected 0 to 9"),
    ],
)
async def test_impossible_entries_are_refused(
    tmp_path: Path, key: str, payload: bytes, priority: int | None, text: str
) -> None:
    async with open_world(tmp_path) as world, world.route(OtherEnd(), bytes_max=300) as route:
        with pytest.raises(BadMetadata, match=text):
            await route.append(key, payload, priority=priority)
        assert not route.backlog


async def test_old_entries_are_dropped(tmp_path: Path) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end, age_max_s=3600) as route:
        await fill(route, 40)
        world.clock.ahead_ms = 3_000_000
        await fill(route, 1, "young")
        world.clock.ahead_ms = 3_600_001
        await route.append("young", b"%010d" % 1)
        route.down("still")  # wakes the route, as its own timer would
        await until(lambda: world.outbox.dropped("cloud") == {"age": (40, 40 * (SIZE))})
        assert route.state.entries == 2
        assert route.state.oldest_age_s < 3600
        route.up()
        await end.wait_for(2)
        assert numbers(end.payloads) == [0, 1]


async def test_damage_stays_in_its_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        ids = [(await route.append("k", b"%d" % number)).sequence for number in range(5)]
        await world.sql("UPDATE outbox_entry SET record = substr(record, 1, 12) || x'00' WHERE id = ?", ids[1])
        await world.sql("UPDATE outbox_entry SET key = x'ff00' WHERE id = ?", ids[2])
        await world.sql("UPDATE outbox_entry SET record = CAST(x'ff00' AS TEXT) WHERE id = ?", ids[3])
        route.up()
        await end.wait_for(2)
        assert numbers(end.payloads) == [0, 4]
        await until(lambda: world.outbox.dropped("cloud").get("damaged", (0, 0))[0] == 3)
        assert not route.backlog
    assert "is damaged and dropped" in caplog.text


async def test_a_damaged_count_is_made_anew(tmp_path: Path) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world:
        async with world.route(end) as route:
            await fill(route, 5)
        await world.sql("UPDATE outbox_route SET out_entries = 1000, last_bytes = -7")
    async with open_world(tmp_path) as world, world.route(end) as route:
        assert (route.state.entries, route.state.bytes) == (5, 5 * SIZE)
        await fill(route, 1, "new")
        route.up()
        await end.wait_for(6)
    async with open_world(tmp_path) as world, world.route(end) as route:
        assert (route.state.entries, route.state.bytes) == (0, 0)


async def test_a_closed_end_breaks_off(tmp_path: Path) -> None:
    old, new = OtherEnd(), OtherEnd()
    old.gate = trio.Event()
    async with open_world(tmp_path) as world:
        async with world.route(new) as newer:
            async with world.route(old) as older:
                older.up()
                await fill(older, 3)
                await old.wait_tried(1)
                newer.up()
            await new.wait_for(3)
            assert old.entries == []
            assert numbers(new.payloads) == [0, 1, 2]


async def test_what_is_being_sent_is_sent_again(tmp_path: Path) -> None:
    end = OtherEnd()
    end.gate = trio.Event()
    async with open_world(tmp_path) as world, world.route(end) as route:
        route.up()
        entry_id = await route.append("k", b"0")
        await end.wait_tried(1)
    end.gate = None
    async with open_world(tmp_path) as world, world.route(end) as route:
        route.up()
        await end.wait_for(1)
        assert [entry.id for entry in end.entries] == [entry_id]


async def test_another_process_has_the_route(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        async with world.route(OtherEnd()):
            pass
        lock = GroupLock(world.path + "-outbox", "route", "cloud", "")
        assert lock.try_acquire()
        with pytest.raises(DriverError, match=r"in use by another process .* --state-dir"):
            async with world.route(OtherEnd()):
                pass
        lock.close()
        async with world.route(OtherEnd()):
            pass


async def test_a_cancelled_append_counts_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.route(OtherEnd(), bytes_max=SIZE, when_full="drop-oldest") as route:
        await fill(route, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await route.append("k", b"0123456789")
        await until(lambda: route.state.entries == len(world.outbox.entries("cloud")) == 1)
        route.up()
        await until(lambda: not route.backlog)


async def test_dropping_by_hand_is_noted(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [BadMetadata("no")]}
    async with open_world(tmp_path) as world, world.route(end, in_flight_max=1) as route:
        await fill(route, 1, "dead")
        route.up()
        await until(lambda: world.outbox.dead_letters("cloud"))
        route.down("for now")
        await fill(route, 10)
        heads = world.outbox.entries("cloud", limit=3)
        assert await world.outbox.drop("cloud", [heads[1].id]) == 1
        assert [head.id for head in world.outbox.entries("cloud", limit=2)] == [heads[0].id, heads[2].id]
        assert await world.outbox.drop("cloud") == 10
        assert world.outbox.dropped("cloud")["discarded"][0] == 11
        assert not route.backlog
        assert route.state.dead_entries == 0


async def test_dead_letters_have_a_limit(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % number: [BadMetadata("no")] for number in range(5)}
    async with open_world(tmp_path) as world, world.route(end, dead_bytes_max=2 * SIZE) as route:
        await fill(route, 5)
        route.up()
        await until(lambda: world.outbox.dropped("cloud").get("dead letters full", (0, 0))[0] == 3)
        assert [int(letter.content.payload) for letter in world.outbox.dead_letters("cloud")] == [3, 4]
        await until(lambda: route.state.dead_entries == 2)


async def test_important_routes_go_first(tmp_path: Path) -> None:
    order: list[str] = []

    class Noting(OtherEnd):
        async def __call__(self, entry: Any) -> None:
            order.append(entry.route)
            await trio.lowlevel.checkpoint()
            await super().__call__(entry)

    low, high = Noting(), Noting()
    limits = LIMITS._replace(slots=1)
    async with (
        open_world(tmp_path, limits) as world,
        world.route(low, "low", priority=1) as lower,
        world.route(high, "high", priority=9) as higher,
    ):
        await fill(lower, 40)
        await fill(higher, 40)
        lower.up()
        higher.up()
        await low.wait_for(40)
        assert len(high.entries) == 40
        assert order[:45].count("high") >= 35
        assert "low" in order[:20], "but the other is not stopped"


async def test_space_is_given_back(tmp_path: Path) -> None:
    end = OtherEnd()
    limits = OutboxLimits(flush_after_s=0.0, rest_s=0.001)
    async with open_world(tmp_path, limits) as world, world.route(end) as route:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(route.append, f"{number}", b"x" * 100_000)
        route.up()
        database = await world.databases.get(world.path)
        await until(lambda: database.read("PRAGMA page_count")[0][0] < 300)


async def test_a_restored_file_begins_an_epoch(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    end = OtherEnd()
    async with open_world(one) as world, world.route(end) as route:
        first = await route.append("k", b"0")
    shutil.copytree(one, two)
    async with open_world(one) as world, world.route(end) as route:
        assert (await route.append("k", b"1")).epoch == first.epoch
    os.replace(two / "node.db", one / "node.db")  # an older state than the note beside it knows
    async with open_world(one) as world, world.route(end) as route:
        again = await route.append("k", b"2")
        assert again.node == first.node
        assert again.epoch != first.epoch
        route.up()
        await end.wait_for(2)
        assert end.entries[0].id == first, "an entry keeps the epoch that it was given"


async def test_routes_are_told_by_metrics(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.route(OtherEnd()) as route:
        await fill(route, 3)
        page = render([world.metrics])
        assert 'dapr_edge_outbox_entries{route="cloud"} 3' in page
        assert f'dapr_edge_outbox_bytes{{route="cloud"}} {3 * SIZE}' in page
        assert 'dapr_edge_outbox_link_up{route="cloud"} 0' in page
        assert [state.name for state in world.outbox.states()] == ["cloud"]


async def test_a_full_disk_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent is removed as soon as there is room, and not sent again."""
    end = OtherEnd()
    tries = 0

    async with open_world(tmp_path) as world, world.route(end) as route:
        store = route._route.store
        remove = store.remove

        async def fail_at_first(*args: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries <= 5:
                raise StoreUnavailable("the disk is full")
            return await remove(*args)

        monkeypatch.setattr(store, "remove", fail_at_first)
        await fill(route, 3)
        route.up()
        await until(lambda: store.standing().entries == 0)
    assert tries >= 6
    assert numbers(end.payloads) == [0, 1, 2]
    assert caplog.text.count("the disk is full") == 1


async def test_a_closed_route_has_no_gauges(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        async with world.route(OtherEnd()) as route:
            route.up()
            assert 'dapr_edge_outbox_link_up{route="cloud"} 1' in render([world.metrics])
        assert "dapr_edge_outbox_link_up" not in render([world.metrics])


@pytest.mark.parametrize("name", ["", "x" * 300])
async def test_routes_need_a_name(tmp_path: Path, name: str) -> None:
    async with open_world(tmp_path) as world:
        with pytest.raises(DriverError, match="expected 1 to 256 bytes"):
            async with world.outbox.open_route(RouteSettings(name), OtherEnd()):
                pass


async def test_a_crowd_of_keys_is_sent(tmp_path: Path) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        async with trio.open_nursery() as nursery:
            for number in range(3000):
                nursery.start_soon(route.append, f"key-{number % 700}", b"%d" % number)
        route.up()
        await end.wait_for(3000)
        by_key: dict[str, list[int]] = {}
        for entry in end.entries:
            by_key.setdefault(entry.key, []).append(entry.id.sequence)
        assert all(found == sorted(set(found)) for found in by_key.values())


async def test_late_news_of_an_old_link_counts_nothing(tmp_path: Path) -> None:
    end = OtherEnd()
    end.gate = trio.Event()
    end.failures = {b"%010d" % 0: [Unreachable("the old link is gone")]}
    async with open_world(tmp_path) as world, world.route(end) as route:
        await fill(route, 1)
        route.up()
        await end.wait_tried(1)
        route.down("lost")
        route.up()
        end.gate.set()
        await end.wait_for(1)
        assert route.state.up


async def test_a_closed_route_can_be_tidied(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [BadMetadata("no")]}
    async with open_world(tmp_path) as world:
        async with world.route(end) as route:
            await fill(route, 1)
            route.up()
            await until(lambda: world.outbox.dead_letters("cloud"))
        assert await world.outbox.retry("cloud") == 1
        assert len(world.outbox.entries("cloud")) == 1
        assert await world.outbox.drop("cloud") == 1
        assert world.outbox.states() == []
        with pytest.raises(DriverError, match="no route 'other'; there is cloud"):
            await world.outbox.drop("other")


async def test_tidying_leaves_an_open_route_s_limits(tmp_path: Path) -> None:
    """Somebody who found it closed may come to it when it has just been opened."""
    async with open_world(tmp_path) as world, world.route(OtherEnd()):
        async with world.route(OtherEnd(), "other", bytes_max=1000, when_full="drop-oldest") as route:
            opened = world.outbox._routes["other"]
            async with world.outbox.open_route(RouteSettings("other", age_max_s=1e9), forward._nobody):
                pass
            assert opened.settings == RouteSettings("other", bytes_max=1000, when_full="drop-oldest")
            await fill(route, 1)


async def test_a_route_that_closes_slowly_can_be_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may need longer than anybody waits for it, while the files are read again."""
    disk, end = trio.Event(), OtherEnd()
    async with open_world(tmp_path, LIMITS._replace(close_timeout_s=0.01)) as world:
        async with world.route(end) as route:
            await fill(route, 1)
            remove = RouteStore.remove

            async def slow(*args: Any) -> Any:
                with trio.CancelScope(shield=True):
                    await disk.wait()
                    return await remove(*args)

            monkeypatch.setattr(RouteStore, "remove", slow)
            route.up()
            await end.wait_for(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_after_a_while, disk)
            async with world.route(end) as route:
                await fill(route, 1)
                route.up()
                await end.wait_for(2)


async def test_an_unforeseen_error_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_runtime.sync.supervise.PAUSES", Backoff(0.01, 0.02))
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        await fill(route, 5)
        opened = world.outbox._routes["cloud"]
        broken_still = [True]
        fill_window = opened._fill

        def broken() -> None:
            if broken_still:
                raise RuntimeError("a mistake")
            fill_window()

        monkeypatch.setattr(opened, "_fill", broken)
        opened.wake()
        await until(lambda: "RuntimeError: a mistake" in route.report()["lastError"])
        await fill(route, 5, "other")
        route.up()
        await until(lambda: caplog.text.count("begun again") > 2)
        assert end.tried == []
        broken_still.clear()
        await end.wait_for(10)
        await until(lambda: not route.backlog)
        assert (route.state.up, route.state.bytes) == (True, 0)
        assert world.outbox.entries("cloud") == []
    assert "outbox route cloud: an internal error: RuntimeError: a mistake" in caplog.text


async def test_a_hurried_route_waits_for_no_pause(tmp_path: Path) -> None:
    end = OtherEnd()
    end.failures = {b"%010d" % 0: [DriverError("busy")]}
    async with open_world(tmp_path) as world, world.route(end, retry=Backoff(1e6, 1e6)) as route:
        await fill(route, 2)
        route.up()
        await until(lambda: route.state.in_flight == 0 and end.tried)
        assert (route.report()["entries"], route.report()["lastError"]) == (2, "busy")
        route.hurry()
        await end.wait_for(2)
        assert numbers(end.payloads) == [0, 1]


async def test_rows_that_are_gone_hold_up_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        await fill(route, 4)
        await world.sql("DELETE FROM outbox_entry WHERE id & 3 = 2")
        route.up()
        await until(lambda: not route.backlog)
        assert len(end.entries) == 3
        assert "damage took 1 entries" in caplog.text
        await fill(route, 1)
        await end.wait_for(4)


@pytest.mark.parametrize("change", [5000, -50])
async def test_sizes_that_damage_changed_change_no_limit(tmp_path: Path, change: int) -> None:
    end = OtherEnd()
    async with open_world(tmp_path) as world, world.route(end) as route:
        await fill(route, 4)
        await world.sql("UPDATE outbox_entry SET size = size + ? WHERE id & 3 = 2", change)
        route.up()
        await until(lambda: not route.backlog and not route.state.bytes)
        assert len(end.entries) == 3
