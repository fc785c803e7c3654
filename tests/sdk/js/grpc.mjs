// What the drivers over gRPC share: the options, and what the SDK makes of a refusal.

import { CommunicationProtocolEnum } from "@dapr/dapr";
import { options as http } from "./lines.mjs";

export const communicationProtocol = CommunicationProtocolEnum.GRPC;
export const options = { ...http, daprPort: process.env.DAPR_GRPC_PORT, communicationProtocol };

/** `done`, what the call gave, or its refusal taken apart. */
export async function outcome(call) {
  try {
    const value = await call();
    return value === undefined || JSON.stringify(value) === "{}" ? "done" : value;
  } catch (error) {
    return refusal(error);
  }
}

const CODES = [
  ...["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"],
  ...["PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"],
  ...["INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"],
];

/** Code, text, and the kinds of its details with the reason. The SDK packs some errors once more. */
export function refusal(thrown) {
  const { code, rawMessage, details } = thrown.error ?? thrown;
  if (!details) return { thrown: String(thrown.message ?? thrown) };
  const kinds = details.map(({ type }) => type.replace("google.rpc.", ""));
  const info = details.find(({ type }) => type === "google.rpc.ErrorInfo");
  return { code: CODES[code], message: rawMessage, kinds, reason: info ? reason(info.value) : null };
}

/** The first field of an ErrorInfo. */
function reason(bytes) {
  return bytes[0] === 10 ? Buffer.from(bytes.subarray(2, 2 + bytes[1])).toString() : null;
}
