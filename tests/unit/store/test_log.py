import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.model.errors import Overloaded
from edge_runtime.store.database import Database, open_databases
from edge_runtime.store.log import Limits, Log, Topic, describe, drops, open_log, peek
from edge_runtime.store.log_limits import DROPS_MAX, TRIM_COUNT

HOUR_MS = 3_600_000
LIMITS = Limits(
    retention_bytes=10_000, retention_ms=HOUR_MS, backlog_bytes=20_000, drop_oldest=False, group_expiry_ms=24 * HOUR_MS
)


class Clock:
    """The machine's time since boot, and which boot it is."""

    def __init__(self) -> None:
        self.ms = 1_000
        self.boot = "first"

    def __call__(self) -> int:
        return self.ms


class Opened:
    def __init__(self, database: Database, log: Log, clock: Clock) -> None:
        self.database = database
        self.log = log
        self.clock = clock

    async def topic(self, name: str = "orders") -> Topic:
        return await self.log.topic("pubsub", name, 100)

    async def join(self, topic: Topic, group: str = "app", *, latest: bool = False, groups_max: int = 64) -> int:
        return await self.log.join(topic, group, latest=latest, groups_max=groups_max, expiry_ms=LIMITS.group_expiry_ms)

    async def fill(self, topic: Topic, count: int, data: bytes = b"x" * 68) -> None:
        """With the record's overhead each counts 100 bytes."""
        await self.log.append_all(topic, [(data, {})] * count)

    async def trim_all(self, topic: Topic, limits: Limits = LIMITS) -> list[Any]:
        found = []
        while True:
            standing, lost = await self.log.trim(topic, limits, ())
            found += lost
            if not standing.more:
                return found


@asynccontextmanager
async def open_file(path: Path, clock: Clock | None = None) -> AsyncIterator[Opened]:
    clock = clock or Clock()
    async with open_databases() as databases:
        database = await databases.get(str(path / "node.db"))
        yield Opened(database, await open_log(database, clock, lambda: clock.boot), clock)


