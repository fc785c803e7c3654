"""A process with an outbox that its test kills: a line on stdout for each thing that is certain.

Several tasks append without end, each to a key of its own, while the other end takes, refuses and goes away.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import trio

from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.model.ports import Backoff, Entry, RouteSettings
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import open_databases
from edge_runtime.sync.forward import OutboxLimits, open_outbox

KEYS = 6


async def main(state_dir: Path, first: int, seed: int) -> None:
    chance = random.Random(seed)
    limits = OutboxLimits(flush_after_s=0.002, flush_max=8)
    settings = RouteSettings("cloud", retry=Backoff(first_s=0.001, most_s=0.004), in_flight_max=4)

    async def send(entry: Entry) -> None:
        await trio.lowlevel.checkpoint()
        fate = chance.random()
        if fate < 0.02:
            raise Unreachable("the cable is out")
        if fate < 0.15:
            raise DriverError("not now")
        print("SENT", entry.key, int(entry.payload), *entry.id, flush=True)  # type: ignore[arg-type]

    async with open_databases() as databases, open_outbox(databases, str(state_dir), Metrics(), limits) as outbox:
        async with outbox.open_route(settings, send) as route, trio.open_nursery() as nursery:

            async def append(key: str) -> None:
                for number in range(first, first + 1_000_000):
                    entry_id = await route.append(key, b"%d" % number)
                    print("KEPT", key, number, *entry_id, flush=True)

            for key in range(KEYS):
                nursery.start_soon(append, f"key{key}")
            while True:
                route.up()
                await trio.sleep(0.005)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
