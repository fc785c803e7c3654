// The publish API as DaprClient uses it over gRPC: what the SDK makes of each kind of data, and of refusals.

import { DaprClient } from "@dapr/dapr";
import { options, outcome, refusal } from "./grpc.mjs";
import { say } from "./lines.mjs";

const client = new DaprClient(options);
const pubsub = "pubsub";
const publish = async (name, topic, data, extra, component = pubsub) => {
  say(name, await outcome(() => client.pubsub.publish(component, topic, data, extra)));
};
const bulk = async (name, topic, messages, component = pubsub) => {
  const { failedMessages } = await client.pubsub.publishBulk(component, topic, messages);
  say(name, failedMessages.map(({ message, error }) => [message.event, refusal(error).reason]));
};

await publish("object", "plain", { text: "grüße <&> 🌍", n: [1, 2.5, null] });
await publish("string", "plain", "a string");
await publish("bytes", "plain", Buffer.from("some bytes"));
await publish("array", "plain", [1, "two"]);
await publish("text/xml", "plain", "<a/>", { contentType: "text/xml" });
await publish("cloud event", "plain", { id: "e1", source: "shop", type: "made", specversion: "1.0", data: { made: true } });
await publish("deep", "a/deep-Topic.1", { deep: true });
await publish("named", "routed-by-name", { named: true });
await publish("ttl", "plain", { ttl: true }, { metadata: { ttlInSeconds: "600" } });
await publish("raw", "raw", { raw: true }, { metadata: { rawPayload: "true" } });

await publish("widget", "ruled", { size: 1 }, { metadata: { "cloudevent.type": "shop.widget" } });
await publish("large", "ruled", { size: 11 });
await publish("other", "ruled", { size: 2 });

await bulk("bulk", "plain", ["one", { two: 2 }]);
await bulk("bulk entries", "plain", [{ entryID: "mine", event: { three: 3 }, contentType: "application/json" }]);
await bulk("bulk subscribed", "bulk", [1, 2, 3, 4, 5].map((n) => ({ n })));

await publish("pubsub.unknown", "plain", { lost: true }, {}, "nowhere");
await publish("raw.wrong", "plain", { lost: true }, { metadata: { rawPayload: "perhaps" } });
await bulk("bulk.unknown", "plain", ["lost"], "nowhere");
const twin = { entryID: "twin", event: "x", contentType: "text/plain" };
await bulk("bulk.twins", "plain", [twin, { ...twin }]);
await client.stop();
