"""A link against a broker that does as the test says."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from edge_runtime.model.errors import BadMetadata
from edge_runtime.net import mqtt, mqtt_link
from edge_runtime.net.mqtt import (
    BrokerAway,
    BrokerRefused,
    Delivery,
    LinkSettings,
    check_pattern,
    check_topic,
    filter_of,
)
from edge_runtime.net.mqtt_link import Link, open_link
from edge_runtime.wire.websocket import GUID, masked

CONNACK = b"\x20\x02\x00\x00"


@pytest.fixture(autouse=True)
def short_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers here close no connection by themselves."""
    monkeypatch.setattr(mqtt_link, "CLOSE_TIMEOUT_S", 0.02)


class Peer:
    """The broker's end of one connection, packet by packet."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def packet(self) -> bytes:
        """The next packet; its length has one byte."""
        while len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            data = await self._stream.receive_some()
            assert data, "the link has gone"
            self._buffer += data
        end = 2 + self._buffer[1]
        packet, self._buffer = self._buffer[:end], self._buffer[end:]
        return packet

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()


class Setting:
    """A link, and the connections that it makes."""

    def __init__(self, link: Link, peers: trio.MemoryReceiveChannel[Peer], received: list[Delivery]) -> None:
        self.link = link
        self.received = received
        self._peers = peers

    async def peer(self, answer: bytes = CONNACK) -> Peer:
        peer = await self._peers.receive()
        assert (await peer.packet())[0] == 0x10
        await peer.send(answer)
        return peer


@asynccontextmanager
async def setting(**changes: object) -> AsyncIterator[Setting]:
    send, receive = trio.open_memory_channel[Peer](10)
    received: list[Delivery] = []

    async def accept(stream: trio.SocketStream) -> None:
        await send.send(Peer(stream))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, accept, listeners)
        port = listeners[0].socket.getsockname()[1]
        settings = LinkSettings("127.0.0.1", port, "me", reconnect_first_s=0.001, reconnect_most_s=0.01)
        async with open_link(settings._replace(**changes), received.append) as link:  # type: ignore[arg-type]
            yield Setting(link, receive, received)
        nursery.cancel_scope.cancel()


async def test_refused_subscriptions_are_told() -> None:
    async with setting() as there:
        peer = await there.peer()
        async with trio.open_nursery() as inner:
            inner.start_soon(_answer_subscribe, peer, 0x80)
            with pytest.raises(BrokerRefused, match="refuses the subscription to topic closed"):
                await there.link.subscribe("closed", 1)
        async with trio.open_nursery() as inner:
            inner.start_soon(_answer_subscribe, peer, 1)
            await there.link.subscribe("closed", 1)


async def _answer_subscribe(peer: Peer, code: int) -> None:
    packet = await peer.packet()
    assert packet[0] == 0x82
    await peer.send(b"\x90\x03" + packet[2:4] + bytes((code,)))


async def test_all_subscriptions_are_made_again() -> None:
    async with setting() as there:
        peer = await there.peer()
        for topic in ("a", "b"):
            async with trio.open_nursery() as inner:
                inner.start_soon(_answer_subscribe, peer, 1)
                await there.link.subscribe(topic, 1)
        await peer.close()
        peer = await there.peer()
        assert (await peer.packet())[4:] == b"\x00\x01a\x01\x00\x01b\x01"


@pytest.mark.parametrize("code", [1, 2, 4, 5])
async def test_refused_connections_are_told(code: int) -> None:
    async with setting(reconnect_first_s=0.1, reconnect_most_s=0.1) as there:
        await there.peer(bytes((0x20, 2, 0, code)))
        await there.link.tried.wait()
        assert there.link.refused is not None
        assert "the broker refuses the connection: " in str(there.link.refused)
        await there.peer()
        await there.link.wait_connected()
        assert there.link.refused is None


async def test_unanswered_publishes_are_sent_again() -> None:
    async with setting() as there:
        peer = await there.peer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.link.publish, "a", b"x", 1, False)
            assert await peer.packet() == b"\x32\x06\x00\x01a\x00\x01x"
            await peer.close()
            peer = await there.peer(b"\x20\x02\x01\x00")
            assert await peer.packet() == b"\x3a\x06\x00\x01a\x00\x01x"
            await peer.send(b"\x40\x02\x00\x01")


async def test_abandoned_publishes_are_not() -> None:
    async with setting() as there:
        peer = await there.peer()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(there.link.publish, "a", b"x", 1, False)
                await peer.packet()
                scope.cancel()
        await peer.close()
        peer = await there.peer(b"\x20\x02\x01\x00")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.link.publish, "b", b"y", 1, False)
            assert await peer.packet() == b"\x32\x06\x00\x01b\x00\x02y"
            await peer.send(b"\x40\x02\x00\x02")


async def test_quality_two_is_received_once_in_effect() -> None:
    """PUBREC goes out when the receiver is done; what comes again before PUBREL is answered only."""
    publish = b"\x34\x06\x00\x01a\x00\x07x"
    async with setting() as there:
        peer = await there.peer()
        await peer.send(publish)
        while not there.received:
            await trio.lowlevel.checkpoint()
        there.link.settle(there.received[0])
        assert await peer.packet() == b"\x50\x02\x00\x07"
        await peer.send(b"\x3c" + publish[1:])
        assert await peer.packet() == b"\x50\x02\x00\x07"
        await peer.send(b"\x62\x02\x00\x07")
        assert await peer.packet() == b"\x70\x02\x00\x07"
        await peer.send(publish)
        while len(there.received) < 2:
            await trio.lowlevel.checkpoint()


async def test_unfinished_packet_ids_are_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that never says PUBCOMP keeps them; when there are none left, publishes wait, and nothing spins."""
    monkeypatch.setattr(mqtt, "PACKET_IDS_MAX", 3)
    async with setting(answer_timeout_s=0.05) as there:
        peer = await there.peer()
        for number in range(1, 4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_publish_in_vain, there.link)
                assert (await peer.packet())[5:] == bytes((0, number)) + b"x"
                await peer.send(b"\x50\x02" + bytes((0, number)))
                assert (await peer.packet())[0] == 0x62
        assert [len(message.payload) for message in there.link._engine._out_messages.values()] == [0, 0, 0]
        await _publish_in_vain(there.link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.link.publish, "a", b"y", 2, False)
            await peer.send(b"\x70\x02\x00\x02")
            packet = await peer.packet()
            assert packet[7:] == b"y"
            await peer.send(b"\x50\x02" + packet[5:7])
            await peer.packet()
            await peer.send(b"\x70\x02" + packet[5:7])


