// What DaprClient does beside state, topics and calls: health, metadata, secrets, things that are not there, the end.

import { DaprClient } from "@dapr/dapr";
import { options, say, tried } from "./lines.mjs";

const client = new DaprClient(options);
say("fresh", client.getIsInitialized());
await client.start();
say("initialized", client.getIsInitialized());
say("healthy", await client.health.isHealthy());

const { id, runtimeVersion, components, extended } = await client.metadata.get();
say("metadata", { id, runtimeVersion, components: components.map(({ name }) => name).sort(), extended });
say("metadata.set", await client.metadata.set("note", "a word"));
say("metadata.kept", (await client.metadata.get()).extended.note);

say("secret", await client.secret.get("secrets", "password"));
say("secret.nested", await client.secret.get("secrets", "db:user"));
say("secret.bulk", await client.secret.getBulk("secrets"));
say("secret.absent", (await tried(() => client.secret.get("secrets", "absent"))).error);
say("secret.store", (await tried(() => client.secret.get("nowhere", "k"))).error);

say("binding", (await tried(() => client.binding.send("nothing", "create", { a: 1 }))).error);
say("configuration", (await tried(() => client.configuration.get("nothing", ["a"]))).error);
say("lock", (await tried(() => client.lock.lock("nothing", "resource", "me", 10))).error);
say("unlock", (await tried(() => client.lock.unlock("nothing", "resource", "me"))).error);
say("workflow", (await tried(() => client.workflow.get("some-instance"))).error);

const wrong = new DaprClient({ ...options, daprApiToken: "wrong" });
say("token.wrong", (await tried(() => wrong.daprClient.execute("/metadata", null, false))).error); // without its wait

await client.sidecar.shutdown();
await client.stop();
say("shut", true);
