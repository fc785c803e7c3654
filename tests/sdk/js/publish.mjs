// The publish API as DaprClient uses it: what the SDK makes of each kind of data, and of refusals.

import { DaprClient } from "@dapr/dapr";
import { options, say, unpacked } from "./lines.mjs";

const client = new DaprClient(options);
const pubsub = "pubsub";
const publish = async (name, topic, data, extra, component = pubsub) => {
  const { error } = await client.pubsub.publish(component, topic, data, extra);
  say(name, error ? unpacked(error) : "published");
};
const bulk = async (name, topic, messages, component = pubsub) => {
  const { failedMessages } = await client.pubsub.publishBulk(component, topic, messages);
  say(name, failedMessages.map(({ message, error }) => ({ event: message.event, error: unpacked(error) })));
};

// Each waits for the last: the order in which they come is tested elsewhere.
await publish("object", "plain", { text: "grüße <&> 🌍", n: [1, 2.5, null] });
await publish("string", "plain", "a string");
await publish("number", "plain", 42);
await publish("bytes", "plain", Buffer.from("some bytes"));
await publish("json bytes", "plain", Buffer.from('{"packed":true}'));
await publish("array", "plain", [1, "two"]);
await publish("text/xml", "plain", "<a/>", { contentType: "text/xml" });
await publish("vendor json", "plain", '{"kept":"as text"}', { contentType: "application/vnd.some+json" });
const event = { id: "e1", source: "shop", type: "shop.made", specversion: "1.0", data: { made: true } };
await publish("cloud event", "plain", event);
await publish("empty", "plain");
await publish("deep", "a/deep-Topic.1", { deep: true });
await publish("named", "routed-by-name", { named: true });
await publish("ttl", "plain", { ttl: true }, { metadata: { ttlInSeconds: 600 } });
await publish("raw", "raw", { raw: true }, { metadata: { rawPayload: true } });
await publish("raw text", "raw", "raw text", { metadata: { rawPayload: "true" } });

await publish("widget", "ruled", { size: 1 }, { metadata: { "cloudevent.type": "shop.widget" } });
await publish("large", "ruled", { size: 11 });
await publish("other", "ruled", { size: 2 });

await bulk("bulk", "plain", ["one", { two: 2 }, event]);
const entry = { entryID: "mine", event: { three: 3 }, contentType: "application/json", metadata: { a: "b" } };
await bulk("bulk entries", "plain", [entry, { event: "four", contentType: "text/plain" }]);
await bulk("bulk subscribed", "bulk", [1, 2, 3, 4, 5].map((n) => ({ n })));

await publish("pubsub.unknown", "plain", {}, {}, "nowhere");
await publish("raw.wrong", "plain", {}, { metadata: { rawPayload: "perhaps" } });
await publish("event.wrong", "plain", "no json", { contentType: "application/cloudevents+json; charset=utf-8" });
await bulk("bulk.unknown", "plain", ["lost"], "nowhere");
const twin = { entryID: "twin", event: "x", contentType: "text/plain" };
await bulk("bulk.twins", "plain", [twin, { ...twin }]);
await client.stop();
