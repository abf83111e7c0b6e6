import {
  type DescMethod,
  fromBinary,
  fromJson,
  type JsonValue,
  toBinary,
} from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";
import { expect } from "vitest";
import { ErrorInfoSchema, StatusSchema } from "../../src/gen/google/rpc/errors_pb.js";
import { type Command, streamByGrpc } from "../support/hold-stream.js";
import type { RestAnswer } from "../support/live-gateway.js";
import type { World } from "./world.js";

/** A refusal as any wire told it. `status` is HTTP's in REST, gRPC's number in RPC. */
export interface Outcome {
  status: number;
  reason: string;
  param: string | undefined;
}

/** What each reason is on the wire: gRPC's code, and the status of the plain-HTTP doors. */
export const STATUS: Record<string, { grpc: grpc.status; http: number }> = {
  child_key_limit_exceeded: { grpc: grpc.status.RESOURCE_EXHAUSTED, http: 402 },
  insufficient_balance: { grpc: grpc.status.FAILED_PRECONDITION, http: 402 },
  account_suspended: { grpc: grpc.status.FAILED_PRECONDITION, http: 403 },
  model_not_found: { grpc: grpc.status.NOT_FOUND, http: 404 },
  capture_exceeds_hold: { grpc: grpc.status.FAILED_PRECONDITION, http: 409 },
  hold_ended: { grpc: grpc.status.FAILED_PRECONDITION, http: 409 },
  child_key_inactive: { grpc: grpc.status.FAILED_PRECONDITION, http: 409 },
  request_too_large: { grpc: grpc.status.RESOURCE_EXHAUSTED, http: 413 },
  method_not_allowed: { grpc: grpc.status.UNIMPLEMENTED, http: 405 },
  invalid_api_key: { grpc: grpc.status.UNAUTHENTICATED, http: 401 },
  wrong_key_kind: { grpc: grpc.status.PERMISSION_DENIED, http: 403 },
  read_only_key: { grpc: grpc.status.PERMISSION_DENIED, http: 403 },
  not_found: { grpc: grpc.status.NOT_FOUND, http: 404 },
  email_taken: { grpc: grpc.status.ALREADY_EXISTS, http: 409 },
  idempotency_conflict: { grpc: grpc.status.ALREADY_EXISTS, http: 409 },
  invalid_request_error: { grpc: grpc.status.INVALID_ARGUMENT, http: 400 },
};

/** What a refusal in REST must be, by its reason. */
export const inRest = (reason: string, param?: string): Outcome => ({
  status: STATUS[reason]?.http ?? 0,
  reason,
  param,
});

/** What a refusal in RPC must be, by its reason. */
export const inRpc = (reason: string, param?: string): Outcome => ({
  status: STATUS[reason]?.grpc ?? 0,
  reason,
  param,
});

/** The words of a refusal, which stand in `metadata` for OpenRouter's clients. */
export function outcomeOfRest({ status, json }: RestAnswer): Outcome {
  const { metadata, ...plain } = (json.error ?? {}) as Record<string, unknown>;
  const error = (metadata ?? plain) as Record<string, string>;
  return { status, reason: error.code ?? JSON.stringify(json), param: error.param };
}

/**
 * Connect's own names of the codes are gRPC's in lower case; the HTTP status follows from the code.
 */
const CONNECT_HTTP: Record<string, number> = {
  invalid_argument: 400,
  failed_precondition: 400,
  unauthenticated: 401,
  permission_denied: 403,
  not_found: 404,
  already_exists: 409,
  resource_exhausted: 429,
  unimplemented: 501,
};

const pathOf = (method: DescMethod) => `/${method.parent.typeName}/${method.name}`;

export type Wire = (
  world: World,
  method: DescMethod,
  message: JsonValue,
  bearer: string | undefined,
) => Promise<Outcome>;

/** A unary call in JSON, as any HTTP client can make it. */
export const overConnect: Wire = async ({ gateway }, method, message, bearer) => {
  const answer = await gateway.rest(`POST ${pathOf(method)}`, {
    bearer,
    body: typeof message === "string" ? message : JSON.stringify(message),
    headers: { "content-type": "application/json" },
  });
  if (answer.status === 200) return { status: 0, reason: "accepted", param: undefined };
  const code = String(answer.json.code);
  expect(answer.status).toBe(CONNECT_HTTP[code]);
  const [detail] = (answer.json.details ?? []) as { value: string }[];
  const info = detail && fromBinary(ErrorInfoSchema, Buffer.from(detail.value, "base64"));
  const status = grpc.status[code.toUpperCase() as keyof typeof grpc.status];
  return {
    status,
    reason: info?.reason.toLowerCase() ?? JSON.stringify(answer.json),
    param: info?.metadata.param,
  };
};

/** A unary or streaming call of @grpc/grpc-js to one of the two ports that speak gRPC. */
export const overGrpc =
  (port: "grpc" | "http"): Wire =>
  ({ clients }, method, message, bearer) =>
    callGrpc(clients[port], method, message, bearer);

/** A command of HoldService as one of a stream's. */
export const overStream: Wire = async ({ gateway }, method, message, bearer) => {
  const value = fromJson(method.input, message);
  const command = { case: method.localName, value } as Command;
  const stream = streamByGrpc(gateway.grpc, bearer);
  const [result] = await stream.ask([command]);
  await stream.end();
  if (result?.case !== "refusal") return { status: 0, reason: "accepted", param: undefined };
  const { code, reason, metadata } = result.value;
  return { status: code, reason: reason.toLowerCase(), param: metadata.param };
};

function callGrpc(
  client: grpc.Client,
  method: DescMethod,
  message: JsonValue,
  bearer: string | undefined,
): Promise<Outcome> {
  const metadata = new grpc.Metadata();
  if (bearer) metadata.set("authorization", `Bearer ${bearer}`);
  const bytes = Buffer.from(toBinary(method.input, fromJson(method.input, message)));
  const call = client.makeServerStreamRequest(
    pathOf(method),
    (it: Buffer) => it,
    (it) => it,
    bytes,
    metadata,
  );
  return new Promise((resolve) => {
    call.resume();
    call.on("end", () => resolve({ status: 0, reason: "accepted", param: undefined }));
    call.on("error", (error: grpc.ServiceError) => resolve(outcomeOfGrpc(error)));
  });
}

function outcomeOfGrpc(error: grpc.ServiceError): Outcome {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const any = bytes instanceof Buffer ? fromBinary(StatusSchema, bytes).details[0] : undefined;
  const info = any && anyUnpack(any, ErrorInfoSchema);
  return {
    status: error.code,
    reason: info?.reason.toLowerCase() ?? error.message,
    param: info?.metadata.param,
  };
}
