// The state API as DaprClient uses it.

import { DaprClient, StateConcurrencyEnum, StateConsistencyEnum } from "@dapr/dapr";
import { options, say, tried, unpacked } from "./lines.mjs";

const store = "statestore";
const client = new DaprClient(options);
const { state } = client;

const outcome = async (promise) => {
  const { error } = await promise;
  return error ? unpacked(error) : "saved";
};
const etagOf = async (key) => (await state.getBulk(store, [key]))[0].etag;

// The SDK keeps connections: one after another, all calls go over one.
const agent = client.daprClient.constructor.httpAgent;
const { createConnection } = agent;
let connections = 0;
agent.createConnection = function (...rest) {
  connections += 1;
  return createConnection.apply(this, rest);
};

// values
const values = {
  object: { text: "grüße <&> 🌍", list: [1, 2.5, null, true], deep: { a: { b: {} } } },
  string: "plain",
  digits: "123",
  number: 42,
  zero: 0,
  no: false,
  array: [],
  long: "x".repeat(1_000_000),
  "a key, with: marks": 1,
};
const items = Object.entries(values).map(([key, value]) => ({ key, value }));
say("saved", await outcome(state.save(store, items)));
const back = {};
for (const key of Object.keys(values)) back[key] = await state.get(store, key);
say("same", JSON.stringify(back) === JSON.stringify(values));
say("absent", await state.get(store, "absent"));
say("strong", await state.get(store, "number", { consistency: StateConsistencyEnum.CONSISTENCY_STRONG }));

// bulk
const bulk = await state.getBulk(store, ["number", "string", "absent"], { parallelism: 2 });
say("bulk", bulk.map(({ key, data, etag }) => ({ key, data, etag: typeof etag })));

// etags
const old = await etagOf("number");
say("etag.right", await outcome(state.save(store, [{ key: "number", value: 43, etag: old }])));
say("etag.stale", await outcome(state.save(store, [{ key: "number", value: 44, etag: old }])));
say("etag.delete.stale", await outcome(state.delete(store, "number", { etag: old })));
say("etag.kept", await state.get(store, "number"));
say("etag.delete.right", await outcome(state.delete(store, "number", { etag: await etagOf("number") })));
say("etag.gone", await state.get(store, "number"));
const first = { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE };
say("first.new", await outcome(state.save(store, [{ key: "first", value: 1, options: first }])));
say("first.again", await outcome(state.save(store, [{ key: "first", value: 2, options: first }])));

// delete
say("delete", await outcome(state.delete(store, "string")));
say("delete.absent", await outcome(state.delete(store, "string")));

// time to live: of one item, and of the whole call
say("ttl.item", await outcome(state.save(store, [{ key: "short", value: 1, metadata: { ttlInSeconds: "1000" } }])));
say("ttl.call", await outcome(state.save(store, [{ key: "brief", value: 1 }], { metadata: { ttlInSeconds: 1000 } })));

// transactions
await state.transaction(store, [
  { operation: "upsert", request: { key: "t1", value: { n: 1 } } },
  { operation: "upsert", request: { key: "t2", value: "two", metadata: { ttlInSeconds: "1000" } } },
  { operation: "delete", request: { key: "first" } },
]);
say("transaction", [await state.get(store, "t1"), await state.get(store, "t2"), await state.get(store, "first")]);
await state.transaction(store, []);
const stale = [
  { operation: "upsert", request: { key: "t1", value: "lost" } },
  { operation: "upsert", request: { key: "t2", value: "lost", etag: "999" } },
];
say("transaction.stale", (await tried(() => state.transaction(store, stale))).error);
say("transaction.undone", await state.get(store, "t1"));
say("transaction.wrong", (await tried(() => state.transaction(store, [{ operation: "add", request: {} }]))).error);

// query
const people = ["Ada", "Ben", "Cleo", "Dan"].map((name, n) => ({
  key: `person-${n}`,
  value: { person: { name, city: n % 2 ? "Ulm" : "Kiel" }, age: 20 + n },
}));
await state.save(store, people);
const filter = { EQ: { "person.city": "Ulm" } };
const found = await state.query(store, { filter, sort: [{ key: "age", order: "DESC" }], page: { limit: 10 } });
say("query", found.results.map(({ key, data }) => [key, data.person.name]));
const either = { OR: [{ EQ: { "person.name": "Ada" } }, { IN: { age: [21, 22] } }] };
const pages = [];
for (let token; pages.length < 5; ) {
  const page = await state.query(store, { filter: either, sort: [{ key: "age" }], page: { limit: 2, token } });
  pages.push(page.results.map(({ key }) => key));
  token = page.token;
  if (!token || page.results.length < 2) break;
}
say("query.pages", pages);
say("query.none", await state.query(store, { filter: { EQ: { "person.city": "Rom" } }, sort: [], page: { limit: 5 } }));
say("query.wrong", (await tried(() => state.query(store, { filter: { LIKE: { a: 1 } } }))).error);

// many at a time
say("connections", connections);
const many = Array.from({ length: 60 }, (_, n) => n);
await Promise.all(many.map((n) => state.save(store, [{ key: `many-${n}`, value: n }])));
say("many", (await Promise.all(many.map((n) => state.get(store, `many-${n}`)))).every((value, n) => value === n));

// refusals
say("store.unknown.get", (await tried(() => state.get("nowhere", "k"))).error);
say("store.unknown.save", await outcome(state.save("nowhere", [{ key: "k", value: 1 }])));
say("store.unknown.query", (await tried(() => state.query("nowhere", {}))).error);
say("key.missing", await outcome(state.save(store, [{ value: 1 }])));
say("key.illegal", await outcome(state.save(store, [{ key: "a||b", value: 1 }])));
await client.stop();