async def test_records_come_back_in_order(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        assert await opened.log.append(topic, b"one", {}) == 1
        assert await opened.log.append_all(topic, [(b"two", {"k": "é\ud800"}), (b"", {})]) == 2
        first = opened.log.read(topic, 1, None)
        assert [record.data for record in first] == [b"one"]
        rest = opened.log.read(topic, 2, first[0].end_bytes)
        assert [(record.place, record.data, record.metadata) for record in rest] == [
            (2, b"two", {"k": "é\ud800"}),
            (3, b"", {}),
        ]
        assert opened.log.read(topic, 4, rest[-1].end_bytes) == []


async def test_topics_do_not_mix(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        first, second = await opened.topic("a"), await opened.topic("b")
        await opened.log.append(second, b"b1", {})
        await opened.log.append(first, b"a1", {})
        assert [record.data for record in opened.log.read(first, 1, None)] == [b"a1"]
        assert opened.log.read(first, 2, None) == []
        assert opened.log.last_place(second) == 1


async def test_reading_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 5, b"x" * 100_000)
        assert len(opened.log.read(topic, 1, 0)) == 2
        await opened.fill(topic, 1, b"x" * 1_000_000)
        assert len(opened.log.read(topic, 6, 500_160)) == 1


async def test_everything_outlives_the_process(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3)
        group = await opened.join(topic)
        await opened.log.save_group(group, 4, {2: 5})
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        assert opened.log.last_place(topic) == 3
        assert opened.log.group_state(topic, await opened.join(topic)) == (4, [(2, 5)])


async def test_new_groups_start_where_asked(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3)
        early = await opened.join(topic, "early")
        late = await opened.join(topic, "late", latest=True)
        assert opened.log.group_state(topic, early).next == 1
        assert opened.log.group_state(topic, late).next == 4


async def test_a_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        await opened.log.append_all(await opened.topic(), [(b"good-%d" % number, {"n": "1"}) for number in range(3)])
    content = (tmp_path / "node.db").read_bytes()
    at = content.index(b"good-1")
    (tmp_path / "node.db").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        records = [*opened.log.read(topic, 1, None), *opened.log.read(topic, 2, 0)]
        assert [record.data for record in records] == [b"good-0", None, b"good-2"]
        assert opened.log.damaged == 1
        assert [record.damaged for record in peek(opened.database, "pubsub", "orders")] == [False, True, False]


async def test_flipped_metadata_is_noticed(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        await opened.log.append(await opened.topic(), b"data", {"name": "some value"})
    content = (tmp_path / "node.db").read_bytes()
    (tmp_path / "node.db").write_bytes(content.replace(b"some value", b"same value"))
    async with open_file(tmp_path) as opened:
        assert opened.log.read(await opened.topic(), 1, None)[0].data is None


async def test_a_broken_page_costs_its_records(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        for number in range(200):
            await opened.log.append(topic, b"%03d" % number * 40, {})
    content = bytearray((tmp_path / "node.db").read_bytes())
    page = content.index(b"100" * 40) // 4096 * 4096
    content[page] = 0xEE  # no kind of page that SQLite knows
    (tmp_path / "node.db").write_bytes(content)
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        got: dict[int, bytes | None] = {}
        place, end = 1, None
        while records := opened.log.read(topic, place, end):
            got |= {record.place: record.data for record in records}
            place, end = records[-1].place + 1, records[-1].end_bytes
        whole = [place for place, data in got.items() if data is not None]
        assert list(got) == list(range(1, 201))
        assert 150 < len(whole) < 200
        assert all(got[place] == b"%03d" % (place - 1) * 40 for place in whole)


async def test_a_damaged_group_starts_again(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3)
        await opened.log.save_group(await opened.join(topic), 3, {})
    with sqlite3.connect(tmp_path / "node.db") as connection:
        connection.execute("UPDATE log_group SET next = 4")
    connection.close()
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        assert opened.log.group_state(topic, await opened.join(topic)) == (1, ())
        assert opened.log.damaged == 1


async def test_consumed_records_go_by_size(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 150)
        group = await opened.join(topic)
        assert await opened.trim_all(topic) == []
        assert opened.log.floor(topic) == 1, "the group still wants them"
        await opened.log.save_group(group, 151, {})
        assert await opened.trim_all(topic) == []
        assert opened.log.floor(topic) == 51
        assert opened.log.standing(topic, LIMITS, ()).kept_bytes == 10_000
        assert len(opened.database.read("SELECT 1 FROM log_entry")) == 100


async def test_old_records_go_and_are_counted(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3)
        await opened.log.save_group(await opened.join(topic), 3, {1: 1})
        opened.clock.ms += HOUR_MS - 1
        await opened.fill(topic, 1)
        assert await opened.trim_all(topic) == []
        opened.clock.ms += 1
        (drop,) = await opened.trim_all(topic)
        assert (drop.group, drop.reason, drop.entries, drop.bytes, drop.first, drop.last) == (
            "app",
            "age",
            2,
            136,
            1,
            3,
        )
        assert drops(opened.database)[0][:7] == drop[:7]
        assert [record.offset for record in peek(opened.database, "pubsub", "orders")] == [4]


async def test_offsets_are_never_given_twice(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3)
        opened.clock.ms += 2 * HOUR_MS
        await opened.trim_all(topic)
        assert describe(opened.database)[0].entries == 0
        assert opened.log.standing(topic, LIMITS, ()) == (0, 0, None, False)
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        assert opened.log.read(topic, opened.log.floor(topic), None) == []
        assert await opened.log.append(topic, b"next", {}) == 4
        assert opened.log.group_state(topic, await opened.join(topic)).next == 4
        assert opened.log.standing(topic, LIMITS, ()).kept_bytes == 36


async def test_a_forgotten_tail_is_no_damage(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3)
        opened.clock.ms += 2 * HOUR_MS
        await opened.trim_all(topic)
        assert opened.log.read(topic, 3, None) == []
        assert opened.log.read_one(topic, 3) is None
        await opened.log.append(topic, b"", {})
        for after_bytes in (None, 300):
            assert [record.place for record in opened.log.read(topic, 3, after_bytes)] == [4]
        assert opened.log.damaged == 0


async def test_a_full_backlog_drops_its_oldest(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.join(topic)
        await opened.fill(topic, 250)
        assert opened.log.standing(topic, LIMITS, ()).backlog_bytes == 25_000
        (drop,) = await opened.trim_all(topic, LIMITS._replace(drop_oldest=True))
        assert (drop.reason, drop.entries, drop.first, drop.last) == ("full", 50, 1, 50)
        assert opened.log.standing(topic, LIMITS, ()).backlog_bytes == 20_000


async def test_forgotten_groups_hold_nothing(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.join(topic)
        opened.clock.ms += 25 * HOUR_MS
        await opened.fill(topic, 150)
        (drop,) = await opened.trim_all(topic)
        assert (drop.reason, drop.entries) == ("forgotten", 50)
        assert opened.log.standing(topic, LIMITS, {1}).backlog_bytes == 10_000, "unless it has a subscriber here"


async def test_big_clearings_go_in_steps(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 3 * TRIM_COUNT + 100)
        standing, _ = await opened.log.trim(topic, LIMITS, ())
        assert standing.more
        assert opened.log.floor(topic) == TRIM_COUNT + 1
        await opened.trim_all(topic)
        assert opened.log.floor(topic) == 3 * TRIM_COUNT + 1


async def test_a_run_of_drops_is_one_line(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        await opened.join(topic)
        await opened.fill(topic, 2 * TRIM_COUNT)
        opened.clock.ms += 2 * HOUR_MS
        assert len(await opened.trim_all(topic)) == 2
        (line,) = drops(opened.database)
        assert (line.entries, line.first, line.last) == (2 * TRIM_COUNT, 1, 2 * TRIM_COUNT)
        assert describe(opened.database)[0].groups[0].dropped == 2 * TRIM_COUNT


async def test_lines_of_drops_are_bounded(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()

        def fill(conn: sqlite3.Connection) -> None:
            for number in range(DROPS_MAX):
                conn.execute(
                    "INSERT INTO log_drop VALUES (NULL, ?, 'g', 'x', 1, 1, ?, ?, 0, 0)", (topic.id, number, number)
                )

        await opened.database.write(fill)
        for place in (5_000, 10_000, 20_000):
            await opened.log.note_drop(topic, "app", "damaged", place, 7)
        assert opened.database.read("SELECT count(*) FROM log_drop") == [(DROPS_MAX,)]


async def test_a_jump_of_the_wall_clock_ages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_file(tmp_path) as opened:
        monkeypatch.setattr("time.time", lambda: 100.0)  # 1970
        topic = await opened.topic()
        await opened.join(topic)
        await opened.fill(topic, 3)
        opened.clock.ms += 60_000
        monkeypatch.setattr("time.time", lambda: 1.8e9)
        assert await opened.trim_all(topic) == []
        assert describe(opened.database, opened.clock)[0].oldest_at == 1.8e9 - 60


async def test_ages_go_on_after_a_reboot(tmp_path: Path) -> None:
    clock = Clock()
    async with open_file(tmp_path, clock) as opened:
        topic = await opened.topic()
        await opened.fill(topic, 1)
        clock.ms += HOUR_MS // 2
        await opened.fill(topic, 1)
    clock.ms, clock.boot = 5, "second"
    async with open_file(tmp_path, clock) as opened:
        topic = await opened.topic()
        await opened.trim_all(topic)
        assert opened.log.floor(topic) == 1
        clock.ms += HOUR_MS // 2 + 1
        await opened.trim_all(topic)
        assert opened.log.floor(topic) == 2


async def test_opening_again_writes_nothing(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        await opened.fill(await opened.topic(), 1)
    before = (tmp_path / "node.db").read_bytes()[100:]  # past the header, which counts openings
    async with open_file(tmp_path) as opened:
        await opened.trim_all(await opened.topic())
    assert (tmp_path / "node.db").read_bytes()[100:] == before


async def test_numbers_of_topics_and_groups_are_bounded(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        topic = await opened.topic()
        with pytest.raises(Overloaded, match="topicsMax"):
            await opened.log.topic("pubsub", "another", 1)
        await opened.join(topic, "a", groups_max=1)
        with pytest.raises(Overloaded, match="groupsMax"):
            await opened.join(topic, "b", groups_max=1)
        opened.clock.ms += 25 * HOUR_MS
        await opened.join(topic, "b", groups_max=1)


async def test_two_openers_make_one_topic(tmp_path: Path) -> None:
    numbers = []
    async with open_file(tmp_path) as one, open_file(tmp_path) as two, trio.open_nursery() as nursery:

        async def make(opened: Opened) -> None:
            topic = await opened.topic()
            numbers.append((topic.id, await opened.join(topic)))

        nursery.start_soon(make, one)
        nursery.start_soon(make, two)
    assert numbers[0] == numbers[1]


async def test_describe_says_who_lags(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        assert describe(opened.database, opened.clock) == []
        topic = await opened.topic()
        await opened.fill(topic, 10)
        await opened.log.save_group(await opened.join(topic, "behind"), 8, {3: 1, 5: 2})
        await opened.join(topic, "new", latest=True)
        (info,) = describe(opened.database, opened.clock)
        assert info[:6] == ("pubsub", "orders", 10, 1000, 1, 10)
        assert info.groups == [("behind", 3, 5, 800, 2, 0), ("new", 11, 0, 0, 0, 0)]


async def test_describe_knows_no_log(tmp_path: Path) -> None:
    async with open_databases() as databases:
        database = await databases.get(str(tmp_path / "other.db"))
        assert describe(database) == []
        assert peek(database, "pubsub", "orders") == []
        assert drops(database) == []


async def test_peek_pages_through_a_topic(tmp_path: Path) -> None:
    async with open_file(tmp_path) as opened:
        assert peek(opened.database, "pubsub", "nowhere") == []
        await opened.log.append_all(await opened.topic(), [(b"%d" % number, {"n": str(number)}) for number in range(5)])
        found = peek(opened.database, "pubsub", "orders", from_offset=3, limit=2)
        assert [(record.offset, record.data, record.metadata) for record in found] == [
            (3, b"2", {"n": "2"}),
            (4, b"3", {"n": "3"}),
        ]
