import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.components.metadata import Fields
from edge_runtime.components.pubsub import sqlite
from edge_runtime.components.pubsub.log_intake import Intake
from edge_runtime.components.pubsub.sqlite import MessageTooLarge, read_settings
from edge_runtime.model.errors import BadMetadata, ConfigError, Overloaded
from edge_runtime.model.ports import BulkEntry, Message, Outcome
from edge_runtime.store.database import Database, Databases, open_databases
from edge_runtime.store.log import Drop, GroupInfo, Limits, Record, TopicInfo, describe, drops, open_log
from edge_runtime.store.log_plan import Plan
from tests.brokers import Inbox, open_broker, until


@pytest.fixture
async def databases() -> Any:
    async with open_databases() as opened:
        yield opened


class File:
    """The node's file, looked into."""

    def __init__(self, path: Path, databases: Databases) -> None:
        self.path = path
        self.databases = databases
        self.database: Database | None = None

    async def open(self) -> None:
        self.database = await self.databases.get(str(self.path))

    def topic(self) -> TopicInfo:
        assert self.database is not None
        return next(topic for topic in describe(self.database) if topic.topic == "orders")

    def group(self) -> GroupInfo:
        (group,) = self.topic().groups
        return group

    def lost(self) -> list[Drop]:
        assert self.database is not None
        return drops(self.database)


@pytest.fixture
async def file(tmp_path: Path, databases: Databases) -> File:
    found = File(tmp_path / "node.db", databases)
    await found.open()
    return found


async def test_apps_of_a_node_share_topics(tmp_path: Path, databases: Databases, nursery: trio.Nursery) -> None:
    async with (
        open_broker(tmp_path, databases=databases) as one,
        open_broker(tmp_path, databases=databases) as two,
        open_broker(tmp_path, databases=databases, component="another") as other,
    ):
        inbox, nothing = Inbox(), Inbox()
        await nursery.start(two.subscribe, "orders", "two", {}, inbox)
        await nursery.start(other.subscribe, "orders", "two", {}, nothing)
        await one.publish("orders", b"hello", {})
        await inbox.wait_for(1)
        await trio.testing.wait_all_tasks_blocked()
        assert nothing.data == []
        nursery.cancel_scope.cancel()


async def test_another_file_is_another_log(tmp_path: Path, databases: Databases) -> None:
    path = tmp_path / "with space" / "log.db"
    path.parent.mkdir()
    uri = f"file:{str(path).replace(' ', '%20')}?mode=rwc"
    async with open_broker(tmp_path, databases=databases, connectionString=uri) as broker:
        await broker.publish("orders", b"x", {})
    assert path.exists()
    assert not (tmp_path / "node.db").exists()


async def test_concurrency_is_bounded(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, concurrency="3") as broker:
        inbox = Inbox()
        inbox.gate = trio.Event()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.bulk_publish("orders", [BulkEntry(str(number), b"x") for number in range(10)], {})
        await inbox.wait_for(3)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(inbox.data), inbox.busy_most) == (3, 3)
        inbox.gate.set()
        await inbox.wait_for(10)
        assert inbox.busy_most == 3
        nursery.cancel_scope.cancel()


async def test_leaving_writes_what_waited(file: File, databases: Databases) -> None:
    let_go = threading.Event()

    async def release() -> None:
        await trio.testing.wait_all_tasks_blocked()
        let_go.set()

    async with open_broker(file.path.parent, databases=databases, ackFlushInterval="0s") as broker:
        inbox = Inbox()
        inbox.gate = trio.Event()
        async with trio.open_nursery() as nursery, trio.open_nursery() as members:
            await members.start(broker.subscribe, "orders", "app", {}, inbox)
            await broker.publish("orders", b"1", {})
            await inbox.wait_for(1)
            assert file.database is not None
            nursery.start_soon(file.database.write, lambda connection: let_go.wait(10))
            await trio.testing.wait_all_tasks_blocked()
            inbox.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            members.cancel_scope.cancel()
            nursery.start_soon(release)
        assert file.group().cursor == 2


