// Service invocation as DaprClient uses it over gRPC: of TARGET, which speaks gRPC, and of WEB, which speaks HTTP.

import { DaprClient, HttpMethod } from "@dapr/dapr";
import { options, outcome, refusal } from "./grpc.mjs";
import { say } from "./lines.mjs";

const client = new DaprClient(options);
const { TARGET, WEB } = process.env;
const app = TARGET ?? WEB;
const invoke = (...rest) => client.invoker.invoke(app, ...rest);

for (const verb of Object.keys(HttpMethod)) say(verb, await invoke("echo", HttpMethod[verb], { verb, text: "grüße" }));
say("deep", await invoke("deep/er/echo", HttpMethod.PUT, [1, 2]));
say("string", await invoke("echo", HttpMethod.POST, "a string"));
const long = "x".repeat(3_000_000);
say("long", (await invoke("echo", HttpMethod.POST, { long })).sent.length > long.length);
say("absent", await invoked("no-such-method"));
say("unknown app", await outcome(() => client.invoker.invoke("no-such-app", "echo")));

const many = await Promise.all(Array.from({ length: 100 }, (_, n) => invoke("echo", HttpMethod.POST, { n })));
say("many", many.every(({ sent }, n) => sent === JSON.stringify({ n })));
await client.stop();

/** The SDK takes an empty answer for an error of its own. */
async function invoked(method) {
  try {
    return await invoke(method);
  } catch (error) {
    return error.details ? refusal(error) : JSON.parse(error.message);
  }
}
