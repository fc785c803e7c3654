"""A streaming subscription that outlives its sidecar: the handler's stream comes back by itself."""

from __future__ import annotations

import asyncio
from typing import Any

from clients import AIO, Box, done, run
from dapr.clients.grpc._response import TopicEventResponse
from lines import say


async def scenario(client: Any) -> None:
    box = Box()

    def handle(event: Any) -> TopicEventResponse:
        say("came", event.data())
        box.put(event.data())
        return TopicEventResponse("success")

    async def handle_async(event: Any) -> TopicEventResponse:
        return handle(event)

    close = await done(client.subscribe_with_handler("pubsub", "lasting", handle_async if AIO else handle))
    say("subscribed")
    while await asyncio.to_thread(box.get) != "last":
        pass
    await done(close())


run(scenario)