async def test_an_idle_group_stays_known(
    file: File, databases: Databases, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(file.path.parent, databases=databases, groupExpiry="60s") as broker:
        await nursery.start(broker.subscribe, "orders", "app", {}, Inbox())
        assert file.database is not None
        await trio.sleep(5)
        before = file.database.commits
        await until(lambda: file.database and file.database.commits >= before + 3, 6)
        nursery.cancel_scope.cancel()


async def test_what_was_skipped_is_not_kept(file: File, databases: Databases) -> None:
    assert file.database is not None
    log = await open_log(file.database)
    topic = await log.topic("pubsub", "orders", 10)
    intake = Intake(log, topic)
    plan = Plan(1, strict=False, in_hand_max=10)
    intake.hand_over(Record(3, b"x", {}, None), 1)
    await log.append_all(topic, [(b"x", {})] * 6)
    everything = Limits(retention_bytes=0, retention_ms=0, backlog_bytes=1, drop_oldest=True, group_expiry_ms=1)
    await log.trim(topic, everything, ())
    await log.append(topic, b"new", {})
    intake.look_again()
    assert intake.fill(plan)
    assert list(plan.in_hand) == [7]
    assert list(intake._records) == [7]


async def test_a_poison_message_blocks_nobody(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path) as broker:
        inbox = Inbox(decide=lambda message: Outcome.NACK if message.data == b"poison" else Outcome.ACK)
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.publish("orders", b"poison", {})
        good = [b"%d" % number for number in range(100)]
        await broker.bulk_publish("orders", [BulkEntry("", data) for data in good], {})
        await inbox.wait_for_all(good)
        await until(lambda: inbox.data.count(b"poison") >= 5, 1)
        attempts = [message.attempt for message in inbox.messages if message.data == b"poison"]
        assert attempts == list(range(1, len(attempts) + 1))
        nursery.cancel_scope.cancel()


async def test_strict_order_waits_for_the_refused(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path, order="strict") as broker:
        inbox = Inbox([Outcome.NACK, Outcome.NACK])
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.bulk_publish("orders", [BulkEntry("", b"1"), BulkEntry("", b"2")], {})
        await inbox.wait_for(4)
        assert inbox.data == [b"1", b"1", b"1", b"2"]
        nursery.cancel_scope.cancel()


async def test_order_is_kept_per_key(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path) as broker:
        inbox = Inbox([Outcome.NACK])
        await broker.publish("orders", b"a1", {"partitionKey": "a"})
        await broker.publish("orders", b"a2", {"partitionKey": "a"})
        await broker.publish("orders", b"b1", {"partitionKey": "b"})
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(4)
        assert inbox.data == [b"a1", b"b1", b"a1", b"a2"]
        nursery.cancel_scope.cancel()


async def test_redeliveries_can_be_bounded(
    tmp_path: Path, file: File, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path, databases=file.databases, maxRedeliveries="2") as broker:
        inbox = Inbox(decide=lambda message: Outcome.NACK)
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.publish("orders", b"x", {})
        await inbox.wait_for(3)
        await until(lambda: not file.group().lag)
        lost = await until(file.lost)
        assert lost[0][:4] == ("orders", "app", "redeliveries", 1)
        assert len(inbox.data) == 3
        assert broker.counts.dropped == 1
        nursery.cancel_scope.cancel()


async def test_a_broken_off_delivery_goes_to_another(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path) as broker:
        first, second = Inbox(), Inbox()
        first.gate = trio.Event()
        async with trio.open_nursery() as inner:
            await inner.start(broker.subscribe, "orders", "app", {}, first)
            await broker.publish("orders", b"x", {})
            await first.wait_for(1)
            await nursery.start(broker.subscribe, "orders", "app", {}, second)
            await trio.testing.wait_all_tasks_blocked()
            assert second.data == []
            inner.cancel_scope.cancel()
        await second.wait_for(1)
        assert second.messages[0].attempt == 2
        nursery.cancel_scope.cancel()


async def test_acknowledged_at_the_end_is_kept(tmp_path: Path) -> None:
    for expected in ([b"1"], []):
        async with open_broker(tmp_path) as broker, trio.open_nursery() as nursery:
            inbox = Inbox()
            if expected:
                await broker.publish("orders", b"1", {})
            await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
            await trio.testing.wait_all_tasks_blocked()
            assert inbox.data == expected
            nursery.cancel_scope.cancel()


async def test_idle_groups_write_nothing(
    tmp_path: Path, file: File, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path, databases=file.databases) as broker:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.publish("orders", b"x", {})
        await inbox.wait_for(1)
        await until(lambda: not file.group().lag)
        assert file.database is not None
        before = file.database.read("PRAGMA data_version")
        await trio.sleep(24 * 3600)
        assert file.database.read("PRAGMA data_version") == before
        nursery.cancel_scope.cancel()


async def test_a_full_topic_refuses_until_consumed(tmp_path: Path, file: File, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, databases=file.databases, backlogBytesMax="100k", ackFlushInterval="0") as broker:
        async with trio.open_nursery() as inner:
            await inner.start(broker.subscribe, "orders", "app", {}, Inbox())
            inner.cancel_scope.cancel()
        for _ in range(20):
            await broker.publish("orders", b"x" * 5_000, {})
        with pytest.raises(Overloaded, match="backlogBytesMax"):
            await broker.publish("orders", b"x", {})
        with pytest.raises(Overloaded, match="topic orders of pub/sub pubsub is full"):
            await broker.publish("orders", b"x", {})
        (failure,) = await broker.bulk_publish("orders", [BulkEntry("", b"x")], {})
        assert isinstance(failure, Overloaded)
        assert broker.counts.refused == 3
        await broker.publish("others", b"x", {})
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(20)
        await until(lambda: not file.group().lag)
        await broker.publish("orders", b"x", {})
        nursery.cancel_scope.cancel()


async def test_a_full_topic_can_drop_its_oldest(tmp_path: Path, file: File, caplog: pytest.LogCaptureFixture) -> None:
    async with open_broker(tmp_path, databases=file.databases, backlogBytesMax="100k", whenFull="dropOldest") as broker:
        async with trio.open_nursery() as inner:
            await inner.start(broker.subscribe, "orders", "app", {}, Inbox())
            inner.cancel_scope.cancel()
        for _ in range(60):
            await broker.publish("orders", b"x" * 5_000, {})
        await until(lambda: file.group().lag_bytes <= 105_000 and broker.counts.dropped == file.group().dropped)
        assert file.group().dropped + file.group().lag == 60
        assert caplog.text.count("were dropped before group app had them (full)") == 1


async def test_size_is_bounded_while_in_use(tmp_path: Path, file: File, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, databases=file.databases, retentionBytes="64Ki", ackFlushInterval="0") as broker:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        for turn in range(1, 31):
            await broker.bulk_publish("orders", [BulkEntry("", b"x" * 1000)] * 100, {})
            await inbox.wait_for(turn * 100)
        await until(lambda: not file.group().lag)
        await broker.publish("orders", b"x" * 5000, {})
        await until(lambda: file.topic().bytes <= 70_000)
        assert file.path.stat().st_size < 1_000_000
        assert broker.counts.dropped == 0
        nursery.cancel_scope.cancel()


async def test_old_messages_are_dropped_and_counted(
    tmp_path: Path, file: File, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    started = trio.current_time()
    monkeypatch.setattr(
        sqlite, "open_log", partial(open_log, clock_ms=lambda: round((trio.current_time() - started) * 1000))
    )
    async with open_broker(tmp_path, databases=file.databases, retentionAge="1h") as broker:
        async with trio.open_nursery() as inner:
            await inner.start(broker.subscribe, "orders", "app", {}, Inbox())
            inner.cancel_scope.cancel()
        await broker.publish("orders", b"x", {})
        lost = await until(file.lost, 60)
        assert trio.current_time() - started >= 3600
        assert lost[0][:4] == ("orders", "app", "age", 1)


async def test_a_damaged_record_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_broker(tmp_path) as broker:
        for number in range(3):
            await broker.publish("orders", b"record-%d" % number, {})
    content = (tmp_path / "node.db").read_bytes()
    (tmp_path / "node.db").write_bytes(content.replace(b"record-1", b"rEcord-1"))
    async with open_databases() as databases, open_broker(tmp_path, databases=databases) as broker:
        file = File(tmp_path / "node.db", databases)
        await file.open()
        async with trio.open_nursery() as nursery:
            inbox = Inbox()
            await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
            await inbox.wait_for(2)
            await until(lambda: not file.group().lag)
            lost = await until(file.lost)
            assert inbox.data == [b"record-0", b"record-2"]
            assert file.group().cursor == 4
            assert lost[0][:4] == ("orders", "app", "damaged", 1)
            assert "1 messages were dropped before group app had them (damaged), the last at offset 2" in caplog.text
            nursery.cancel_scope.cancel()


async def test_one_process_delivers_at_a_time(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path) as one, open_broker(tmp_path) as two:
        first, second = Inbox(), Inbox()
        async with trio.open_nursery() as inner:
            await inner.start(one.subscribe, "orders", "app", {}, first)
            await trio.lowlevel.checkpoint()
            await nursery.start(two.subscribe, "orders", "app", {}, second)
            for number in range(5):
                await two.publish("orders", b"%d" % number, {})
            await first.wait_for(5)
            await trio.testing.wait_all_tasks_blocked()
            assert second.data == []
            inner.cancel_scope.cancel()
        await one.publish("orders", b"5", {})
        await second.wait_for(1)
        assert second.data == [b"5"]
        nursery.cancel_scope.cancel()


async def test_keys_wait_in_memory_or_in_the_file(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path) as broker:
        inbox = Inbox()
        big = [BulkEntry(str(number), b"%04d" % number + b"x" * 50_000) for number in range(60)]
        await broker.bulk_publish("orders", big, {"partitionKey": "same"})
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(60)
        assert [data[:4] for data in inbox.data] == [b"%04d" % number for number in range(60)]
        nursery.cancel_scope.cancel()


async def test_many_unacknowledged_stop_the_intake(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_broker(tmp_path, maxUnacknowledged="5") as broker:
        refuse = True
        inbox = Inbox(decide=lambda message: Outcome.NACK if refuse else Outcome.ACK)
        await broker.bulk_publish("orders", [BulkEntry("", b"%d" % number) for number in range(9)], {})
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(12)
        assert set(inbox.data) == {b"0", b"1", b"2", b"3", b"4"}
        refuse = False
        await inbox.wait_for_all(b"%d" % number for number in range(9))
        nursery.cancel_scope.cancel()


async def test_subscriptions_may_set_their_own(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path) as broker:
        await broker.publish("orders", b"early", {})
        inbox = Inbox()
        metadata = {"Order": "strict", "initialOffset": "latest", "concurrency": "2", "rawPayload": "true"}
        await nursery.start(broker.subscribe, "orders", "app", metadata, inbox)
        await broker.publish("orders", b"late", {})
        await inbox.wait_for(1)
        assert inbox.data == [b"late"]
        with pytest.raises(BadMetadata, match="in the subscription to component 'pubsub': metadata 'initialOffset'"):
            await broker.subscribe("orders", "x", {"initialOffset": "middle"}, inbox)
        nursery.cancel_scope.cancel()


async def test_handlers_that_never_wait_yield(tmp_path: Path, nursery: trio.Nursery) -> None:
    count = 0

    async def count_up(message: Message) -> Outcome:
        nonlocal count
        count += 1
        return Outcome.ACK

    async with open_broker(tmp_path) as broker:
        await broker.bulk_publish("orders", [BulkEntry("", b"x")] * 2000, {})
        await nursery.start(broker.subscribe, "orders", "app", {"concurrency": "1"}, count_up)
        seen = set()
        while count < 2000:
            seen.add(count)
            await trio.lowlevel.checkpoint()
        assert len(seen) > 20
        nursery.cancel_scope.cancel()


async def test_too_large_messages_are_refused(tmp_path: Path) -> None:
    async with open_broker(tmp_path, maxMessageBytes="10") as broker:
        await broker.publish("orders", b"x" * 10, {})
        with pytest.raises(MessageTooLarge, match="maxMessageBytes"):
            await broker.publish("orders", b"x" * 11, {})
        (failure,) = await broker.bulk_publish("orders", [BulkEntry("", b"x" * 11)], {})
        assert isinstance(failure, MessageTooLarge)


@pytest.mark.parametrize("name", ["", "x" * 513, "é" * 257])
async def test_topic_names_have_a_length(tmp_path: Path, name: str) -> None:
    async with open_broker(tmp_path) as broker:
        with pytest.raises(BadMetadata, match="1 to 512 bytes"):
            await broker.publish(name, b"x", {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", "0"),
        ("order", "sometimes"),
        ("initialOffset", "middle"),
        ("redeliverInterval", "soon"),
        ("maxUnacknowledged", "0"),
        ("retentionBytes", "much"),
        ("retentionAge", "0"),
        ("whenFull", "explode"),
        ("groupExpiry", "1s"),
    ],
)
def test_bad_fields_are_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"component 'pubsub': metadata '{name}' is '{value}'; expected"):
        read_settings(Fields({name: value}, (name,), "pubsub"), "/nowhere")


def test_defaults_are_as_documented() -> None:
    settings = read_settings(Fields({}, (), "pubsub"), "/state")
    assert settings.path == "/state/node.db"
    page = (Path(__file__).parents[4] / "docs/components/pubsub.sqlite.md").read_text()
    for field in sqlite._FIELDS:
        assert f"| `{field}` |" in page, f"{field} has no line in the driver's page"


async def test_unknown_fields_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with open_broker(tmp_path, retentionByte="1"):
            pass
    assert 'did you mean "retentionBytes"' in caplog.text
