"""MQTT over WebSocket to a real mosquitto behind a WebSocket server, plain and over TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.brokers import Inbox, Mosquitto, open_broker
from tests.integration.test_mqtt_tls import Authority
from tests.support.websocket import Bridge, open_bridge

pytestmark = pytest.mark.slow

LARGE = b"x" * 300_000


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


async def there_and_back(tmp_path: Path, bridge: Bridge, **metadata: str) -> None:
    inbox = Inbox()
    async with open_broker(tmp_path, "pubsub.mqtt3", **metadata) as broker, trio.open_nursery() as nursery:
        await nursery.start(broker.subscribe, "a", "app", {}, inbox)
        await broker.publish("a", b"1", {})
        await broker.publish("a", LARGE, {})
        await inbox.wait_for(2)
        assert bridge.pongs
        nursery.cancel_scope.cancel()
    assert sorted(inbox.data) == [b"1", LARGE]


async def test_messages_cross_a_websocket(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with open_bridge(mosquitto.port) as bridge:
        url = f"ws://127.0.0.1:{bridge.port}/mqtt/here?tenant=a"
        await there_and_back(tmp_path, bridge, url=url)
    assert [lines[0] for lines in bridge.requests] == ["GET /mqtt/here?tenant=a HTTP/1.1"]
    assert "Sec-WebSocket-Protocol: mqtt" in bridge.requests[0]


async def test_certificates_open_a_websocket(tmp_path: Path, mosquitto: Mosquitto) -> None:
    authority = Authority(tmp_path, "authority")
    server, mine = authority.issue("server"), authority.issue("me")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.text)
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    async with open_bridge(mosquitto.port, context) as bridge:
        metadata = {
            "url": f"wss://127.0.0.1:{bridge.port}",
            "caCert": authority.text,
            "clientCert": mine.certificate.read_text(),
            "clientKey": mine.key.read_text(),
        }
        await there_and_back(tmp_path, bridge, **metadata)
    assert [lines[0] for lines in bridge.requests] == ["GET / HTTP/1.1"]


async def test_a_lost_websocket_is_made_again(tmp_path: Path, mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    async with open_bridge(mosquitto.port) as bridge:
        opened = open_broker(tmp_path, "pubsub.mqtt3", url=f"ws://127.0.0.1:{bridge.port}")
        async with opened as broker, trio.open_nursery() as nursery:
            await nursery.start(broker.subscribe, "a", "app", {}, inbox)
            mosquitto.stop()
            mosquitto.start()
            await broker.publish("a", b"1", {})
            await inbox.wait_for(1)
            nursery.cancel_scope.cancel()
    assert len(bridge.requests) == 2
