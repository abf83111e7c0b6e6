import { Refusal, refuse } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { askUpstream, noteCause, readAll } from "./ask.js";
import type { Asked, Kind } from "./kind.js";
import { isObject, type Json } from "./parameters.js";
import { openPayment, type Payer, type Paying, type Payment } from "./payment.js";

/**
 * Runs a paid request in one piece: hold, upstream, capture, and only then the answer. Where the
 * upstream does not answer, or the caller hangs up before it has, the hold is voided.
 *
 * @returns the answer as its kind shows it, with our id and usage, and nothing that names the
 *   upstream
 * @throws what `openPayment` refuses, and the reasons for an upstream that fails
 */
export async function complete<Request extends Asked>(
  paying: Paying,
  payer: Payer,
  kind: Kind<Request>,
  request: Request,
  line: AbortController,
): Promise<Json> {
  const payment = await openPayment(paying, payer, kind.dialect, request, line);
  let answer: Json;
  try {
    answer = await ask(payment, kind, request, paying.log);
  } catch (error) {
    await payment.void();
    throw error;
  }
  const usage = kind.usage(request, answer, payment.maxTokens);
  const cost = await payment.capture(usage);
  return kind.show(request, answer, { usage, cost });
}

async function ask<Request extends Asked>(
  payment: Payment,
  kind: Kind<Request>,
  request: Request,
  log: Log,
): Promise<Json> {
  const exchange = await askUpstream(payment, kind, request, log);
  try {
    const answer: unknown = JSON.parse(await readAll(exchange));
    if (!isObject(answer)) throw new Error("the upstream's answer is no object");
    kind.check(answer);
    return answer;
  } catch (error) {
    if (payment.signal.aborted) throw payment.signal.reason;
    const { upstream } = exchange;
    if (error instanceof Refusal) {
      noteCause(error, payment, upstream, log);
      throw error;
    }
    log.warn({ upstream, hold: payment.id, why: String(error) }, "unreadable answer");
    throw refuse("model_unavailable");
  }
}
