import type { Log } from "../base/log.js";
import type { Asked, Kind } from "./kind.js";
import type { Payment } from "./payment.js";
import { refusalOf } from "./refusals.js";
import type { BodyFor } from "./route.js";
import { acceptable } from "./strict.js";
import type { Exchange } from "./upstream.js";

const OK = 200;
/** Bytes that an answer in one piece may have. */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
const MAX_ERROR_BYTES = 64 * 1024;

/**
 * Asks the upstream of a paid request.
 *
 * @returns the answer while it arrives, its status a success
 * @throws the refusal that the caller may see; the status and the cause go to the log
 */
export async function askUpstream<Request extends Asked>(
  payment: Payment,
  kind: Kind<Request>,
  request: Request,
  log: Log,
): Promise<Exchange> {
  const { route, signal, maxTokens } = payment;
  signal.throwIfAborted();
  const bodyFor: BodyFor = (model, accepts) =>
    kind.body(accepts ? acceptable(request, accepts) : request, model, maxTokens);
  try {
    const exchange = await route.post(kind.path, bodyFor, signal);
    if (exchange.status === OK) return exchange;
    const error = await readAll(exchange, MAX_ERROR_BYTES);
    const { status, upstream } = exchange;
    log.warn({ upstream, status, hold: payment.id }, "the upstream has refused");
    throw refusalOf(exchange, error, request.passed);
  } catch (error) {
    noteCause(error, payment, undefined, log);
    throw error;
  }
}

/**
 * Reads an answer to its end, as text. Throws as `Exchange.read` does, and an Error where it is too
 * large.
 */
export async function readAll(exchange: Exchange, limit = MAX_ANSWER_BYTES): Promise<string> {
  const all: Buffer[] = [];
  let size = 0;
  for (let pieces = await exchange.read(); pieces; pieces = await exchange.read()) {
    for (const piece of pieces) size += piece.length;
    all.push(...pieces);
    if (size > limit) {
      exchange.cancel();
      throw new Error(`an upstream's answer is larger than ${limit} bytes`);
    }
  }
  return (all.length === 1 && all[0] ? all[0] : Buffer.concat(all)).toString("utf8");
}

/** Why an exchange failed stands in the refusal's cause, which no caller sees. */
export function noteCause(
  error: unknown,
  { id }: Payment,
  upstream: string | undefined,
  log: Log,
): void {
  if (!(error instanceof Error) || error.cause === undefined) return;
  log.warn({ err: error.cause, upstream, hold: id }, "the upstream has failed");
}
