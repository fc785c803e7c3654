"""A subscriber to be killed: it takes the message `done`, and begins with any other without ever ending.

Arguments: the broker's URL, the quality of service, a directory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from edge_runtime.model.ports import Message, Outcome
from tests.brokers import open_broker


async def handle(message: Message) -> Outcome:
    print(f"took {message.data.decode()}", flush=True)
    if message.data != b"done":
        await trio.sleep_forever()
    return Outcome.ACK


async def main(url: str, qos: str, directory: str) -> None:
    async with open_broker(Path(directory), "pubsub.mqtt3", url=url, qos=qos) as broker:
        async with trio.open_nursery() as nursery:
            await nursery.start(broker.subscribe, "work", "app", {}, handle)
            print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
