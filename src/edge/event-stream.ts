import type { ServerResponse } from "node:http";
import { Refusal, toRefusal } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { MINUTE, SECOND } from "../base/time.js";
import type { EventStream } from "../inference/stream.js";

/** How a dialect says what no event of the stream itself says. */
export interface StreamWords {
  /** Keeps a silent connection open; clients skip it. */
  heartbeat: Buffer;
  /** The event, whole, that ends a stream which broke. */
  error(refusal: Refusal): string;
}

export interface Sending {
  response: ServerResponse;
  words: StreamWords;
  requestId: string;
  log: Log;
  /** Milliseconds of silence before a heartbeat; tests take fewer. */
  heartbeatEvery?: number;
}

const HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // Proxies in front of us must not collect what is to arrive at once
  "x-accel-buffering": "no",
};
/** Below the shortest patience of the proxies that stand between callers and us. */
const HEARTBEAT_EVERY = 15 * SECOND;
/** A reader that takes nothing for so long, not even a heartbeat, has gone. */
const READER_PATIENCE = 2 * MINUTE;

/**
 * Sends a stream as it comes, as fast as its reader reads. Where it breaks, the last event is an
 * error; where the reader hangs up, the stream is left, which cuts the upstream and settles the
 * bill.
 *
 * While nothing comes, heartbeats do, also before the first event: a model may think for minutes,
 * and a proxy that sees no byte closes the connection. From the first heartbeat on the status is
 * 200, and a refusal that comes later is an error event.
 *
 * @throws what `begun` is rejected with before any byte was sent: an ordinary refusal
 */
export async function sendEvents(begun: Promise<EventStream>, sending: Sending): Promise<void> {
  const { response, words, requestId, log, heartbeatEvery = HEARTBEAT_EVERY } = sending;
  const open = () => {
    if (response.headersSent) return;
    response.setTimeout(READER_PATIENCE, () => response.destroy());
    response.writeHead(200, { ...HEADERS, "x-request-id": requestId });
  };
  const silence = setTimeout(() => {
    silence.refresh();
    if (response.destroyed || response.writableNeedDrain) return;
    open();
    response.write(words.heartbeat);
  }, heartbeatEvery);
  try {
    for await (const bytes of await begun) {
      if (response.destroyed) break;
      open();
      if (!response.write(bytes)) await drained(response);
      silence.refresh();
    }
  } catch (error) {
    if (!response.headersSent) throw error;
    if (response.destroyed) return noteLate(error, requestId, log);
    if (!(error instanceof Refusal)) log.error({ err: error, requestId }, "stream failed");
    response.write(words.error(toRefusal(error)));
  } finally {
    clearTimeout(silence);
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
