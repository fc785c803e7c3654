// The state API as DaprClient uses it over gRPC.

import { DaprClient, StateConcurrencyEnum, StateConsistencyEnum } from "@dapr/dapr";
import { options, outcome } from "./grpc.mjs";
import { say } from "./lines.mjs";

const store = "statestore";
const client = new DaprClient(options);
const { state } = client;
const etagOf = async (key) => (await state.getBulk(store, [key]))[0].etag;
const save = (key, value, extra) => outcome(() => state.save(store, [{ key, value, ...extra }]));

// values
const values = { object: { text: "grüße <&> 🌍", list: [1, 2.5, null, true] }, string: "plain", number: 42, array: [] };
const items = Object.entries(values).map(([key, value]) => ({ key, value }));
say("saved", await outcome(() => state.save(store, items)));
const back = {};
for (const key of Object.keys(values)) back[key] = await state.get(store, key);
say("same", JSON.stringify(back) === JSON.stringify(values));
const long = "x".repeat(3_000_000);
await state.save(store, [{ key: "long", value: long }]);
say("long", (await state.get(store, "long")) === long);
say("too.large", await save("long", "x".repeat(5_000_000)));
say("absent", await state.get(store, "absent"));
say("strong", await state.get(store, "number", { consistency: StateConsistencyEnum.CONSISTENCY_STRONG }));

// bulk
const bulk = await state.getBulk(store, ["number", "string", "absent"], { parallelism: 2 });
say("bulk", Object.fromEntries(bulk.map(({ key, data, etag }) => [key, [data, etag !== ""]])));

// etags
const old = await etagOf("number");
say("etag.right", await save("number", 43, { etag: old }));
say("etag.stale", await save("number", 44, { etag: old }));
say("etag.delete.stale", await outcome(() => state.delete(store, "number", { etag: old })));
say("etag.kept", await state.get(store, "number"));
const etag = await etagOf("number");
say("etag.delete.right", await outcome(() => state.delete(store, "number", { etag })));
say("etag.gone", await state.get(store, "number"));
const first = { options: { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE } };
say("first.new", await save("first", 1, first));
say("first.again", await save("first", 2, first));
say("delete", await outcome(() => state.delete(store, "string")));
say("delete.absent", await outcome(() => state.delete(store, "string")));
say("ttl", await save("short", 1, { metadata: { ttlInSeconds: "1000" } }));

// transactions
const transaction = [
  { operation: "upsert", request: { key: "t1", value: "one" } },
  { operation: "delete", request: { key: "first" } },
];
say("transaction", await outcome(() => state.transaction(store, transaction)));
say("transaction.kept", [await state.get(store, "t1"), await state.get(store, "first")]);
const stale = [
  { operation: "upsert", request: { key: "t1", value: "lost" } },
  { operation: "upsert", request: { key: "t2", value: "lost", etag: "999" } },
];
say("transaction.stale", await outcome(() => state.transaction(store, stale)));
say("transaction.undone", await state.get(store, "t1"));
const wrong = [{ operation: "increment", request: { key: "t1", value: "2" } }];
say("transaction.wrong", await outcome(() => state.transaction(store, wrong)));

// queries
const people = ["Ann", "Ben", "Cem"].map((name, n) => ({
  key: name,
  value: { person: { name, age: 20 + n } },
  metadata: { contentType: "application/json" },
}));
await state.save(store, people);
const query = { filter: { IN: { "person.name": ["Ann", "Cem"] } }, sort: [{ key: "person.age", order: "DESC" }] };
const found = await state.query(store, { ...query, page: { limit: 5 } });
say("query", found.results.map(({ key, data }) => [key, JSON.parse(Buffer.from(data).toString()).person.age]));
say("query.wrong", await outcome(() => state.query(store, { filter: { LIKE: { a: 1 } } })));

// many at a time
const many = Array.from({ length: 100 }, (_, n) => n);
await Promise.all(many.map((n) => state.save(store, [{ key: `many-${n}`, value: n }])));
say("many", (await Promise.all(many.map((n) => state.get(store, `many-${n}`)))).every((value, n) => value === n));

// refusals
say("store.unknown.get", await outcome(() => state.get("nowhere", "k")));
say("store.unknown.save", await outcome(() => state.save("nowhere", [{ key: "k", value: 1 }])));
say("key.illegal", await save("a||b", 1));
await client.stop();
