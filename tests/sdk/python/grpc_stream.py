"""Streaming subscriptions of DaprClient: no app port is needed, events come over the stream that the client opened."""

from __future__ import annotations

import json
from typing import Any

from clients import AIO, Box, done, refusal, run
from dapr.clients.grpc._response import TopicEventResponse
from lines import say

PUBSUB = "pubsub"
OWN = "aio" if AIO else "sync"


async def publish(client: Any, topic: str, data: Any, **metadata: str) -> None:
    await done(
        client.publish_event(PUBSUB, f"{OWN}-{topic}", json.dumps(data), metadata, data_content_type="application/json")
    )


async def subscribe(client: Any, topic: str, **more: Any) -> Any:
    return await done(client.subscribe(PUBSUB, f"{OWN}-{topic}", **more))


async def whole(client: Any) -> None:
    subscription = await subscribe(client, "whole")
    await publish(client, "whole", {"n": 1})
    event = await done(subscription.next_message())
    say(
        "whole",
        {
            "id": event.id() != "",
            "source": event.source(),
            "type": event.type(),
            "version": event.spec_version(),
            "content_type": event.data_content_type(),
            "topic": event.topic().removeprefix(f"{OWN}-"),
            "pubsub": event.pubsub_name(),
            "data": event.data(),
            "extensions": sorted(event.extensions()),
        },
    )
    await done(subscription.respond_success(event))
    await done(subscription.close())


async def answers(client: Any) -> None:
    """A refused event comes again; two in flight are answered in the other order."""
    subscription = await subscribe(client, "answers")
    await publish(client, "answers", "again")
    first = await done(subscription.next_message())
    await done(subscription.respond_retry(first))
    second = await done(subscription.next_message())
    say("retry", [first.id() == second.id(), second.data()])
    await done(subscription.respond_success(second))
    for n in range(3):
        await publish(client, "answers", n)
    flying = [await done(subscription.next_message()) for _ in range(3)]
    for event in reversed(flying):
        await done(subscription.respond_success(event))
    say("flying", sorted(event.data() for event in flying))
    await done(subscription.close())


async def dead_letters(client: Any) -> None:
    dead = await subscribe(client, "dead")
    subscription = await subscribe(client, "doomed", dead_letter_topic=f"{OWN}-dead")
    await publish(client, "doomed", "dropped")
    await done(subscription.respond_drop(await done(subscription.next_message())))
    letter = await done(dead.next_message())
    say("dead", [letter.data(), letter.topic().removeprefix(f"{OWN}-")])
    await done(dead.respond_success(letter))
    await done(subscription.close())
    await done(dead.close())


async def unanswered(client: Any) -> None:
    """What a closed subscription left unanswered comes to the next one."""
    subscription = await subscribe(client, "left")
    await publish(client, "left", "unanswered")
    event = await done(subscription.next_message())
    await done(subscription.close())
    subscription = await subscribe(client, "left")
    again = await done(subscription.next_message())
    say("left", event.id() == again.id())
    await done(subscription.respond_success(again))
    await done(subscription.close())


async def raw(client: Any) -> None:
    subscription = await subscribe(client, "raw", metadata={"rawPayload": "true"})
    await publish(client, "raw", {"raw": 1}, rawPayload="true")
    event = await done(subscription.next_message())
    say("raw", [event.data_content_type(), event.raw_data().decode()])
    await done(subscription.respond_success(event))
    await done(subscription.close())


async def handlers(client: Any) -> None:
    box = Box()

    def handle(event: Any) -> TopicEventResponse:
        box.put(event)
        tries[event.data()] = tries.get(event.data(), 0) + 1
        return TopicEventResponse("retry" if tries[event.data()] == 1 else "success")

    async def handle_async(event: Any) -> TopicEventResponse:
        return handle(event)

    tries: dict[str, int] = {}
    topic = f"{OWN}-handled"
    close = await done(client.subscribe_with_handler(PUBSUB, topic, handle_async if AIO else handle))
    for name in ("a", "b"):
        await publish(client, "handled", name)
    say("handled", sorted([(await box.next()).data() for _ in range(4)]))
    await done(close())


async def refusals(client: Any) -> None:
    for name, pubsub, topic in (("unknown", "nowhere", "t"), ("no pubsub", "", "t"), ("no topic", PUBSUB, "")):
        try:
            await done(client.subscribe(pubsub, topic))
        except Exception as error:  # the SDK has no class of its own for it
            say(f"refused.{name}", refusal(error))


async def scenario(client: Any) -> None:
    for part in (whole, answers, dead_letters, unanswered, raw, handlers, refusals):
        await part(client)


run(scenario)
