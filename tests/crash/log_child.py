"""A process on the log that its test kills: `publish` or `consume`, a line on stdout for each thing that is certain."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from edge_runtime.model.ports import Message, Outcome
from tests.brokers import open_broker


async def publish(state_dir: Path) -> None:
    """Publish without end from several tasks; a number is printed once its publish was answered."""
    numbers = iter(range(1_000_000))
    async with open_broker(state_dir) as broker, trio.open_nursery() as nursery:

        async def run() -> None:
            for number in numbers:
                await broker.publish("orders", b"%d" % number, {"number": str(number)})
                print(number, flush=True)

        for _ in range(8):
            nursery.start_soon(run)


async def consume(state_dir: Path) -> None:
    """Deliver without end, refusing every seventh; prints `<outcome> <data>`."""
    async with open_broker(state_dir, ackFlushInterval="0", redeliverInterval="5ms", concurrency="4") as broker:

        async def handle(message: Message) -> Outcome:
            await trio.lowlevel.checkpoint()
            outcome = Outcome.NACK if int(message.data) % 7 == 0 and message.attempt == 1 else Outcome.ACK
            print(outcome.name, message.data.decode(), flush=True)
            return outcome

        await broker.subscribe("orders", "app", {}, handle)


if __name__ == "__main__":
    trio.run({"publish": publish, "consume": consume}[sys.argv[1]], Path(sys.argv[2]))
