// What DaprClient does over gRPC beside state, topics and calls: health, metadata, secrets, what is not there, the end.

import { DaprClient } from "@dapr/dapr";
import { options, outcome } from "./grpc.mjs";
import { say } from "./lines.mjs";

const client = new DaprClient(options);
say("fresh", client.getIsInitialized());
await client.start();
say("initialized", client.getIsInitialized());
say("healthy", await client.health.isHealthy());

const { id, components, extended } = await client.metadata.get();
say("metadata", { id, components: components.map(({ name }) => name).sort(), extended: Object.keys(extended) });
say("metadata.set", await client.metadata.set("note", "grüße"));
say("metadata.kept", (await client.metadata.get()).extended.note);

say("secret", await client.secret.get("secrets", "password"));
say("secret.nested", await client.secret.get("secrets", "db:user"));
say("secret.bulk", await client.secret.getBulk("secrets"));
say("secret.absent", await outcome(() => client.secret.get("secrets", "absent")));
say("secret.store", await outcome(() => client.secret.get("nowhere", "k")));

say("binding", await outcome(() => client.binding.send("nothing", "create", { a: 1 })));
say("configuration", await outcome(() => client.configuration.get("nothing", ["a"])));
say("lock", await outcome(() => client.lock.lock("nothing", "resource", "me", 10)));
say("unlock", await outcome(() => client.lock.unlock("nothing", "resource", "me")));
const key = { componentName: "nothing", keyName: "key", keyWrapAlgorithm: "RSA" };
say("encrypt", await outcome(() => client.crypto.encrypt("plain", key)));
say("decrypt", await outcome(() => client.crypto.decrypt("cipher", { componentName: "nothing" })));

// Without the SDK's wait for a sidecar that answers.
const refused = await new DaprClient({ ...options, daprApiToken: "wrong" }).daprClient.getClient(false);
say("token.wrong", await outcome(() => refused.getMetadata({})));

await client.sidecar.shutdown();
await client.stop();
say("shut", true);
