"""What goes wrong: cables, processes and brokers, each by a thread of its own, at moments that a seed decides."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import NamedTuple

from tests.brokers import Mosquitto
from tests.crash.outages.world import Node, World
from tests.support.namespace import Namespace


class Faults(NamedTuple):
    """How often each happens."""

    outages: int
    edge_kills: int
    cloud_kills: int
    broker_stops: int


class Chaos:
    """All of them at the same time."""

    def __init__(self, world: World, faults: Faults, seed: int) -> None:
        self._world = world
        self._faults = faults
        self._chance = random.Random(seed)
        self._errors: list[BaseException] = []
        self._failed = threading.Event()
        self.outages = 0
        self.cut_s = 0.0

    def run(self) -> None:
        """Until all have happened, and all is mended."""
        world, faults = self._world, self._faults
        jobs: list[Callable[[random.Random], None]] = [
            lambda chance: self._cut(faults.outages, chance),
            lambda chance: self._kill(world.edge, faults.edge_kills, chance, 2.0),
            lambda chance: self._kill(world.cloud, faults.cloud_kills, chance, 4.0),
            lambda chance: self._stop_brokers(faults.broker_stops, chance),
        ]
        threads = [threading.Thread(target=self._guarded, args=(job,), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _guarded(self, job: Callable[[random.Random], None]) -> None:
        try:
            job(random.Random(self._chance.random()))
        except BaseException as error:
            self._errors.append(error)
            self._failed.set()

    def _pause(self, seconds: float) -> None:
        if self._failed.wait(seconds):
            raise InterruptedError("another fault could not be made")

    def _cut(self, times: int, chance: random.Random) -> None:
        """Short outages, which TCP may survive; longer ones; at either end of the cable."""
        for number in range(times):
            end = chance.choice(("edge", "cloud"))
            seconds = 20.0 if number % 25 == 24 else chance.choice((0.1, 0.5, 1.0, 3.0)) * chance.random()
            self._world.cable(up=False, end=end)
            try:
                self._pause(seconds)
            finally:
                self._world.cable(up=True, end=end)
            self.outages += 1
            self.cut_s += seconds
            self._pause(2.0 * chance.random())

    def _kill(self, node: Node, times: int, chance: random.Random, most_s: float) -> None:
        """At work mostly, now and then while it starts."""
        for _ in range(times):
            self._pause(most_s * chance.random())
            node.kill()
            if chance.random() < 0.1:
                node.start(wait=False)
                self._pause(0.5 * chance.random())
                node.running.kill()
            node.start()

    def _stop_brokers(self, times: int, chance: random.Random) -> None:
        """SIGTERM: a killed mosquitto forgets what it has acknowledged since it last wrote its file."""
        for number in range(times):
            network, mosquitto = self._world.brokers[number % 2]
            self._pause(4.0 * chance.random())
            mosquitto.stop()
            self._pause(chance.random())
            _start(network, mosquitto)


def _start(network: Namespace, mosquitto: Mosquitto) -> None:
    network.run(mosquitto.start)
