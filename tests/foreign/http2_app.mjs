// An app that speaks HTTP/2 without TLS by Node's own library. Prints what it sees, as a JSON object a line.
import { createServer, constants } from "node:http2";

const said = (name, value) => console.log(JSON.stringify({ name, value }));
const subscriptions = [{ pubsubname: "pubsub", topic: "orders", route: "/orders" }];

const answers = {
  "/dapr/subscribe": (stream) => json(stream, subscriptions),
  "/echo": (stream) => {
    stream.respond({ ":status": 200, "content-type": "application/octet-stream" });
    stream.pipe(stream);
  },
  "/headers": (stream, headers) => json(stream, headers),
  "/teapot": (stream) => {
    stream.respond({ ":status": 418, "x-kettle": "on" });
    stream.end("short and stout");
  },
  "/never": (stream) => {
    said("asked", stream.id);
    stream.on("close", () => said("closed", stream.rstCode));
  },
  "/refuse": (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR),
  "/orders": (stream) => {
    let body = "";
    stream.on("data", (data) => (body += data));
    stream.on("end", () => {
      said("event", JSON.parse(body));
      stream.respond({ ":status": 200 }, { endStream: true });
    });
  },
};

function json(stream, value) {
  stream.respond({ ":status": 200, "content-type": "application/json" });
  stream.end(JSON.stringify(value));
}

const server = createServer({ maxSessionMemory: 100 });
const sessions = new Set();
server.on("stream", (stream, headers) => {
  if (!sessions.has(stream.session)) said("session", sessions.add(stream.session).size);
  stream.on("error", () => {});
  const answer = answers[headers[":path"].split("?")[0]];
  if (answer) return answer(stream, headers);
  stream.respond({ ":status": 404 }, { endStream: true });
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => said("listening", server.address().port));
