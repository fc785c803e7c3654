"""pubsub.mqtt3 through the real process and a real broker that is killed, and a node that is killed meanwhile."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import PublishEventRequest
from tests.brokers import Mosquitto
from tests.support.app import App
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

    def __init__(self, tmp_path: Path, mosquitto: Mosquitto, app: App) -> None:
        fields = {"url": mosquitto.url, "reconnectIntervalMax": "500ms"}
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
