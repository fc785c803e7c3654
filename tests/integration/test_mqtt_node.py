"""pubsub.mqtt3 through the real process and a real broker that is killed, and a node that is killed meanwhile."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import PublishEventRequest
from tests.brokers import Inbox, Mosquitto, open_broker
from tests.integration.test_mqtt_tls import Authority
from tests.support.app import App, Received
from tests.support.grpc_client import DaprClient
from tests.support.resources import component, resources_flags, write
from tests.support.sidecar import WAIT_S, Sidecar

pytestmark = pytest.mark.slow


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def app() -> Iterator[App]:
    subscriptions = [{"pubsubname": "events", "topic": "t", "route": "/t", "metadata": {"order": "strict"}}]
    with App({"/dapr/subscribe": lambda _: (200, subscriptions), "/t": lambda _: (200, b"")}) as running:
        yield running


class Node:
    """Starts one node after the other over the same files, and says what the app got."""

    def __init__(self, tmp_path: Path, mosquitto: Mosquitto, app: App, **metadata: str) -> None:
        fields = {"url": mosquitto.url, "reconnectIntervalMax": "500ms", **metadata}
        self._flags = resources_flags(write(tmp_path / "r", "a.yaml", component("events", "pubsub.mqtt3", fields)))
        self._state_dir = tmp_path / "state"
        self._app = app
        self.got: list[int] = []

    def start(self) -> Sidecar:
        return Sidecar(self._state_dir, *self._flags, app_port=self._app.port)

    def take(self, last: int) -> None:
        """What the app gets until that number."""
        while not self.got or self.got[-1] != last:
            self.got.append(self._app.next().json()["data"])

    @property
    def once(self) -> list[int]:
        return list(dict.fromkeys(self.got))


def publish(sidecar: Sidecar, number: int) -> None:
    """Over HTTP and gRPC by turns."""
    if number % 2:
        assert sidecar.http("POST", "/v1.0/publish/events/t", number).status == 204
        return
    request = PublishEventRequest(
        pubsub_name="events", topic="t", data=b"%d" % number, data_content_type="application/json"
    )
    with DaprClient(sidecar.grpc_port) as client:
        client.reply("PublishEvent", request)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metric(sidecar: Sidecar, name: str) -> float:
    found = re.search(rf"^dapr_{name}{{[^}}]*}} (\S+)$", sidecar.metrics(), re.MULTILINE)
    return float(found[1]) if found else -1


def test_nothing_is_lost_between_two_kills(tmp_path: Path, mosquitto: Mosquitto, app: App) -> None:
    """In order, and what was acknowledged to the publisher comes, whoever was killed in between."""
    node = Node(tmp_path, mosquitto, app)
    with node.start() as sidecar:
        until(lambda: metric(sidecar, "edge_mqtt_link_up") == 1)
        for number in range(1, 5):
            publish(sidecar, number)
        node.take(4)
        assert metric(sidecar, "edge_mqtt_link_up") == 1
        mosquitto.stop()  # its sessions are kept, as a killed one writes them down only now and then
        until(lambda: metric(sidecar, "edge_mqtt_link_up") == 0)
        for number in range(5, 11):
            publish(sidecar, number)
        assert metric(sidecar, "edge_outbox_entries") == 6
        sidecar.kill()
    with node.start() as sidecar:
        for number in range(11, 15):
            publish(sidecar, number)
        assert metric(sidecar, "edge_outbox_entries") == 10
        mosquitto.start()
        until(lambda: metric(sidecar, "edge_outbox_entries") == 0)
        publish(sidecar, 15)
        node.take(15)
        assert sidecar.stop() == 0
    assert node.once == list(range(1, 16))


def test_a_killed_broker_is_found_again(tmp_path: Path, mosquitto: Mosquitto, app: App) -> None:
    node = Node(tmp_path, mosquitto, app)
    with node.start() as sidecar:
        until(lambda: metric(sidecar, "edge_mqtt_link_up") == 1)
        publish(sidecar, 1)
        node.take(1)
        mosquitto.kill()
        for number in range(2, 8):
            publish(sidecar, number)
        mosquitto.start()
        until(lambda: metric(sidecar, "edge_outbox_entries") == 0)
        publish(sidecar, 8)
        node.take(8)
        assert metric(sidecar, "edge_mqtt_connections_total") == 2
        assert sidecar.stop() == 0
    assert node.once == list(range(1, 9))


def test_reloads_and_a_stop_keep_what_waits(tmp_path: Path, mosquitto: Mosquitto, app: App) -> None:
    """A SIGHUP gives the route to the next generation, a stop to the next process."""
    node = Node(tmp_path, mosquitto, app)
    with node.start() as sidecar:
        until(lambda: metric(sidecar, "edge_mqtt_link_up") == 1)
        mosquitto.stop()
        for number in range(1, 4):
            publish(sidecar, number)
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line("dapr initialized")
        for number in range(4, 7):
            publish(sidecar, number)
        assert metric(sidecar, "edge_outbox_entries") == 6
        assert sidecar.stop() == 0
    mosquitto.start()
    with node.start() as sidecar:
        publish(sidecar, 7)
        node.take(7)
        assert sidecar.stop() == 0
    assert node.once == list(range(1, 8))


# --- subscribers of all kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", ["1", "2"])
def test_what_came_while_away_arrives(tmp_path: Path, mosquitto: Mosquitto, app: App, qos: str) -> None:
    """Published by somebody else, while the node was stopped and then while it was dead."""
    node = Node(tmp_path, mosquitto, app, qos=qos)
    with node.start() as sidecar:
        until(lambda: "Sending SUBACK to app" in mosquitto.process.said)
        assert sidecar.stop() == 0
    trio.run(publish_as_another, tmp_path, mosquitto, qos, 1)
    with node.start() as sidecar:
        node.take(1)
        until(
            lambda: mosquitto.process.said.count("Received PUB" + ("ACK" if qos == "1" else "COMP") + " from app") == 1
        )
        sidecar.kill()
    trio.run(publish_as_another, tmp_path, mosquitto, qos, 2)
    with node.start() as sidecar:
        node.take(2)
        assert sidecar.stop() == 0
    assert node.got == [1, 2]


async def publish_as_another(tmp_path: Path, mosquitto: Mosquitto, qos: str, number: int) -> None:
    fields = {"url": mosquitto.url, "consumerID": "another", "qos": qos}
    async with open_broker(tmp_path / "another", "pubsub.mqtt3", **fields) as broker:
        await broker.publish("t", json.dumps({"specversion": "1.0", "data": number}).encode(), {})


@pytest.mark.parametrize("qos", ["1", "2"])
def test_the_broker_waits_for_the_app(tmp_path: Path, mosquitto: Mosquitto, qos: str) -> None:
    """It has the message in hand: nothing is acknowledged. Killed with it, the next node gets it."""
    acknowledged = "Received PUBACK from app" if qos == "1" else "Received PUBREC from app"
    answers = threading.Semaphore(0)

    def take(_: Received) -> tuple[int, bytes]:
        assert answers.acquire(timeout=WAIT_S)
        return 200, b""

    subscriptions = [{"pubsubname": "events", "topic": "t", "route": "/t", "metadata": {"order": "strict"}}]
    with App({"/dapr/subscribe": lambda _: (200, subscriptions), "/t": take}) as app:
        node = Node(tmp_path, mosquitto, app, qos=qos, keepAlive="1s")
        with node.start() as sidecar:
            publish(sidecar, 1)
            assert app.next().json()["data"] == 1
            until(lambda: "Received PINGREQ from app" in mosquitto.process.said)  # it had time enough
            assert acknowledged not in mosquitto.process.said
            sidecar.kill()
        with node.start() as sidecar:
            assert app.next().json()["data"] == 1
            assert acknowledged not in mosquitto.process.said
            answers.release(2)
            until(lambda: acknowledged in mosquitto.process.said)
            assert sidecar.stop() == 0


def test_a_will_tells_of_a_killed_node(tmp_path: Path, mosquitto: Mosquitto, app: App) -> None:
    """Retained, so that who comes later knows; a node that stops says goodbye, and nothing is told."""
    will = {"willTopic": "nodes/1", "willPayload": "gone", "willQos": "2", "willRetain": "true"}
    node = Node(tmp_path, mosquitto, app, **will)
    with node.start() as sidecar:
        until(lambda: metric(sidecar, "edge_mqtt_link_up") == 1)
        assert sidecar.stop() == 0
    with node.start() as sidecar:
        until(lambda: metric(sidecar, "edge_mqtt_link_up") == 1)
        assert trio.run(retained, tmp_path, mosquitto) == []
        sidecar.kill()
    until(lambda: trio.run(retained, tmp_path, mosquitto) == [b"gone"])


async def retained(tmp_path: Path, mosquitto: Mosquitto) -> list[bytes]:
    """What the broker keeps for new subscribers of `nodes/#`."""
    inbox = Inbox()
    fields = {"url": mosquitto.url, "consumerID": "watcher", "cleanSession": "true"}
    async with open_broker(tmp_path / "watcher", "pubsub.mqtt3", **fields) as broker, trio.open_nursery() as nursery:
        await nursery.start(broker.subscribe, "nodes/#", "watcher", {}, inbox)
        await broker.publish("nodes/end", b"end", {})
        await inbox.wait_for_all([b"end"])
        nursery.cancel_scope.cancel()
    return [message.data for message in inbox.messages if message.metadata["retained"] == "true"]


def test_nodes_share_a_subscription(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Two nodes of one group, with a wildcard: each message goes to one."""
    subscriptions = [{"pubsubname": "events", "topic": "$share/workers/jobs/+", "route": "/t"}]
    routes = {"/dapr/subscribe": lambda _: (200, subscriptions), "/t": lambda _: (200, b"")}
    with App(routes) as one, App(routes) as two:
        nodes = [Node(tmp_path / name, mosquitto, app, consumerID=name) for name, app in (("one", one), ("two", two))]
        with nodes[0].start() as first, nodes[1].start() as second:
            until(lambda: mosquitto.process.said.count("Sending SUBACK") == 2)
            for number in range(20):
                assert first.http("POST", "/v1.0/publish/events/jobs/new", number).status == 204
            until(lambda: one.received.qsize() + two.received.qsize() == 20)
            assert one.received.qsize()
            assert two.received.qsize()
            got = [app.next().json() for app in (one, two) for _ in range(app.received.qsize())]
            assert first.stop() == second.stop() == 0
    assert sorted(event["data"] for event in got) == list(range(20))
    assert {event["topic"] for event in got} == {"jobs/new"}


