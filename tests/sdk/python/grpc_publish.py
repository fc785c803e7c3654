"""The publish API as DaprClient uses it over gRPC; what it publishes comes to `grpc_app.py`."""

from __future__ import annotations

import json
from typing import Any

from clients import outcome, run, tried
from dapr.clients import BulkPublishEntry
from lines import say

PUBSUB = "pubsub"


async def single(client: Any) -> None:
    async def publish(name: str, data: str | bytes, content_type: str | None = None, **metadata: str) -> None:
        more = {key.replace("_", "."): value for key, value in metadata.items()}
        answer = await outcome(client.publish_event, PUBSUB, "events", data, more, data_content_type=content_type)
        say(name, answer)

    await publish("json", json.dumps({"n": 2**60 + 1, "t": "grüße <&> 🌍"}), "application/json")
    await publish("text", "some text", "text/plain")
    await publish("untyped", "no type")
    await publish("bytes", b"\x00\xff", "application/octet-stream")
    event = {"id": "e1", "source": "shop", "type": "shop.made", "specversion": "1.0", "data": [1]}
    await publish("event", json.dumps(event), "application/cloudevents+json")
    await publish("overridden", "{}", "application/json", cloudevent_type="shop.sold", cloudevent_id="own")
    raw = {"rawPayload": "true"}
    say("raw", await outcome(client.publish_event, PUBSUB, "raw", b'{"raw": 1}', raw))


async def several(client: Any) -> None:
    entries = [
        "first",
        b"second",
        BulkPublishEntry(
            '{"n": 3}', content_type="application/json", entry_id="third", metadata={"ttlInSeconds": "600"}
        ),
    ]
    answer = await tried(client.publish_events, PUBSUB, "bulk", entries, {}, "text/plain")
    say("several", answer if isinstance(answer, dict) else [entry.entry_id for entry in answer.failed_entries])


async def refusals(client: Any) -> None:
    say("pubsub.unknown", await tried(client.publish_event, "nowhere", "events", "lost"))
    say("pubsub.empty", await tried(client.publish_event, "", "events", "lost"))
    say("topic.empty", await tried(client.publish_event, PUBSUB, "", "lost"))
    say("raw.wrong", await tried(client.publish_event, PUBSUB, "events", "lost", {"rawPayload": "perhaps"}))
    wrong = await tried(
        client.publish_event, PUBSUB, "events", "no json", data_content_type="application/cloudevents+json"
    )
    say("event.wrong", wrong)
    say("several.unknown", await tried(client.publish_events, "nowhere", "events", ["lost"]))
    twins = [BulkPublishEntry("x", entry_id="twin"), BulkPublishEntry("y", entry_id="twin")]
    say("several.twins", await tried(client.publish_events, PUBSUB, "events", twins))


async def scenario(client: Any) -> None:
    for part in (single, several, refusals):
        await part(client)


run(scenario)
