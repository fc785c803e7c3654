import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import BadMetadata, ConfigError, Overloaded
from edge_runtime.model.ports import Outcome
from edge_runtime.store.database import open_databases
from tests.brokers import Inbox, open_broker

DRIVER = "pubsub.in-memory"


async def test_a_full_queue_refuses_everybody(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, DRIVER, queueDepth="2") as broker:
        slow, quick = Inbox(), Inbox()
        slow.gate = trio.Event()
        await nursery.start(broker.subscribe, "a", "slow", {}, slow)
        await nursery.start(broker.subscribe, "a", "quick", {}, quick)
        await broker.publish("a", b"0", {})
        await slow.wait_for(1)
        await broker.publish("a", b"1", {})
        await broker.publish("a", b"2", {})
        with pytest.raises(Overloaded, match=r"queueDepth \(2 messages\)"):
            await broker.publish("a", b"3", {})
        await quick.wait_for(3)
        await trio.testing.wait_all_tasks_blocked()
        assert quick.data == [b"0", b"1", b"2"]
        slow.gate.set()
        await slow.wait_for(3)
        await broker.publish("a", b"4", {})
        await slow.wait_for(4)
        assert (broker.published, broker.refused) == (4, 1)


async def test_a_queue_is_bounded_in_bytes(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, DRIVER, queueBytes="10") as broker:
        inbox = Inbox()
        inbox.gate = trio.Event()
        await nursery.start(broker.subscribe, "a", "app", {}, inbox)
        await broker.publish("a", b"first", {})
        await inbox.wait_for(1)
        await broker.publish("a", b"longer than the limit, but alone", {})
        with pytest.raises(Overloaded, match="queueBytes"):
            await broker.publish("a", b"x", {})


async def test_a_refused_message_is_logged(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_broker(tmp_path, DRIVER) as broker:
        inbox = Inbox([Outcome.NACK])
        await nursery.start(broker.subscribe, "a", "app", {}, inbox)
        await broker.publish("a", b"x", {})
        await inbox.wait_for(1)
        await trio.testing.wait_all_tasks_blocked()
    assert broker.lost == 1
    assert "a message of topic a was refused by the app and is lost" in caplog.text


async def test_a_leaving_subscriber_hands_over(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, DRIVER) as broker:
        first, second = Inbox(), Inbox()
        first.gate = trio.Event()
        async with trio.open_nursery() as leaving:
            await leaving.start(broker.subscribe, "a", "app", {}, first)
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(broker.subscribe, "a", "app", {}, second)
            await broker.publish("a", b"1", {})
            await broker.publish("a", b"2", {})
            await first.wait_for(1)
            leaving.cancel_scope.cancel()
        await second.wait_for(2)
        assert second.data == [b"1", b"2"]
        nursery.cancel_scope.cancel()


async def test_an_empty_topic_is_refused(tmp_path: Path) -> None:
    async with open_broker(tmp_path, DRIVER) as broker:
        with pytest.raises(BadMetadata, match="expected a name"):
            await broker.publish("", b"x", {})


async def test_bad_fields_are_named(tmp_path: Path) -> None:
    async with open_databases() as databases:
        with pytest.raises(ConfigError, match="queueDepth"):
            async with open_broker(tmp_path, DRIVER, databases=databases, queueDepth="none"):
                pass


async def test_unknown_fields_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with open_broker(tmp_path, DRIVER, queueDept="1"):
            pass
    assert 'did you mean "queueDepth"' in caplog.text
