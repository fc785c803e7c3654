// An app with DaprServer over gRPC: subscriptions of every kind, and methods for all verbs. Says what comes to it.

import { DaprPubSubStatusEnum, DaprServer, HttpMethod } from "@dapr/dapr";
import { communicationProtocol, options } from "./grpc.mjs";
import { say } from "./lines.mjs";

const { SUCCESS, RETRY, DROP } = DaprPubSubStatusEnum;
const pubsub = "pubsub";

const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort: process.env.APP_PORT,
  communicationProtocol,
  clientOptions: options,
  logger: options.logger,
});

const note = (name) => async (data, headers) => say(name, name === "plain" ? { data, headers } : data);

await server.pubsub.subscribe(pubsub, "plain", note("plain"));
await server.pubsub.subscribe(pubsub, "a/deep-Topic.1", note("deep"));
await server.pubsub.subscribe(pubsub, "raw", note("raw"), "", { rawPayload: true });
await server.pubsub.subscribe(pubsub, "routed-by-name", note("named"), "/by-name");

// rules
const route = {
  default: "/other",
  rules: [
    { match: 'event.type == "shop.widget"', path: "/widgets" },
    { match: 'has(event.data.size) && event.data.size > 10', path: "/large" },
  ],
};
await server.pubsub.subscribeWithOptions(pubsub, "ruled", { route });
for (const path of ["/widgets", "/large", "/other"]) {
  server.pubsub.subscribeToRoute(pubsub, "ruled", path, note(`ruled${path}`));
}

// answers
const seen = new Map();
const attempt = (key) => seen.set(key, (seen.get(key) ?? 0) + 1).get(key);
await server.pubsub.subscribe(pubsub, "answers", async ({ id, answers }) => {
  const n = attempt(id);
  const answer = answers[n - 1] ?? SUCCESS;
  say("answers", { id, n, answer });
  if (answer === "throw") throw new Error("on purpose");
  return answer;
});
await server.pubsub.subscribeWithOptions(pubsub, "doomed", {
  deadLetterTopic: "dead",
  callback: async ({ answer }) => {
    say("doomed", answer);
    return { drop: DROP, retry: RETRY }[answer] ?? SUCCESS;
  },
});
await server.pubsub.subscribe(pubsub, "dead", note("dead"));

// bulk: this SDK answers the older of the two callbacks only
await server.pubsub.subscribeBulk(pubsub, "bulk", note("bulk"), { maxMessagesCount: 4, maxAwaitDurationMs: 100 });
await server.pubsub.subscribeBulk(pubsub, "bulk-answers", async ({ id, answer }) => {
  const n = attempt(`bulk-${id}`);
  say("bulk-answers", { id, n });
  return n === 1 ? answer : SUCCESS;
}, { maxAwaitDurationMs: 100 });

// methods
const echo = (verb) => async ({ body, query, metadata }) => ({ verb, sent: body, query, type: metadata.contentType });
for (const verb of Object.keys(HttpMethod)) {
  await server.invoker.listen("echo", echo(verb), { method: HttpMethod[verb] });
  await server.invoker.listen("deep/er/echo", echo(verb), { method: HttpMethod[verb] });
}

say("starting");
await server.start();
say("started");
process.once("SIGTERM", async () => {
  say("stopping");
  await server.stop();
  await server.client.stop();
  say("stopped");
});
