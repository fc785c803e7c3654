"""Apps at work: each publishes events of its own keys, one after the other, and notes which were acknowledged."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.crash.outages.ledger import Ledger, Registers
from tests.crash.outages.world import STATE_PATH, Caller, Node, World, publish_path

PAUSE_S = 0.01
STRICT_PAUSE_S = 0.05  # what is delivered one at a time needs a way there and back for each
AWAY_S = 0.05


class Publisher:
    """One app that publishes to one topic."""

    def __init__(
        self,
        node: Node,
        pubsub: str,
        topic: str,
        keys: Sequence[str],
        *ledgers: Ledger,
        pause_s: float = STRICT_PAUSE_S,
    ) -> None:
        self._node = node
        self._pubsub = pubsub
        self._topic = topic
        self._keys = keys
        self._ledgers = ledgers
        self._pause_s = pause_s
        self.refused: list[bytes] = []

    def run(self, end: threading.Event) -> None:
        with Caller(self._node.port) as caller:
            for key in itertools.cycle(self._keys):
                if end.wait(self._pause_s if self._publish(caller, key) else AWAY_S):
                    return

    def _publish(self, caller: Caller, key: str) -> bool:
        (number,) = {ledger.attempt(key) for ledger in self._ledgers}
        path = publish_path(self._pubsub, self._topic, key)
        try:
            status, answer = caller.call("POST", path, {"key": key, "n": number})
        except (OSError, http.client.HTTPException):
            return False  # nobody knows whether it is in effect
        if status != 204:
            self.refused.append(answer)
            return False
        for ledger in self._ledgers:
            ledger.acknowledge(key, number)
        return True


class Writer:
    """One app that saves and deletes state under its keys."""

    def __init__(self, node: Node, registers: Registers, keys: Sequence[str]) -> None:
        self._node = node
        self._registers = registers
        self._keys = keys
        self.refused: list[bytes] = []

    def run(self, end: threading.Event) -> None:
        with Caller(self._node.port) as caller:
            for key in itertools.cycle(self._keys):
                if end.wait(STRICT_PAUSE_S if self._write(caller, key) else AWAY_S):
                    return

    def _write(self, caller: Caller, key: str) -> bool:
        number = self._registers.attempt(key)
        try:
            if self._registers.removes(number):
                status, answer = caller.call("DELETE", f"{STATE_PATH}/{key}")
            else:
                status, answer = caller.call("POST", STATE_PATH, [{"key": key, "value": {"n": number}}])
        except (OSError, http.client.HTTPException):
            return False  # nobody knows whether it is in effect
        if status != 204:
            self.refused.append(answer)
            return False
        self._registers.acknowledge(key, number)
        return True


def publishers(world: World) -> list[tuple[Node, Publisher | Writer]]:
    """The load of both ends."""
    edge, cloud = world.edge, world.cloud
    return [
        *(
            (
                edge,
                Publisher(
                    edge, "pubsub", "orders", [f"order-{app}-{n}" for n in range(4)], world.orders, pause_s=PAUSE_S
                ),
            )
            for app in range(3)
        ),
        (edge, Publisher(edge, "broker", "readings", ["reading"], world.readings, world.local)),
        (cloud, Publisher(cloud, "pubsub", "commands", ["command-1", "command-2"], world.commands)),
        (edge, Writer(edge, world.devices, [f"device-{n}" for n in range(4)])),
        (cloud, Writer(cloud, world.plans, ["plan-0", "plan-1"])),
    ]


@contextmanager
def under_load(world: World) -> Iterator[list[Publisher | Writer]]:
    """While the block lasts the apps publish."""
    end = threading.Event()
    apps = publishers(world)
    threads = [node.network.start(lambda app=app: app.run(end)) for node, app in apps]  # type: ignore[misc]
    try:
        yield [app for _, app in apps]
    finally:
        end.set()
        for thread in threads:
            thread.join()
