// Settings and bindings with DaprClient over gRPC.

import { DaprClient } from "@dapr/dapr";
import { options, outcome } from "./grpc.mjs";
import { say } from "./lines.mjs";

const client = new DaprClient(options);
await client.start();

say("create", await client.binding.send("files", "create", "hello", { fileName: "a.txt" }));
say("binding.operation", await outcome(() => client.binding.send("files", "burn", "")));

say("get", (await client.configuration.get("configstore", ["a", "absent"])).items);
let told;
const change = new Promise((resolve) => (told = resolve));
const subscription = await client.configuration.subscribeWithKeys("configstore", ["a"], async (data) => told(data.items));
say("asked", true);
say("told", await change);
await subscription.stop();
await client.stop();
say("ended", true);
