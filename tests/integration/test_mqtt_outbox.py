"""pubsub.mqtt3 with the node's outbox: what is published while the broker is away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.model.errors import BadMetadata, Overloaded
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import open_databases
from edge_runtime.store.log_clock import up_ms
from edge_runtime.sync.forward import open_outbox
from tests.brokers import Inbox, Mosquitto, open_broker
from tests.outboxes import MovedClock
from tests.support.sidecar import free_port

pytestmark = pytest.mark.slow


@asynccontextmanager
async def publisher(tmp_path: Path, port: int, clock: Callable[[], int] = up_ms, **metadata: str) -> AsyncIterator[Any]:
    async with (
        open_databases() as databases,
        open_outbox(databases, str(tmp_path), Metrics(), clock_ms=clock) as outbox,
    ):
        url = f"mqtt://127.0.0.1:{port}"
        fields = {"consumerID": "publisher", "reconnectIntervalMax": "500ms", **metadata}
        async with open_broker(
            tmp_path, "pubsub.mqtt3", databases=databases, outbox=outbox, url=url, **fields
        ) as broker:
            yield broker


@asynccontextmanager
async def subscriber(tmp_path: Path, mosquitto: Mosquitto, inbox: Inbox) -> AsyncIterator[None]:
    async with open_broker(tmp_path, "pubsub.mqtt3", url=mosquitto.url) as broker, trio.open_nursery() as nursery:
        await nursery.start(broker.subscribe, "a", "app", {"order": "strict"}, inbox)
        yield
        nursery.cancel_scope.cancel()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_published_without_a_broker(tmp_path: Path) -> None:
    """Most of it in one life of the process, the rest in the next."""
    inbox = Inbox()
    mosquitto = Mosquitto(tmp_path / "broker")
    with mosquitto:
        async with subscriber(tmp_path / "app", mosquitto, Inbox()):
            pass  # the broker keeps messages for it from now on
        mosquitto.stop()
        async with publisher(tmp_path, mosquitto.port) as broker:
            for data in numbered(30):
                await broker.publish("a", data, {})
        async with publisher(tmp_path, mosquitto.port) as broker:
            await broker.publish("a", b"30", {})
            mosquitto.start()
            async with subscriber(tmp_path / "app", mosquitto, inbox):
                await inbox.wait_for(31)
                await broker.publish("a", b"31", {})
                await inbox.wait_for(32)
    assert inbox.data == numbered(32)


async def test_published_while_the_broker_is_gone(tmp_path: Path) -> None:
    inbox = Inbox()
    with Mosquitto(tmp_path / "broker") as mosquitto:
        async with publisher(tmp_path, mosquitto.port) as broker, subscriber(tmp_path / "app", mosquitto, inbox):
            await broker.publish("a", b"0", {})
            mosquitto.stop()
            while broker.inbox.link.connected:
                await trio.lowlevel.checkpoint()
            for data in numbered(10)[1:]:
                await broker.publish("a", data, {})
            mosquitto.start()
            await inbox.wait_for_all(numbered(10))
    # The broker may have stopped before it knew that the first was acknowledged.
    assert list(dict.fromkeys(inbox.data)) == numbered(10)


async def test_a_full_outbox_refuses(tmp_path: Path) -> None:
    async with publisher(tmp_path, free_port(), outboxBytesMax="1000") as broker:
        await broker.publish("a", b"x" * 500, {})
        with pytest.raises(Overloaded, match="outboxBytesMax"):
            await broker.publish("a", b"x" * 900, {})
        with pytest.raises(BadMetadata):
            await broker.publish("a/#", b"x", {})


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-lowest-priority"])
async def test_a_full_outbox_drops_as_it_is_told(tmp_path: Path, when_full: str) -> None:
    """One component has one priority, so among its own the lowest is the oldest."""
    inbox = Inbox()
    with Mosquitto(tmp_path / "broker") as mosquitto:
        async with subscriber(tmp_path / "app", mosquitto, Inbox()):
            pass
        mosquitto.stop()
        fields = {"outboxBytesMax": "2500", "outboxWhenFull": when_full, "outboxPriority": "7"}
        async with publisher(tmp_path, mosquitto.port, **fields) as broker:
            for number in range(5):
                await broker.publish("a", b"%d" % number * 1000, {})
            mosquitto.start()
            async with subscriber(tmp_path / "app", mosquitto, inbox):
                await inbox.wait_for(2)
                await broker.publish("a", b"last", {})
                await inbox.wait_for_all([b"last"])
    assert inbox.data == [b"3" * 1000, b"4" * 1000, b"last"]


async def test_too_old_is_not_sent(tmp_path: Path) -> None:
    inbox, clock = Inbox(), MovedClock()
    with Mosquitto(tmp_path / "broker") as mosquitto:
        async with subscriber(tmp_path / "app", mosquitto, Inbox()):
            pass
        mosquitto.stop()
        async with publisher(tmp_path, mosquitto.port, clock, outboxAgeMax="1h") as broker:
            await broker.publish("a", b"old", {})
            clock.ahead_ms = 3_601_000
            await broker.publish("a", b"young", {})
            mosquitto.start()
            async with subscriber(tmp_path / "app", mosquitto, inbox):
                await inbox.wait_for(1)
                await broker.publish("a", b"last", {})
                await inbox.wait_for_all([b"last"])
    assert inbox.data == [b"young", b"last"]
