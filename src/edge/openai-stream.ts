import type { ServerResponse } from "node:http";
import { Refusal, toRefusal } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { EventStream } from "../inference/stream.js";

const HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // Proxies in front of us must not collect what is to arrive at once
  "x-accel-buffering": "no",
};

/**
 * Sends a stream as it comes, as fast as its reader reads. Where it breaks, the last event is an
 * error object; where the reader hangs up, the stream is left, which cuts the upstream and settles
 * the bill.
 */
export async function sendEvents(
  response: ServerResponse,
  events: EventStream,
  requestId: string,
  log: Log,
): Promise<void> {
  try {
    for await (const bytes of events) {
      if (response.destroyed) break;
      if (!response.headersSent) {
        response.writeHead(200, { ...HEADERS, "x-request-id": requestId });
      }
      if (!response.write(bytes)) await drained(response);
    }
  } catch (error) {
    if (response.destroyed) return noteLate(error, requestId, log);
    if (!(error instanceof Refusal)) log.error({ err: error, requestId }, "stream failed");
    const { message, meaning, reason } = toRefusal(error);
    const body = { error: { message, type: meaning.type ?? reason, code: reason, param: null } };
    response.write(`data: ${JSON.stringify(body)}\n\n`);
  }
  response.end();
}

/** Resolves when more may be written, or when nobody reads any more. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done).off("close", done);
      resolve();
    };
    response.on("drain", done).on("close", done);
  });
}

/** Whoever hung up reads no error, but what went wrong with their bill must be found. */
function noteLate(error: unknown, requestId: string, log: Log): void {
  if (error instanceof Refusal) log.warn({ err: error, requestId }, "after the caller hung up");
}
