// Service invocation as DaprClient uses it.

import { DaprClient, HttpMethod } from "@dapr/dapr";
import { options, say, tried } from "./lines.mjs";

const client = new DaprClient(options);
const app = process.env.TARGET;
const invoke = (...rest) => tried(() => client.invoker.invoke(app, ...rest));

for (const verb of Object.keys(HttpMethod)) {
  const body = verb === "GET" ? undefined : { verb, text: "grüße" };
  say(verb, (await invoke("echo?a=1&b=two%20words", HttpMethod[verb], body, { headers: { "x-note": verb } })).value);
}
say("default", (await invoke("echo")).value);
say("deep", (await invoke("deep/er/echo", HttpMethod.PUT, [1, 2])).value);
say("string", (await invoke("echo", HttpMethod.POST, "a string")).value);
const typed = { headers: { "Content-Type": "application/json" } };
say("typed", (await invoke("echo", HttpMethod.POST, { a: 1 }, typed)).value);
const long = "x".repeat(3_000_000);
say("long", (await invoke("echo", HttpMethod.POST, { long })).value.sent.long === long);
say("nothing", (await invoke("nothing", HttpMethod.POST)).value);
say("text", await invoke("text"));
say("created", await invoke("status/201"));
for (const status of [400, 404, 418, 500, 503]) say(`status ${status}`, (await invoke(`status/${status}`)).error);
say("absent", (await invoke("no-such-method")).error.status);
say("unknown app", (await tried(() => client.invoker.invoke("no-such-app", "echo"))).error);

const many = await Promise.all(Array.from({ length: 60 }, (_, n) => invoke(`echo?n=${n}`)));
say("many", many.every(({ value }, n) => value.query === `/echo?n=${n}`));
await client.stop();
