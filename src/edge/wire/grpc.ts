import { setMaxListeners } from "node:events";
import { type DescMethod, fromBinary, type Message } from "@bufbuild/protobuf";
import {
  type MethodDefinition,
  Server,
  ServerCredentials,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import type { Log } from "../../base/log.js";
import { SECOND } from "../../base/time.js";
import { encoderOf } from "./encoder.js";
import { implementationOf } from "./grpc-calls.js";
import type { Endpoint, Fields, ServiceTable } from "./handlers.js";
import { MAX_STREAMS } from "./listen.js";
import { MAX_MESSAGE_BYTES } from "./status.js";

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
 * @returns the port in use, and `close`, which reads no more requests of streams, lets running calls
 *   end for up to `graceMs` and then cuts them
 * @throws Error that names the port and GRPC_PORT where it is taken
 */
export async function listenGrpc({ services, log, port, host }: GrpcDoor) {
  const server = new Server({
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_concurrent_streams": MAX_STREAMS,
    // A peer that went without a word would otherwise stay connected for good.
    "grpc.keepalive_time_ms": KEEPALIVE,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT,
  });
  const closing = new AbortController();
  setMaxListeners(0, closing.signal);
  for (const { endpoints } of services) {
    const implementation = implementationsOf(endpoints, log, closing.signal);
    server.addService(definitionOf(endpoints), implementation);
  }
  const bound = await bind(server, host, port);
  return {
    port: bound,
    async close(graceMs: number) {
      closing.abort();
      await closeGrpc(server, graceMs);
    },
  };
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
type Definition = MethodDefinition<Buffer, Fields>;

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
    responseSerialize: encoderOf(method.output),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes) as Message & Fields,
  };
}

function implementationsOf(
  endpoints: readonly Endpoint[],
  log: Log,
  closing: AbortSignal,
): UntypedServiceImplementation {
  return Object.fromEntries(
    endpoints.map((endpoint) => [endpoint.method.name, implementationOf(endpoint, log, closing)]),
  );
}
