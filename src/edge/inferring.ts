import type { IncomingMessage, ServerResponse } from "node:http";
import type { Id } from "../base/ids.js";
import type { Line } from "../base/line.js";
import { checkIdempotencyKey } from "../idempotency/key.js";
import type { Inference } from "../inference/inference.js";
import type { Asked, Kind } from "../inference/kind.js";
import type { EventStream } from "../inference/stream.js";
import type { ChildCaller } from "../keys/caller.js";

/** A request at a plain-HTTP door of inference. */
export interface Asking {
  request: IncomingMessage;
  response: ServerResponse;
  requestId: Id;
  caller: ChildCaller;
  /** Aborts when the caller hangs up. */
  line: Line;
}

/**
 * Runs a request for an answer in one piece, whatever its door. With an `Idempotency-Key` it runs
 * once, and a repeat gets the same answer, marked `idempotent-replayed: true`.
 *
 * @returns the answer as JSON
 * @throws what the inference refuses, and invalid_request_error for a bad key
 */
export async function completeFor<Request extends Asked>(
  inference: Inference,
  { request, response, requestId, caller, line }: Asking,
  kind: Kind<Request>,
  asked: Request,
): Promise<string> {
  const key = idempotencyKeyOf(request);
  if (key === undefined) {
    return JSON.stringify(await inference.complete(caller, kind, asked, line));
  }
  const once = { key, requestId };
  const { text, replayed } = await inference.completeOnce(caller, kind, asked, line, once);
  if (replayed) response.setHeader("idempotent-replayed", "true");
  return text;
}

/**
 * Runs a request for a stream, whatever its door. With an `Idempotency-Key` it runs once; a repeat
 * is refused as `answer_not_kept`.
 */
export async function streamFor<Request extends Asked>(
  inference: Inference,
  { request, requestId, caller, line }: Asking,
  kind: Kind<Request>,
  asked: Request,
): Promise<EventStream> {
  const key = idempotencyKeyOf(request);
  if (key === undefined) return await inference.stream(caller, kind, asked, line);
  return await inference.streamOnce(caller, kind, asked, line, { key, requestId });
}

const idempotencyKeyOf = ({ headers }: IncomingMessage): string | undefined =>
  checkIdempotencyKey(headers["idempotency-key"] as string | undefined);
