// The shop: an ordinary Dapr app with the official JavaScript SDK over HTTP. Nothing in it knows which sidecar it has.
//
// Once a second it asks the kitchen for a price (invocation), notes the order (state) and announces it (topic `orders`).
// When the kitchen says that an order is ready (topic `ready`), it reads its note again and serves.

import { CommunicationProtocolEnum, DaprClient, DaprServer, HttpMethod } from "@dapr/dapr";

const daprHost = "127.0.0.1";
const daprPort = process.env.DAPR_HTTP_PORT ?? "3500";
const serverPort = process.env.APP_PORT ?? "6001";
const communicationProtocol = CommunicationProtocolEnum.HTTP;
const dishes = ["pizza", "soup", "pancakes"];
const orders = Number(process.env.ORDERS ?? Infinity); // how many to take; all of them when it is not said

const quiet = { level: "error" };
const client = new DaprClient({ daprHost, daprPort, communicationProtocol, logger: quiet });
const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort,
  communicationProtocol,
  clientOptions: { daprHost, daprPort, communicationProtocol, logger: quiet },
  logger: quiet,
});

let served = 0;

await server.pubsub.subscribe("pubsub", "ready", async ({ id }) => {
  const order = await client.state.get("statestore", `order-${id}`);
  console.log(`order ${id} is ready: ${order.dish} for ${order.price} cents`);
  served += 1;
});
await server.invoker.listen("served", async () => ({ served }), { method: HttpMethod.GET });
await server.start();

for (let id = 1; id <= orders; id += 1) {
  const dish = dishes[id % dishes.length];
  try {
    const { price } = await client.invoker.invoke("kitchen", `price/${dish}`, HttpMethod.GET);
    await client.state.save("statestore", [{ key: `order-${id}`, value: { id, dish, price } }]);
    await client.pubsub.publish("pubsub", "orders", { id, dish });
    console.log(`order ${id} taken: ${dish} for ${price} cents`);
  } catch (error) {
    console.log(`order ${id} has to wait: ${error.message ?? error}`);
  }
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
