import type { IncomingMessage, ServerResponse } from "node:http";
import type { DescMessage, DescMethod } from "@bufbuild/protobuf";
import {
  ConnectError,
  type ConnectRouter,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { refuse } from "../../base/errors.js";
import { newId } from "../../base/ids.js";
import type { Log } from "../../base/log.js";
import { ErrorInfoSchema, RetryInfoSchema } from "../../gen/google/rpc/errors_pb.js";
import { sendError } from "./answer.js";
import type { CallContext, Endpoint, ServiceTable } from "./handlers.js";
import { MAX_MESSAGE_BYTES, PUSHBACK, toRpcFailure } from "./status.js";
import { explainUndecoded, toReadingRefusal } from "./undecoded.js";

const ip = createContextKey("", { description: "address of the peer" });

export interface ConnectDoor {
  services: ServiceTable;
  log: Log;
  /** Takes every request that is not a method of the table. */
  fallback: (request: IncomingMessage, response: ServerResponse) => void;
  /** Aborts the calls that still run when the process stops. */
  shutdown?: AbortSignal;
}

/**
 * Serves the table by Connect, gRPC and gRPC-web, told apart by content type, over HTTP/1.1 and
 * HTTP/2. Messages up to 10 MiB; JSON fields that the request does not have are refused by name.
 */
export function connectHandler({ services, log, fallback, shutdown }: ConnectDoor) {
  const adapter = connectNodeAdapter({
    routes: (router) => addRoutes(router, services, log),
    // Over HTTP/2 these are node's compatibility objects, which our doors use like those of
    // HTTP/1.1.
    fallback: (request, response) =>
      fallback(request as IncomingMessage, response as ServerResponse),
    contextValues: (request) =>
      createContextValues().set(ip, request.socket?.remoteAddress ?? "unknown"),
    jsonOptions: { ignoreUnknownFields: false },
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
    ...(shutdown && { shutdownSignal: shutdown }),
  });
  const paths = new Set(
    services.flatMap(({ endpoints }) =>
      endpoints.map(({ method }) => `/${method.parent.typeName}/${method.name}`),
    ),
  );
  return (request: IncomingMessage, response: ServerResponse): void => {
    if (request.method !== "POST" && paths.has(request.url?.split("?", 1)[0] ?? "")) {
      response.setHeader("allow", "POST");
      sendError(response, refuse("method_not_allowed"), newId(), log);
      return;
    }
    // The adapter throws where path and Host make no URL, and nobody above us would catch it.
    try {
      adapter(request, response);
    } catch {
      const refusal = refuse("invalid_request_error", { message: "the path or Host is not valid" });
      sendError(response, refusal, newId(), log);
    }
  };
}

function addRoutes(router: ConnectRouter, services: ServiceTable, log: Log): void {
  for (const { endpoints } of services) {
    for (const endpoint of endpoints) addRoute(router, endpoint, log);
  }
  explainUndecoded(router);
}

function addRoute(router: ConnectRouter, endpoint: Endpoint, log: Log): void {
  if (endpoint.kind === "unary") {
    const { call, method } = endpoint;
    router.rpc(method as DescMethod & { methodKind: "unary" }, async (request, context) => {
      const caller = callerOf(context);
      try {
        return await call(request, caller);
      } catch (error) {
        throw toConnectError(error, caller, context, log);
      }
    });
  } else if (endpoint.kind === "server_streaming") {
    const { call, method } = endpoint;
    const typed = method as DescMethod & { methodKind: "server_streaming" };
    router.rpc(typed, (request, context) => {
      const caller = callerOf(context);
      return explained(() => call(request, caller), caller, context, log);
    });
  } else {
    const { call, method } = endpoint;
    const typed = method as DescMethod & { methodKind: "bidi_streaming" };
    router.rpc(typed, (requests, context) => {
      const caller = callerOf(context);
      const readable = refusing(requests, method.input);
      return explained(() => call(readable, caller), caller, context, log);
    });
  }
}

async function* refusing<I>(requests: AsyncIterable<I>, input: DescMessage): AsyncIterable<I> {
  try {
    yield* requests;
  } catch (error) {
    throw toReadingRefusal(error, input);
  }
}

async function* explained<O>(
  start: () => AsyncIterable<O>,
  caller: CallContext,
  context: HandlerContext,
  log: Log,
) {
  try {
    yield* start();
  } catch (error) {
    throw toConnectError(error, caller, context, log);
  }
}

function callerOf(context: HandlerContext): CallContext {
  const header = (name: string) => context.requestHeader.get(name) ?? undefined;
  const requestId = newId();
  context.responseHeader.set("x-request-id", requestId);
  return {
    authorization: header("authorization"),
    requestId,
    signal: context.signal,
    ip: context.values.get(ip),
    idempotencyKey: header("idempotency-key"),
    header,
    answerHeader: (name, value) => context.responseHeader.set(name, value),
  };
}

function toConnectError(
  error: unknown,
  caller: CallContext,
  { protocolName }: HandlerContext,
  log: Log,
): ConnectError {
  const { code, message, errorInfo, retryInfo, pushback } = toRpcFailure(error, caller, log);
  // gRPC's clients join headers and trailers, and would find it twice
  const metadata: Record<string, string> =
    protocolName === "connect"
      ? { "x-request-id": caller.requestId }
      : { ...(pushback !== undefined && { [PUSHBACK]: pushback }) };
  const answer = new ConnectError(message, code, metadata);
  if (errorInfo) answer.details.push({ desc: ErrorInfoSchema, value: errorInfo });
  if (retryInfo) answer.details.push({ desc: RetryInfoSchema, value: retryInfo });
  return answer;
}
