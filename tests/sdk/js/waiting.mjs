// A client that is there before its sidecar: the SDK asks for the metadata until it answers.

import { DaprClient } from "@dapr/dapr";
import { options, say, service } from "./lines.mjs";

service.info = (...words) => say("info", words.join(" "));
const client = new DaprClient(options);
await client.state.save("statestore", [{ key: "waited", value: true }]);
say("waited", await client.state.get("statestore", "waited"));
await client.stop();
