"""pubsub.mqtt3 with an outbox: the order of one topic's messages when the connection is lost under them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.components.pubsub.mqtt3 import open_mqtt3_pubsub
from edge_runtime.components.registry import ComponentContext
from edge_runtime.model.errors import DriverError
from edge_runtime.net import mqtt_link
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import open_databases
from edge_runtime.sync.forward import open_outbox
from tests.unit.net.test_mqtt_link import Peer

RESUMED = b"\x20\x02\x01\x00"


@pytest.fixture(autouse=True)
def short_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_link, "CLOSE_TIMEOUT_S", 0.02)


class Broker:
    """Connections come one after the other; each is answered by the test."""

    def __init__(self, peers: trio.MemoryReceiveChannel[Peer], port: int) -> None:
        self._peers = peers
        self.url = f"mqtt://127.0.0.1:{port}"

    async def peer(self) -> Peer:
        peer = await self._peers.receive()
        assert (await peer.packet())[0] == 0x10
        await peer.send(RESUMED)
        return peer


@asynccontextmanager
async def open_peers() -> AsyncIterator[Broker]:
    send, receive = trio.open_memory_channel[Peer](100)

    async def accept(stream: trio.SocketStream) -> None:
        await send.send(Peer(stream))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, accept, listeners)
        yield Broker(receive, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def publisher(tmp_path: Path, **metadata: str) -> AsyncIterator[tuple[Broker, Peer, Any]]:
    async with open_peers() as there, open_databases() as databases:
        async with open_outbox(databases, str(tmp_path), Metrics()) as outbox, trio.open_nursery() as nursery:
            fields = {"url": there.url, "consumerID": "me", **metadata}
            context = ComponentContext(
                "p", "pubsub.mqtt3", "v1", fields, "app", "", databases, str(tmp_path), outbox=outbox
            )
            peers: list[Peer] = []

            async def welcome() -> None:
                peers.append(await there.peer())

            nursery.start_soon(welcome)
            async with open_mqtt3_pubsub(context) as broker:
                await broker.inbox.link.wait_connected()  # type: ignore[attr-defined]
                yield there, peers[0], broker


async def lost(broker: Any) -> None:
    while broker.inbox.link.connected:
        await trio.lowlevel.checkpoint()


async def _publish(broker: Any, data: bytes) -> None:
    await broker.publish("a", data, {})


async def _arrivals(peer: Peer, count: int) -> list[bytes]:
    """The data of the next messages of topic a, each of them acknowledged."""
    arrived = []
    for _ in range(count):
        packet = await peer.packet()
        assert packet[0] & 0xF6 == 0x32
        arrived.append(packet[7:])
        await peer.send(b"\x40\x02" + packet[5:7])
    return arrived


async def test_what_is_under_way_is_kept_at_once(tmp_path: Path) -> None:
    """Later ones find it in the outbox before them."""
    numbers = [b"%d" % number for number in range(40)]
    with trio.fail_after(10):
        async with publisher(tmp_path) as (there, peer, broker):
            async with trio.open_nursery() as nursery:
                for data in numbers[:-1]:
                    nursery.start_soon(_publish, broker, data)
                    assert (await peer.packet())[7:] == data
                await peer.close()
                await lost(broker)
                await broker.publish("a", numbers[-1], {})
            assert await _arrivals(await there.peer(), len(numbers)) == numbers


async def test_quality_two_is_resumed_before_later_ones(tmp_path: Path) -> None:
    """The broker may have it, and the session says so: given to the outbox it would come twice."""
    with trio.fail_after(10):
        async with publisher(tmp_path, qos="2") as (there, peer, broker), trio.open_nursery() as nursery:
            nursery.start_soon(_publish, broker, b"first")
            packet_id = (await peer.packet())[5:7]
            await peer.close()
            await lost(broker)
            nursery.start_soon(_publish, broker, b"second")
            peer = await there.peer()
            again = await peer.packet()
            assert (again[0], again[5:]) == (0x3C, packet_id + b"first")
            nursery.start_soon(_publish, broker, b"third")
            await trio.testing.wait_all_tasks_blocked()
            for data in (b"first", b"second", b"third"):
                if data != b"first":
                    again = await peer.packet()
                    assert (again[0], again[7:]) == (0x34, data)
                await peer.send(b"\x50\x02" + again[5:7])
                assert await peer.packet() == b"\x62\x02" + again[5:7]
                await peer.send(b"\x70\x02" + again[5:7])


async def test_a_broker_that_does_not_answer_changes_no_order(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with publisher(tmp_path, publishTimeout="300ms") as (_, peer, broker):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_publish, broker, b"first")
                await peer.packet()
                nursery.start_soon(_publish, broker, b"second")
                await peer.packet()
            assert await _arrivals(peer, 2) == [b"first", b"second"]


async def test_a_publish_outlives_its_component(tmp_path: Path) -> None:
    """What is under way at the end is in the outbox, or the caller is told."""
    failures: list[DriverError] = []

    async def publish(broker: Any) -> None:
        try:
            await broker.publish("a", b"x", {})
        except DriverError as error:
            failures.append(error)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with publisher(tmp_path, publishTimeout="300ms") as (_, peer, broker):
                nursery.start_soon(publish, broker)
                await peer.packet()
    assert [type(error).__name__ for error in failures] in ([], ["StoreUnavailable"])