async def test_late_answers_let_packet_ids_go() -> None:
    async with setting(answer_timeout_s=0.05) as there:
        peer = await there.peer()
        await _publish_in_vain(there.link)
        await peer.packet()
        await peer.send(b"\x50\x02\x00\x01")
        assert await peer.packet() == b"\x62\x02\x00\x01"
        await peer.send(b"\x70\x02\x00\x01")


async def test_abandoned_publishes_are_finished_after_a_loss() -> None:
    async with setting(answer_timeout_s=0.05) as there:
        peer = await there.peer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_publish_in_vain, there.link)
            await peer.packet()
            await peer.send(b"\x50\x02\x00\x01")
            assert await peer.packet() == b"\x62\x02\x00\x01"
        await peer.close()
        peer = await there.peer(b"\x20\x02\x01\x00")
        assert await peer.packet() == b"\x62\x02\x00\x01"


async def test_what_fits_into_no_packet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "PACKET_BYTES_MAX", 10)
    async with setting() as there:
        with pytest.raises(BadMetadata, match="MQTT carries 10 with its topic"):
            await there.link.publish("a", b"x" * 6, 0, False)


async def _publish_in_vain(link: Link) -> None:
    with pytest.raises(BrokerAway):
        await link.publish("a", b"x", 2, False)


NONSENSE = (b"\x36\x05\x00\x01a\x00\x07", b"\x30\x02\x00\x09", b"\x30\x03\x00\x01\xff", b"\xf0\x00")


@pytest.mark.parametrize("data", NONSENSE)
async def test_nonsense_ends_the_connection(data: bytes) -> None:
    async with setting() as there:
        peer = await there.peer()
        await peer.send(data)
        await there.peer()
        await there.link.wait_connected()


async def test_a_silent_broker_is_left() -> None:
    async with setting(keepalive_s=1, ping_timeout_s=0.05) as there:
        peer = await there.peer()
        assert await peer.packet() == b"\xc0\x00"
        await there.peer()
        assert there.link.reason.startswith("no answer to a ping")


async def test_websockets_carry_mqtt() -> None:
    async with setting(websocket_path="/mqtt") as there:
        peer = await there._peers.receive()
        stream = peer._stream
        request = await stream.receive_some()
        assert request.startswith(b"GET /mqtt HTTP/1.1\r\n")
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        await stream.send_all(
            b"HTTP/1.1 101 X\r\nsec-websocket-accept: " + accept + b"\r\n\r\n\x82\x02\x20\x02" + b"\x82\x02\x00\x00"
        )
        frame = await stream.receive_some()
        assert frame[0] == 0x82
        assert masked(frame[6:], frame[2:6])[2:8] == b"\x00\x04MQTT"
        await there.link.wait_connected()
        await stream.send_all(b"\x89\x02hi")
        pong = await stream.receive_some()
        assert (pong[0], masked(pong[6:], pong[2:6])) == (0x8A, b"hi")
        await stream.send_all(b"\x88\x00")
        await there._peers.receive()


def test_names_are_checked() -> None:
    for pattern in ("a", "a/b", "+", "#", "a/+/b/#", "/", "$share/g/a/#", "$SYS/#"):
        check_pattern(pattern)
    for topic in ("", "a/+", "#", "a\0", "x" * 65536):
        with pytest.raises(BadMetadata):
            check_topic(topic)
    assert filter_of("$share/group/a/b") == "a/b"
    assert filter_of("a/b") == "a/b"
