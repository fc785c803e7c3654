// How the drivers talk to the tests: a JSON object a line. The sidecar's port and the app's come from the environment.

import { CommunicationProtocolEnum, LogLevel } from "@dapr/dapr";

export const communicationProtocol = CommunicationProtocolEnum.HTTP;
export const daprHost = "127.0.0.1";
export const daprPort = process.env.DAPR_HTTP_PORT;
// Its log goes nowhere: the SDK logs failures that the drivers provoke, and the tests look at what it returns.
const nothing = () => {};
export const service = { error: nothing, warn: nothing, info: nothing, verbose: nothing, debug: nothing };
export const options = { daprHost, daprPort, communicationProtocol, logger: { level: LogLevel.Info, service } };

export function say(name, value = null) {
  process.stdout.write(JSON.stringify({ name, value }) + "\n");
}

/** What the call gave: `{ value }`, or what it threw, taken apart as the SDK packs it. */
export async function tried(call) {
  try {
    return { value: (await call()) ?? null };
  } catch (error) {
    return { error: unpacked(error) };
  }
}

/** The SDK's error: the answer's status, its reason, and its body, which is JSON itself when the sidecar wrote it. */
export function unpacked(error) {
  const packed = parsed(error.message);
  return typeof packed === "object" ? { ...packed, error_msg: parsed(packed.error_msg) } : packed;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
