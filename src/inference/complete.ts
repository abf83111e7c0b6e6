import { Refusal, refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Line } from "../base/line.js";
import type { Log } from "../base/log.js";
import type { Ngonka } from "../base/money.js";
import { askUpstream, noteCause, readAll } from "./ask.js";
import type { Asked, Kind } from "./kind.js";
import { openPayment, type Payer, type Paying, type Payment } from "./payment.js";
import type { Usage } from "./usage.js";
import { isObject, type Json } from "./values.js";

/** What keeps an answer for whoever repeats its request, before anybody is charged for it. */
export interface Keeping {
  /** Of the hold that the request opens. */
  hold: Id;
  /** @throws where the answer must not be charged */
  keep(answer: Json, usage: Usage, cost: Ngonka): Promise<void>;
}

/**
 * Runs a paid request in one piece: hold, upstream, capture, and only then the answer. Where the
 * upstream does not answer, or the caller hangs up before it has, the hold is voided.
 *
 * @param keeping absent: nobody will ask for the answer again
 * @returns the answer as its kind shows it, with our id and usage, and nothing that names the
 *   upstream
 * @throws what `openPayment` refuses, and the reasons for an upstream that fails
 */
export async function complete<Request extends Asked>(
  paying: Paying,
  payer: Payer,
  kind: Kind<Request>,
  request: Request,
  line: Line,
  keeping?: Keeping,
): Promise<Json> {
  const payment = await openPayment(paying, payer, kind.dialect, request, line, keeping?.hold);
  let shown: Json;
  let usage: Usage;
  try {
    const answer = await ask(payment, kind, request, paying.log);
    usage = kind.usage(request, answer, payment.maxTokens, payment.promptTokens);
    const { cost, paid } = payment.priceOf(usage);
    shown = kind.show(request, answer, { usage, cost: paid, costFields: payer.costFields });
    if (keeping) await keeping.keep(shown, usage, cost);
  } catch (error) {
    await payment.void();
    throw error;
  }
  await payment.capture(usage);
  return shown;
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
