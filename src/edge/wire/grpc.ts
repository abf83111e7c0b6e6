import { type EventEmitter, once } from "node:events";
import {
  type DescMessage,
  type DescMethod,
  fromBinary,
  type Message,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type StatusObject,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { refuse } from "../../base/errors.js";
import { newId } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { SECOND } from "../../base/time.js";
import { StatusSchema } from "../../gen/google/rpc/errors_pb.js";
import type {
  Call,
  CallContext,
  DuplexCall,
  Endpoint,
  ServiceTable,
  StreamCall,
} from "./handlers.js";
import { MAX_MESSAGE_BYTES, toRpcFailure, toStatusMessage } from "./status.js";

const KEEPALIVE = 60 * SECOND;
const KEEPALIVE_TIMEOUT = 20 * SECOND;

export interface GrpcDoor {
  services: ServiceTable;
  log: Log;
  /** Port to listen on; 0 means a free one. */
  port: number;
  host: string;
}

/**
 * Serves the table by gRPC on a port of its own: some seven times the calls a second of the shared
 * port.
 *
 * @returns the port in use, and `close`, which lets running calls end for up to `graceMs` and then
 *   cuts them
 * @throws Error that names the port and GRPC_PORT where it is taken
 */
export async function listenGrpc({ services, log, port, host }: GrpcDoor) {
  const server = new Server({
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    // A peer that went without a word would otherwise stay connected for good.
    "grpc.keepalive_time_ms": KEEPALIVE,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT,
  });
  for (const { endpoints } of services) {
    server.addService(definitionOf(endpoints), implementationOf(endpoints, log));
  }
  const bound = await bind(server, host, port);
  return { port: bound, close: (graceMs: number) => closeGrpc(server, graceMs) };
}

function bind(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`${host}:${port}`, ServerCredentials.createInsecure(), (error, bound) => {
      if (!error) resolve(bound);
      else if (!error.message.includes("EADDRINUSE")) reject(error);
      else reject(new Error(`port ${port} is taken: set GRPC_PORT to another one, or to 0`));
    });
  });
}

function closeGrpc(server: Server, graceMs: number): Promise<void> {
  return new Promise((resolve) => {
    const cut = setTimeout(() => server.forceShutdown(), graceMs);
    server.tryShutdown(() => {
      clearTimeout(cut);
      resolve();
    });
  });
}

/**
 * Requests stay bytes until their handler runs: what fails in this library's own reading is told as
 * INTERNAL.
 */
type Definition = MethodDefinition<Buffer, Message>;

function definitionOf(endpoints: readonly Endpoint[]): Record<string, Definition> {
  return Object.fromEntries(
    endpoints.map(({ method }) => [method.name, definitionOfMethod(method)]),
  );
}

function definitionOfMethod(method: DescMethod): Definition {
  const asBytes = (bytes: Buffer) => bytes;
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: method.methodKind === "bidi_streaming",
    responseStream: method.methodKind !== "unary",
    requestSerialize: asBytes,
    requestDeserialize: asBytes,
    responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
}

function decode(schema: DescMessage, bytes: Buffer): Message {
  try {
    return fromBinary(schema, bytes);
  } catch {
    throw refuse("invalid_request_error", { message: "the request is no valid protobuf message" });
  }
}

async function* decodeAll(schema: DescMessage, all: AsyncIterable<Buffer>): AsyncIterable<Message> {
  for await (const bytes of all) yield decode(schema, bytes);
}

function implementationOf(endpoints: readonly Endpoint[], log: Log): UntypedServiceImplementation {
  return Object.fromEntries(
    endpoints.map((endpoint) => [endpoint.method.name, implementationOfMethod(endpoint, log)]),
  );
}

function implementationOfMethod(endpoint: Endpoint, log: Log) {
  const { input } = endpoint.method;
  switch (endpoint.kind) {
    case "unary":
      return unary(input, endpoint.call, log);
    case "server_streaming":
      return serverStreaming(input, endpoint.call, log);
    case "bidi_streaming":
      return bidiStreaming(input, endpoint.call, log);
  }
}

function unary(
  input: DescMessage,
  handler: Call<Message, Message>,
  log: Log,
): handleUnaryCall<Buffer, Message> {
  return (call, callback) => {
    const caller = callerOf(call);
    const answer = async () => handler(decode(input, call.request), caller);
    answer().then(
      (message) => callback(null, message),
      (error) => callback(toGrpcStatus(error, caller, log)),
    );
  };
}

function serverStreaming(
  input: DescMessage,
  handler: StreamCall<Message, Message>,
  log: Log,
): handleServerStreamingCall<Buffer, Message> {
  return (call) => {
    const caller = callerOf(call);
    void send(call, () => handler(decode(input, call.request), caller), caller, log);
  };
}

function bidiStreaming(
  input: DescMessage,
  handler: DuplexCall<Message, Message>,
  log: Log,
): handleBidiStreamingCall<Buffer, Message> {
  return (call) => {
    const caller = callerOf(call);
    // The end of the requests must not destroy the stream that the answers still need.
    const requests = decodeAll(input, call.iterator({ destroyOnReturn: false }));
    void send(call, () => handler(requests, caller), caller, log);
  };
}

type Sink = EventEmitter & { write(answer: Message): boolean; end(): unknown };

async function send(
  sink: Sink,
  start: () => AsyncIterable<Message>,
  caller: CallContext,
  log: Log,
): Promise<void> {
  try {
    for await (const answer of start()) {
      if (caller.signal.aborted) return;
      // A reader that is slow must slow the handler down, not fill our memory.
      if (!sink.write(answer)) await once(sink, "drain", { signal: caller.signal });
    }
    sink.end();
  } catch (error) {
    sink.emit("error", toGrpcStatus(error, caller, log));
  }
}

interface AnyCall {
  metadata: Metadata;
  cancelled: boolean;
  getPeer(): string;
  sendMetadata(metadata: Metadata): void;
  on(event: "cancelled", listener: () => void): unknown;
}

function callerOf(call: AnyCall): CallContext {
  const requestId = newId();
  const headers = new Metadata();
  headers.set("x-request-id", requestId);
  call.sendMetadata(headers);

  let cancelled = call.cancelled;
  let abort: AbortController | undefined;
  call.on("cancelled", () => {
    cancelled = true;
    abort?.abort();
  });
  const header = (name: string) => call.metadata.get(name)[0]?.toString();
  return {
    authorization: header("authorization"),
    requestId,
    // Made when first asked for: most calls never do, and it would be a tenth of their cost.
    get signal() {
      abort ??= new AbortController();
      if (cancelled && !abort.signal.aborted) abort.abort();
      return abort.signal;
    },
    ip: call.getPeer().replace(/^\[?(.*?)\]?:\d+$/, "$1"),
    idempotencyKey: header("idempotency-key"),
    header,
  };
}

function toGrpcStatus(error: unknown, caller: CallContext, log: Log): Partial<StatusObject> {
  const failure = toRpcFailure(error, caller, log);
  const metadata = new Metadata();
  metadata.set("x-request-id", caller.requestId);
  const status = toBinary(StatusSchema, toStatusMessage(failure));
  metadata.set("grpc-status-details-bin", Buffer.from(status));
  return { code: failure.code as number, details: failure.message, metadata };
}
