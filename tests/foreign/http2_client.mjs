// A client of the HTTP API that speaks HTTP/2 by Node's own library. Prints what it sees, as a JSON object a line.
import { connect, constants } from "node:http2";
import { once } from "node:events";

const said = (name, value) => console.log(JSON.stringify({ name, value }));
const session = connect(`http://127.0.0.1:${process.argv[2]}`, { maxSessionMemory: 100 });

async function ask(method, path, body, headers = {}) {
  const stream = session.request({ ":method": method, ":path": path, ...headers }, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  const [found] = await once(stream, "response");
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return { status: found[":status"], headers: found, body: Buffer.concat(pieces) };
}

const json = { "content-type": "application/json" };
const items = JSON.stringify([{ key: "a", value: { n: 1 } }]);
said("saved", (await ask("POST", "/v1.0/state/statestore", items, json)).status);
const got = await ask("GET", "/v1.0/state/statestore/a");
said("got", [got.status, got.body.toString(), got.headers["content-length"], "connection" in got.headers]);
const head = await ask("HEAD", "/v1.0/healthz");
said("head", [head.status, head.body.length]);
const many = await Promise.all(Array.from({ length: 50 }, () => ask("GET", "/v1.0/state/statestore/a")));
said("many", many.every((answer) => answer.body.toString() === '{"n":1}'));
said("unknown", (await ask("GET", "/v1.0/nothing")).status);
const large = Buffer.alloc(20_000_000, "x");
const echoed = await ask("POST", "/v1.0/invoke/app/method/echo", large, { "content-type": "application/octet-stream" });
said("echoed", [echoed.status, echoed.body.equals(large)]);
const expecting = session.request({
  ":method": "POST", ":path": "/v1.0/invoke/app/method/echo", expect: "100-continue", "content-length": "2",
});
await once(expecting, "continue");
expecting.end("hi");
let body = "";
for await (const piece of expecting) body += piece;
said("continued", body);
const never = session.request({ ":path": "/v1.0/invoke/app/method/never" });
setTimeout(() => never.close(constants.NGHTTP2_CANCEL), 500);
await once(never, "close");
said("left", true);
said("pinged", await new Promise((resolve) => session.ping((error) => resolve(error === null))));
session.close();
await once(session, "close");
