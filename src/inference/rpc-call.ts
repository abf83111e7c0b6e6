import { createLine, type Line } from "../base/line.js";
import type { KeyedCall } from "../idempotency/creates.js";
import { checkIdempotencyKey } from "../idempotency/key.js";
import type { ChildCaller, Credentials } from "../keys/caller.js";
import type { Inference } from "./inference.js";
import type { Asked, Kind } from "./kind.js";
import type { EventStream } from "./stream.js";
import type { Json } from "./values.js";

/** What the handlers of inference know of a call. */
export interface InferenceCall extends KeyedCall, Credentials {
  /** Aborts when the caller hangs up. */
  signal: AbortSignal;
}

/**
 * Runs a call for an answer in one piece. With the metadata `idempotency-key` it runs once, and a
 * repeat gets the same answer, marked `idempotent-replayed: true`.
 *
 * @throws what the inference refuses, and invalid_request_error for a bad key
 */
export async function completeCall<Request extends Asked>(
  inference: Inference,
  { caller, call }: { caller: ChildCaller; call: InferenceCall },
  kind: Kind<Request>,
  asked: Request,
): Promise<Json> {
  const key = checkIdempotencyKey(call.idempotencyKey);
  if (key === undefined) return await inference.complete(caller, kind, asked, lineOf(call));
  const once = { key, requestId: call.requestId };
  const answer = await inference.completeOnce(caller, kind, asked, lineOf(call), once);
  if (answer.replayed) call.answerHeader("idempotent-replayed", "true");
  return JSON.parse(answer.text) as Json;
}

/** The same for a stream, which is not kept: a repeat is refused as `answer_not_kept`. */
export async function streamCall<Request extends Asked>(
  inference: Inference,
  { caller, call }: { caller: ChildCaller; call: InferenceCall },
  kind: Kind<Request>,
  asked: Request,
): Promise<EventStream> {
  const key = checkIdempotencyKey(call.idempotencyKey);
  if (key === undefined) return await inference.stream(caller, kind, asked, lineOf(call));
  const once = { key, requestId: call.requestId };
  return await inference.streamOnce(caller, kind, asked, lineOf(call), once);
}

function lineOf({ signal }: InferenceCall): Line {
  const line = createLine();
  const hangUp = () => line.abort(signal.reason as Error);
  if (signal.aborted) hangUp();
  else signal.addEventListener("abort", hangUp, { once: true });
  return line;
}
