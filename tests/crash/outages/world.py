"""Two ends of a cloud link in two networks of their own, with a cable between them.

    edge: apps ─► node ─► mosquitto      │ cable │      recorder ─► sidecar ─► apps, mosquitto     :cloud

The cloud's end is a node too, but nobody asks it for anything but Dapr's API: the recorder in front of it sees to that.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

from edge_runtime.receiver import Receiver, identity_of
from tests.brokers import Mosquitto
from tests.crash.outages.ledger import Ledger, Registers
from tests.support.app import App, Received
from tests.support.namespace import Namespace
from tests.support.recorder import Findings, Http1Log, Http2Log, Recorder
from tests.support.resources import broker, component, document, resources_flags, write
from tests.support.sidecar import READY, Sidecar, free_port

CABLE: Final = "cable0"
EDGE_HOST: Final = "192.0.2.2"
CLOUD_HOST: Final = "192.0.2.1"
ANSWER_S: Final = 60.0
START_S: Final = 120.0  # kills, loads and outages share the machine with the start

ROUTES: Final = {
    "topicsUp": [
        {"pubsub": "pubsub", "topic": "orders", "limits": {"size": "1Gi"}},
        {"pubsub": "broker", "topic": "readings", "limits": {"size": "1Gi"}},
    ],
    "topicsDown": [{"remotePubsub": "pubsub", "remoteTopic": "commands", "metadata": {"order": "strict"}}],
    "state": [
        {"store": "statestore", "keys": "device-*", "direction": "up", "conflict": "local-wins"},
        *({"store": "statestore", "keys": f"plan-{n}", "direction": "down", "poll": "1s"} for n in range(2)),
    ],
}
STATE_PATH: Final = "/v1.0/state/statestore"
STRICT: Final = {"order": "strict"}


class Node:
    """A sidecar that is killed and started again over the same files and ports, and the network that it is in."""

    def __init__(self, network: Namespace, directory: Path, app_id: str, *documents: Mapping[str, Any]) -> None:
        self.network = network
        self.port, self.grpc_port = free_port(), free_port()
        self.app_port = 0
        self.kills = 0
        self._directory = directory
        self._app_id = app_id
        self._flags = resources_flags(write(directory / "resources", "all.yaml", *documents))
        self.running: Sidecar

    def start(self, *, wait: bool = True) -> None:
        self.running = self.network.run(
            lambda: Sidecar(
                self._directory / "state",
                *self._flags,
                app_id=self._app_id,
                app_port=self.app_port,
                port=self.port,
                grpc_port=self.grpc_port,
                ready="",
            )
        )
        if wait:
            self.running.wait_line(READY, START_S)

    def kill(self) -> None:
        self.running.kill()
        self.kills += 1

    def metric(self, name: str) -> float:
        """The sum of its samples."""
        text = self.network.run(self.running.metrics)
        samples = [line for line in text.splitlines() if line.startswith(f"dapr_{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in samples)


class Caller:
    """An app's connection to its sidecar, by one thread in the sidecar's network."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Raises OSError or HTTPException when nobody knows what came of it."""
        try:
            data = None if body is None else json.dumps(body).encode()
            self._connection.request(method, path, data, {"content-type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


class World:
    """Both ends, while the block lasts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self.findings = Findings()
        self.orders, self.readings = Ledger("orders"), Ledger("readings")
        self.commands, self.local = Ledger("commands"), Ledger("readings at the edge")
        self.ledgers = (self.orders, self.readings, self.commands, self.local)
        self.devices, self.plans = Registers("state up"), Registers("state down")
        self._receiver, self._lock = Receiver(), threading.Lock()
        self._known: set[str] = set()
        self.edge: Node
        self.cloud: Node
        self.brokers: list[tuple[Namespace, Mosquitto]] = []

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        edge, cloud = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        edge.join(cloud, CABLE, f"{EDGE_HOST}/30", f"{CLOUD_HOST}/30")
        self.cloud = self._node(stack, cloud, "cloud", self._cloud_app)
        lines = [
            stack.enter_context(cloud.run(lambda log=log, port=port: Recorder(port, CLOUD_HOST, self.findings, log)))
            for log, port in ((Http1Log, self.cloud.port), (Http2Log, self.cloud.grpc_port))
        ]
        link = document("CloudLink", "cloud", _link(*(line.port for line in lines)), version="edge-runtime.io/v1alpha1")
        self.edge = self._node(stack, edge, "edge", self._edge_app, link)

    def _node(
        self, stack: ExitStack, network: Namespace, name: str, app: Callable[[], App], *more: Mapping[str, Any]
    ) -> Node:
        directory = self._directory / name
        mosquitto = network.run(lambda: Mosquitto(directory / "mosquitto"))
        network.run(mosquitto.start)
        stack.callback(lambda: mosquitto.__exit__(None, None, None))
        self.brokers.append((network, mosquitto))
        mqtt = {"url": mosquitto.url, "reconnectIntervalMax": "500ms", "redeliverInterval": "100ms"}
        state = component("statestore", "state.sqlite", {"connectionString": str(directory / "state.db")})
        node = Node(network, directory, name, state, broker(), component("broker", "pubsub.mqtt3", mqtt), *more)
        node.app_port = stack.enter_context(network.run(app)).port
        node.start()
        stack.callback(lambda: node.running.__exit__(None, None, None))
        return node

    # --- the apps

    def _cloud_app(self) -> App:
        rows = [
            {"pubsubname": "pubsub", "topic": "orders", "route": "/orders"},
            {"pubsubname": "broker", "topic": "readings", "route": "/readings", "metadata": STRICT},
        ]
        return App(
            {
                "/dapr/subscribe": lambda _: (200, rows),
                "/orders": lambda came: self._came_up(self.orders, came),
                "/readings": lambda came: self._came_up(self.readings, came),
            },
            keep=False,
        )

    def _came_up(self, ledger: Ledger, came: Received) -> tuple[int, Any]:
        """With the check that every receiver of an edge node's events is told to make."""
        event = came.json()
        identity = identity_of(event)
        with self._lock:
            if identity is None or not self._receiver.seen(identity):
                ledger.arrive(event["data"]["key"], event["data"]["n"])
                self._receiver.mark(identity)
            else:
                ledger.repeat()
        return 200, {"status": "SUCCESS"}

    def _edge_app(self) -> App:
        rows = [
            {"pubsubname": "pubsub", "topic": "commands", "route": "/commands", "metadata": STRICT},
            {"pubsubname": "broker", "topic": "readings", "route": "/readings", "metadata": STRICT},
        ]
        return App(
            {
                "/dapr/subscribe": lambda _: (200, rows),
                "/commands": lambda came: self._came(self.commands, came),
                "/readings": lambda came: self._came(self.local, came),
            },
            keep=False,
        )

    def _came(self, ledger: Ledger, came: Received) -> tuple[int, Any]:
        """Events that passed no outbox of a link are known again by their id."""
        event = came.json()
        with self._lock:
            if event["id"] not in self._known:
                self._known.add(event["id"])
                ledger.arrive(event["data"]["key"], event["data"]["n"])
            else:
                ledger.repeat()
        return 200, {"status": "SUCCESS"}

    # --- what is asked of it

    def state_faults(self) -> list[str]:
        """Where the stores of both ends differ."""
        return [*self._differ(self.devices), *self._differ(self.plans)]

    def _differ(self, registers: Registers) -> list[str]:
        ends = [node.network.run(partial(values, node, registers.keys)) for node in (self.edge, self.cloud)]
        return registers.faults(*ends)

    # --- what is done to it

    def cable(self, *, up: bool, end: str) -> None:
        (self.edge if end == "edge" else self.cloud).network.set_link(CABLE, up=up)


def values(node: Node, keys: Sequence[str]) -> dict[str, int | None]:
    """What a node's store has under the keys."""
    found: dict[str, int | None] = {}
    with Caller(node.port) as caller:
        for key in keys:
            status, body = caller.call("GET", f"{STATE_PATH}/{key}")
            assert status in (200, 204), body
            found[key] = json.loads(body)["n"] if body else None
    return found


def publish_path(pubsub: str, topic: str, key: str) -> str:
    return f"/v1.0/publish/{pubsub}/{topic}?metadata.partitionKey={quote(key)}"


def _link(http_port: int, grpc_port: int) -> dict[str, Any]:
    endpoint = {"http": f"http://{CLOUD_HOST}:{http_port}", "grpc": f"http://{CLOUD_HOST}:{grpc_port}"}
    return {"endpoint": endpoint, "routes": ROUTES, "probe": {"interval": "2s"}}
