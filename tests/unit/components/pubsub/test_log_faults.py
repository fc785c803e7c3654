"""What a group and a hub do when the file or the folder beside it fails them for a while."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.components.pubsub import log_group, log_hub
from edge_runtime.model.errors import StoreUnavailable
from edge_runtime.model.ports import BulkEntry, Message, Outcome
from edge_runtime.store.database import open_databases
from edge_runtime.store.log import Log, describe, drops
from tests.brokers import Inbox, open_broker, until


@pytest.fixture
def fail_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Makes a method of the log fail at its next call; the list fills when it has."""

    def arrange(name: str) -> list[str]:
        real = getattr(Log, name)
        failed: list[str] = []

        def method(self: Log, *args: Any, **kwargs: Any) -> Any:
            if not failed:
                failed.append(name)
                raise StoreUnavailable("the disk is full")
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Log, name, method)
        return failed

    return arrange


@pytest.mark.parametrize("name", ["save_group", "read", "group_state", "read_one"])
async def test_delivery_survives_a_failing_file(
    tmp_path: Path,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    fail_once: Callable[[str], list[str]],
    name: str,
) -> None:
    async with open_databases() as databases, open_broker(tmp_path, databases=databases) as broker:
        database = await databases.get(str(tmp_path / "node.db"))
        await broker.bulk_publish("orders", [BulkEntry("", b"%d" % number) for number in range(20)], {})
        failed = fail_once(name)
        inbox = Inbox([Outcome.NACK])
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(21)
        assert set(inbox.data) == {b"%d" % number for number in range(20)}
        assert failed == [name]
        await until(lambda: not describe(database)[0].groups[0].lag, 1)
        nursery.cancel_scope.cancel()


async def test_tidying_is_tried_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, fail_once: Callable[[str], list[str]]
) -> None:
    async with open_databases() as databases:
        database = await databases.get(str(tmp_path / "node.db"))
        async with open_broker(tmp_path, databases=databases, retentionBytes="8Ki") as broker:
            failed = fail_once("trim")
            await broker.bulk_publish("orders", [BulkEntry("", b"x" * 1000)] * 20, {})
            await until(lambda: describe(database)[0].bytes < 10_000, 1)
            assert failed == ["trim"]


async def test_published_is_published_whatever_follows(
    tmp_path: Path, fail_once: Callable[[str], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_broker(tmp_path, retentionBytes="8Ki") as broker:
        await broker.publish("orders", b"x", {})
        await trio.testing.wait_all_tasks_blocked()
        failed = fail_once("is_due")
        await broker.publish("orders", b"x" * 10_000, {})
        assert failed == ["is_due"]
        assert "its limits could not be looked at" in caplog.text


async def test_what_cannot_be_written_at_the_end_is_logged(
    tmp_path: Path, fail_once: Callable[[str], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_broker(tmp_path, ackFlushInterval="1h") as broker, trio.open_nursery() as nursery:
        inbox = Inbox()
        await broker.publish("orders", b"x", {})
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(1)
        await trio.testing.wait_all_tasks_blocked()
        fail_once("save_group")
        nursery.cancel_scope.cancel()
    assert "acknowledgements since the last write are lost: the disk is full" in caplog.text


async def test_a_failing_handler_keeps_the_message(tmp_path: Path, nursery: trio.Nursery) -> None:
    async def fail(message: Message) -> Outcome:
        raise ZeroDivisionError

    async with open_broker(tmp_path) as broker:
        await broker.publish("orders", b"x", {})
        with pytest.raises(ExceptionGroup) as caught:
            await broker.subscribe("orders", "app", {}, fail)
        assert caught.group_contains(ZeroDivisionError)
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for(1)
        nursery.cancel_scope.cancel()


async def test_no_lock_is_no_subscription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("locks")

    monkeypatch.setattr(log_group, "GroupLock", refuse)
    async with open_broker(tmp_path) as broker:
        with pytest.raises(ExceptionGroup) as caught:
            await broker.subscribe("orders", "app", {}, Inbox())
        assert caught.group_contains(StoreUnavailable, match="the lock file cannot be opened: locks")


async def test_without_bells_one_process_works(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError("bells")

    monkeypatch.setattr(log_hub, "Bells", refuse)
    async with open_broker(tmp_path) as broker:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.publish("orders", b"x", {})
        await inbox.wait_for(1)
        assert "cannot be shared with other processes: bells" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_log_can_live_in_memory(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, connectionString=":memory:") as broker:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await broker.publish("orders", b"x", {})
        await inbox.wait_for(1)
        assert not (tmp_path / "node.db").exists()
        nursery.cancel_scope.cancel()


async def test_lines_and_losses_are_bounded(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_hub, "LOSSES_MAX", 1)
    async with open_databases() as databases:
        database = await databases.get(str(tmp_path / "node.db"))
        async with open_broker(tmp_path, databases=databases, maxRedeliveries="1", redeliverInterval="1ms") as broker:
            inbox = Inbox(decide=lambda message: Outcome.NACK)
            for topic in ("a", "b"):
                await nursery.start(broker.subscribe, topic, "app", {}, inbox)
                await broker.publish(topic, b"x", {})
            await until(lambda: broker.counts.dropped == 2 and drops(database))
            nursery.cancel_scope.cancel()