def test_keys_come_from_a_secret_store(tmp_path: Path) -> None:
    """A TLS broker that wants certificates; the private key is in no resource file."""
    authority = Authority(tmp_path, "authority")
    pair, mine = authority.issue("broker"), authority.issue("me")
    lines = (
        f"cafile {authority.pair.certificate}",
        *(f"certfile {pair.certificate}", f"keyfile {pair.key}", "require_certificate true"),
        "use_identity_as_username true",
    )
    (tmp_path / "secrets.json").write_text(json.dumps({"mqtt-key": mine.key.read_text()}))
    subscriptions = [{"pubsubname": "events", "topic": "t", "route": "/t"}]
    routes = {"/dapr/subscribe": lambda _: (200, subscriptions), "/t": lambda _: (200, b"")}
    with Mosquitto(tmp_path / "broker", *lines) as mosquitto, App(routes) as app:
        fields = {
            "url": f"mqtts://127.0.0.1:{mosquitto.port}",
            "caCert": authority.text,
            "clientCert": mine.certificate.read_text(),
            "clientKey": {"secretKeyRef": {"name": "mqtt-key", "key": "mqtt-key"}},
        }
        secrets = component("keys", "secretstores.local.file", {"secretsFile": str(tmp_path / "secrets.json")})
        events = component("events", "pubsub.mqtt3", fields, auth={"secretStore": "keys"})
        flags = resources_flags(write(tmp_path / "r", "a.yaml", secrets, events))
        with Sidecar(tmp_path / "state", *flags, app_port=app.port) as sidecar:
            until(lambda: "Sending SUBACK to app" in mosquitto.process.said)
            publish(sidecar, 1)
            assert app.next().json()["data"] == 1
            assert sidecar.stop() == 0
        assert "u'me'" in mosquitto.process.said
