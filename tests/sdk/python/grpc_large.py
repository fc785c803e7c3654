"""Messages of ten megabytes, with a sidecar and a client that allow sixteen."""

from __future__ import annotations

from typing import Any

from clients import done, run, tried
from lines import say

TEN_MEGABYTES = b"0123456789" * 1_000_000


async def scenario(client: Any) -> None:
    await done(client.save_state("statestore", "large", TEN_MEGABYTES))
    say("state", (await done(client.get_state("statestore", "large"))).data == TEN_MEGABYTES)
    subscription = await done(client.subscribe("pubsub", "large"))
    text = {"data_content_type": "text/plain"}
    await done(client.publish_event("pubsub", "large", TEN_MEGABYTES, **text))
    event = await done(subscription.next_message())
    say("stream", event.raw_data() == TEN_MEGABYTES)
    await done(subscription.respond_success(event))
    await done(subscription.close())
    say("refused", (await tried(client.save_state, "statestore", "large", TEN_MEGABYTES * 2))["code"])


run(scenario, max_grpc_message_length=64 * 1024 * 1024)
