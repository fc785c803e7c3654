"""Clients without a token, with a wrong one and with the right one, in that order; unary calls and streams."""

from __future__ import annotations

import asyncio
import os

from clients import done, open_client, refusal, tried
from dapr.conf import settings
from lines import say


async def scenario(name: str) -> None:
    async with open_client() as client:
        answer = await tried(client.get_state, "statestore", "k")
        say(name, answer if isinstance(answer, dict) else answer.data.decode())
        try:
            subscription = await done(client.subscribe("pubsub", "guarded"))
        except Exception as error:  # the SDK has no class of its own for it
            say(f"{name}.stream", refusal(error))
        else:
            await done(subscription.close())
            say(f"{name}.stream", "open")


async def main() -> None:
    for name, token in (("missing", None), ("wrong", "wrong"), ("right", os.environ["RIGHT"])):
        settings.DAPR_API_TOKEN = token
        await scenario(name)


asyncio.run(main())
