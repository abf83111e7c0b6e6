import type { IncomingMessage, ServerResponse } from "node:http";
import { refuse } from "../base/errors.js";
import { createLine, type Line } from "../base/line.js";
import type { Log } from "../base/log.js";
import type { Sql } from "../db/sql.js";
import type { Inference } from "../inference/inference.js";
import type { Asked, Kind } from "../inference/kind.js";
import type { ChildCaller, Credentials } from "../keys/caller.js";
import type { RateLimiter } from "../keys/rate-limit.js";
import { type StreamWords, sendEvents } from "./event-stream.js";
import { type Asking, completeFor, streamFor } from "./inferring.js";

/** What the plain-HTTP doors of inference share, whatever their dialect. */
export interface DoorDeps {
  inference: Inference;
  limiter: RateLimiter;
  sql: Sql;
  /** Tells whose `gc-` key a bearer header has. @throws invalid_api_key, wrong_key_kind */
  requireChild(shown: Credentials): Promise<ChildCaller>;
  log: Log;
}

/**
 * Serves one request if its path is one of this door's.
 *
 * @param path without the query
 * @returns false where it is not, and nothing was done
 */
export type Door = (
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
) => Promise<boolean>;

export interface Visit {
  request: IncomingMessage;
  response: ServerResponse;
  requestId: string;
}

export type Serve<V = Visit> = (deps: DoorDeps, visit: V, caller: ChildCaller) => Promise<void>;

export interface Route<V = Visit> {
  verb: "GET" | "POST";
  serve: Serve<V>;
}

export const MAX_BODY_BYTES = 10 * 1024 * 1024;
export const MODELS = "/v1/models/";

/** Every path of these doors is served under /api too. */
export const withoutApi = (path: string): string =>
  path.startsWith("/api/") ? path.slice("/api".length) : path;

/** @throws method_not_allowed, and what authentication and the route refuse */
export async function take<V extends Visit>(
  deps: DoorDeps,
  route: Route<V>,
  visit: V,
): Promise<void> {
  if (visit.request.method !== route.verb) {
    visit.response.setHeader("allow", route.verb);
    throw refuse("method_not_allowed");
  }
  const caller = await deps.requireChild(authorizationOf(visit.request));
  await route.serve(deps, visit, caller);
}

/** The key that a request shows, as bearer or in `x-api-key`, and where from. */
export function authorizationOf({ headers, socket }: IncomingMessage): Credentials {
  const key = headers["x-api-key"];
  const bare = headers.authorization === undefined && key !== undefined;
  return {
    authorization: bare ? `Bearer ${key}` : headers.authorization,
    ip: socket.remoteAddress ?? "unknown",
  };
}

/** Runs a paid request and sends its answer, in one piece or as a stream in the dialect's words. */
export async function answer<Request extends Asked & { stream: boolean }>(
  { inference, log }: DoorDeps,
  asking: Asking,
  kind: Kind<Request>,
  asked: Request,
  words: () => StreamWords,
): Promise<void> {
  const { response, requestId } = asking;
  if (!asked.stream) {
    return sendText(response, await completeFor(inference, asking, kind, asked), requestId);
  }
  const events = streamFor(inference, asking, kind, asked);
  await sendEvents(events, { response, words: words(), requestId, log });
}

/** A visit of whom we know, and whose line we watch from now on. */
export const askingOf = ({ request, response, requestId }: Visit, caller: ChildCaller): Asking => ({
  request,
  response,
  requestId,
  caller,
  line: lineOf(response),
});

/** Aborts when the caller closes its connection before its answer is out. */
function lineOf(response: ServerResponse): Line {
  const line = createLine();
  if (response.destroyed) line.abort(hungUp());
  response.once("close", () => {
    if (!response.writableFinished) line.abort(hungUp());
  });
  return line;
}

/** The error of a broken connection, which nobody needs to hear of. */
const hungUp = () => Object.assign(new Error("the caller hung up"), { code: "ECONNRESET" });

/** As `sendJson`, for the hot path: node sends a text and its headers in one piece. */
export function sendText(response: ServerResponse, json: string, requestId: string): void {
  response.writeHead(200, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(json),
    "x-request-id": requestId,
  });
  response.end(json);
}

/** What stands behind the path. */
export const queryOf = ({ url = "" }: IncomingMessage): URLSearchParams =>
  new URLSearchParams(url.split("?").slice(1).join("?"));

export function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
