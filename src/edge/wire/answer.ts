import type { IncomingMessage, ServerResponse } from "node:http";
import { Refusal, refuse, refuseField } from "../../base/errors.js";
import type { Log } from "../../base/log.js";
import { SECOND } from "../../base/time.js";
import { toAnswer } from "../../db/outage.js";

/** Sends an object as JSON, with the headers that every answer of the plain-HTTP doors has. */
export function sendJson(
  response: ServerResponse,
  status: number,
  body: object,
  requestId: string,
): void {
  const bytes = Buffer.from(JSON.stringify(body));
  response.statusCode = status;
  response.setHeader("content-type", "application/json");
  response.setHeader("content-length", bytes.length);
  response.setHeader("x-request-id", requestId);
  response.end(bytes);
}

/**
 * Answers with a refusal as `{"error": {message, type, code, param?, ...facts}}`. Anything but a
 * Refusal is logged, and becomes "internal error" or, where the database is away, "not ready". Where the answer has begun already, or the caller
 * is gone, the connection is cut instead.
 */
export function sendError(
  response: ServerResponse,
  error: unknown,
  requestId: string,
  log: Log,
): void {
  refuseWith(response, error, requestId, log, errorAnswer);
}

/** A refusal as our own routes and OpenAI's answer it. */
export const errorAnswer = (refusal: Refusal): { status: number; body: object } => ({
  status: refusal.meaning.http,
  body: { error: errorBody(refusal) },
});

/** As `sendError`, in the form that `bodyOf` gives to a refusal. */
export function refuseWith(
  response: ServerResponse,
  error: unknown,
  requestId: string,
  log: Log,
  bodyOf: (refusal: Refusal) => { status: number; body: object },
): void {
  if (!(error instanceof Refusal) && !isHangUp(error)) {
    log.error({ err: error, requestId }, "request failed");
  }
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const refusal = toAnswer(error);
  const { retryAfter, retryAfterMs, shouldRetry } = refusal.details;
  if (retryAfter !== undefined) {
    response.setHeader("retry-after", retryAfter);
    // What SDKs look for first
    response.setHeader("retry-after-ms", retryAfterMs ?? retryAfter * SECOND);
  }
  if (shouldRetry !== undefined) response.setHeader("x-should-retry", String(shouldRetry));
  const { status, body } = bodyOf(refusal);
  sendJson(response, status, body, requestId);
}

/** What reading a body meets where the caller closes its connection half-way. */
function isHangUp(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ECONNRESET";
}

function errorBody({ reason, message, meaning, details }: Refusal): Record<string, string> {
  return {
    type: meaning.type ?? reason,
    code: reason,
    message,
    ...(details.param !== undefined && { param: details.param }),
    ...details.facts,
  };
}

/**
 * Reads a whole body. Where it is too large or packed, the connection closes after the answer: the
 * rest of it is never read. Nothing is unpacked: no client of these doors packs what it sends, and
 * what a body grows to would be the caller's to choose.
 *
 * @throws request_too_large  more than `limit` bytes, declared or sent
 * @throws invalid_request_error  by the name `content-encoding`: packed
 */
export async function readBody(
  request: IncomingMessage,
  response: ServerResponse,
  limit: number,
): Promise<Buffer> {
  const packed = request.headers["content-encoding"];
  if (packed !== undefined && packed.toLowerCase() !== "identity") {
    closeAfter(request, response);
    throw refuseField("content-encoding", "send the body as it is, not packed");
  }
  const declared = Number(request.headers["content-length"] ?? 0);
  const body = declared > limit ? undefined : await collect(request, limit);
  if (body !== undefined) return body;

  closeAfter(request, response);
  throw refuse("request_too_large", {
    message: `the request body is larger than ${limit} bytes`,
    shouldRetry: false,
  });
}

/** HTTP/2 ends a stream by itself. */
function closeAfter(request: IncomingMessage, response: ServerResponse): void {
  if (request.httpVersionMajor === 1) response.setHeader("connection", "close");
}

/**
 * All bytes of a request; undefined where they are more than `limit`. By events: an iterator costs
 * a multiple.
 */
function collect(request: IncomingMessage, limit: number): Promise<Buffer | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const take = (chunk: Buffer) => {
      size += chunk.length;
      chunks.push(chunk);
      if (size <= limit) return;
      request.off("data", take).pause();
      resolve(undefined);
    };
    request.on("data", take);
    request.once("end", () =>
      resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks, size)),
    );
    request.once("error", reject);
    request.once("close", () => {
      // It closes after each request that is whole, too, and an error costs a stack
      if (!request.complete) reject(hungUp());
    });
  });
}

/** A caller that went away before its request was whole. */
const hungUp = () => Object.assign(new Error("the caller hung up"), { code: "ECONNRESET" });
