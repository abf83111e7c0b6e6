import { type EventEmitter, once } from "node:events";
import { type DescMessage, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import {
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type StatusObject,
} from "@grpc/grpc-js";
import { refuse } from "../../base/errors.js";
import { newId } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { StatusSchema } from "../../gen/google/rpc/errors_pb.js";
import type { Call, CallContext, DuplexCall, Endpoint, Fields, StreamCall } from "./handlers.js";
import { PUSHBACK, toRpcFailure, toStatusMessage } from "./status.js";

/**
 * What this library runs for a method.
 *
 * @param closing aborts when streams shall be read no further
 */
export function implementationOf(endpoint: Endpoint, log: Log, closing: AbortSignal) {
  const { input } = endpoint.method;
  switch (endpoint.kind) {
    case "unary":
      return unary(input, endpoint.call, log);
    case "server_streaming":
      return serverStreaming(input, endpoint.call, log);
    case "bidi_streaming":
      return bidiStreaming(input, endpoint.call, log, closing);
  }
}

function decode(schema: DescMessage, bytes: Buffer): Message {
  try {
    return fromBinary(schema, bytes);
  } catch {
    throw refuse("invalid_request_error", { message: "the request is no valid protobuf message" });
  }
}

/** Requests as they come, until there are none or the server closes. */
async function* decodeAll(
  schema: DescMessage,
  all: AsyncIterator<Buffer>,
  closing: AbortSignal,
): AsyncIterable<Message> {
  let stop = () => {};
  const close = () => stop();
  closing.addEventListener("abort", close);
  try {
    while (!closing.aborted) {
      const next = await new Promise<IteratorResult<Buffer>>((resolve, reject) => {
        stop = () => resolve({ done: true, value: undefined });
        all.next().then(resolve, reject);
      });
      if (next.done) return;
      yield decode(schema, next.value);
    }
  } finally {
    closing.removeEventListener("abort", close);
    void all.return?.();
  }
}

function unary(
  input: DescMessage,
  handler: Call<Message, Fields>,
  log: Log,
): handleUnaryCall<Buffer, Fields> {
  return (call, callback) => {
    const caller = callerOf(call);
    const answer = async () => handler(decode(input, call.request), caller);
    // Headers leave with the answer: alone they would be a packet of their own
    answer().then(
      (message) => {
        sendHeaders(call, caller);
        callback(null, message);
      },
      // Without headers: with them a client takes the call for begun, and tries it never again
      (error) => callback(toGrpcStatus(error, caller, log)),
    );
  };
}

function serverStreaming(
  input: DescMessage,
  handler: StreamCall<Message, Fields>,
  log: Log,
): handleServerStreamingCall<Buffer, Fields> {
  return (call) => {
    const caller = callerOf(call);
    let begun = false;
    const writeBegun: Write = (sink, answer, signal) => {
      if (!begun) sendHeaders(call, caller);
      begun = true;
      return write(sink, answer, signal);
    };
    const start = () => handler(decode(input, call.request), caller);
    void send(call, start, writeBegun, caller, log);
  };
}

function bidiStreaming(
  input: DescMessage,
  handler: DuplexCall<Message, Fields>,
  log: Log,
  closing: AbortSignal,
): handleBidiStreamingCall<Buffer, Fields> {
  return (call) => {
    const caller = callerOf(call);
    sendHeaders(call, caller);
    // The end of the requests must not destroy the stream that the answers still need.
    const bytes = call.iterator({ destroyOnReturn: false });
    const requests = decodeAll(input, bytes, closing);
    void send(call, () => handler(requests, caller), writeOut, caller, log);
  };
}

type Sink = EventEmitter & { write(answer: Fields, written?: () => void): boolean; end(): unknown };
type Write = (sink: Sink, answer: Fields, signal: AbortSignal) => Promise<void>;

/** A reader that is slow must slow the handler down, not fill our memory. */
const write: Write = async (sink, answer, signal) => {
  if (!sink.write(answer)) await once(sink, "drain", { signal });
};

/** Waits until the answer is out: meanwhile the next one can grow. */
const writeOut: Write = (sink, answer, signal) =>
  new Promise((resolve) => {
    const done = () => {
      signal.removeEventListener("abort", done);
      resolve();
    };
    signal.addEventListener("abort", done);
    sink.write(answer, done);
  });

async function send(
  sink: Sink,
  start: () => AsyncIterable<Fields>,
  writeOne: Write,
  caller: CallContext,
  log: Log,
): Promise<void> {
  try {
    for await (const answer of start()) {
      if (caller.signal.aborted) return;
      await writeOne(sink, answer, caller.signal);
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

interface GrpcContext extends CallContext {
  /** Headers of the answer beside our own; undefined where nobody has added one. */
  added: Metadata | undefined;
}

function callerOf(call: AnyCall): GrpcContext {
  let cancelled = call.cancelled;
  let abort: AbortController | undefined;
  call.on("cancelled", () => {
    cancelled = true;
    abort?.abort();
  });
  const header = (name: string) => call.metadata.get(name)[0]?.toString();
  const caller: GrpcContext = {
    authorization: header("authorization"),
    requestId: newId(),
    // Made when first asked for: most calls never do, and it would be a tenth of their cost.
    get signal() {
      abort ??= new AbortController();
      if (cancelled && !abort.signal.aborted) abort.abort();
      return abort.signal;
    },
    ip: call.getPeer().replace(/^\[?(.*?)\]?:\d+$/, "$1"),
    get idempotencyKey() {
      return header("idempotency-key");
    },
    header,
    answerHeader(name, value) {
      caller.added ??= new Metadata();
      caller.added.set(name, value);
    },
    added: undefined,
  };
  return caller;
}

function sendHeaders(call: AnyCall, { requestId, added }: GrpcContext): void {
  const headers = added ?? new Metadata();
  headers.set("x-request-id", requestId);
  call.sendMetadata(headers);
}

function toGrpcStatus(error: unknown, caller: CallContext, log: Log): Partial<StatusObject> {
  const failure = toRpcFailure(error, caller, log);
  const metadata = new Metadata();
  metadata.set("x-request-id", caller.requestId);
  const status = toBinary(StatusSchema, toStatusMessage(failure));
  metadata.set("grpc-status-details-bin", Buffer.from(status));
  if (failure.pushback !== undefined) metadata.set(PUSHBACK, failure.pushback);
  return { code: failure.code as number, details: failure.message, metadata };
}
