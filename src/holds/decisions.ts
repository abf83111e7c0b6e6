import { type Refusal, refuse } from "../base/errors.js";
import type { Ngonka } from "../base/money.js";
import type { AuthorizeAnswers, EndAnswers, EndItem } from "./batch-store.js";
import type { Authorized, Captured, HoldRequest, Remaining } from "./holds.js";

/** What authorize_holds decided, as answers and refusals in the items' order. */
export function readAuthorized(
  items: readonly HoldRequest[],
  answers: AuthorizeAnswers,
): (Authorized | Refusal)[] {
  const times = answers.authorizedAt.map(toDate);
  const limits = readLimits(answers);
  return items.map((item, i) => {
    const child = (answers.childOf[i] ?? 0) - 1;
    const limit = limits[child] ?? { daily: null, monthly: null, total: null, spent: 0n };
    const at = times[(answers.accountOfChild[child] ?? 0) - 1] ?? new Date(0);
    const decision = Number(answers.decisions?.[i] ?? 1);
    const amount = answers.granted ? BigInt(answers.granted[i] ?? 0) : item.amount;
    if (decision === 1) limit.spent += amount;
    if (decision > 3) return refusalOf(decision, item, remainingOf(limit), at);
    return {
      amount,
      authorizedAt: at,
      deadline: new Date(at.getTime() + item.seconds * 1_000),
      remaining: remainingOf(limit),
      repeated: decision === 1 ? null : decision === 2 ? "open" : "ended",
    };
  });
}

/** What a child had left before the batch, and what the items of the batch so far took of it. */
interface Limits extends Remaining {
  spent: Ngonka;
}

const readLimits = ({ daily, monthly, total }: AuthorizeAnswers): Limits[] =>
  daily.map((text, child) => ({
    daily: toAmount(text),
    monthly: toAmount(monthly[child]),
    total: toAmount(total[child]),
    spent: 0n,
  }));

const toAmount = (text: string | undefined): Ngonka | null => (text ? BigInt(text) : null);

export function readCaptured(item: EndItem, answers: EndAnswers, i: number): Captured | Refusal {
  switch (Number(answers.decisions?.[i] ?? 1)) {
    case 1:
    case 3:
      return {
        cost: answers.costs ? BigInt(answers.costs[i] ?? 0) : item.cost,
        held: BigInt(answers.held[i] ?? 0),
        usageSeq: BigInt(answers.usageSeqs[i] ?? 0),
        endedAt: toDate(answers.endedAt[i] ?? "0"),
      };
    case 5:
      return refuse("hold_ended");
    case 7:
      return refuse("capture_exceeds_hold");
    case 8:
      return refuse("idempotency_conflict", { shouldRetry: false });
    default:
      return refuse("not_found", { message: "no such hold" });
  }
}

export function readVoided(answers: EndAnswers, i: number): { endedAt: Date } | Refusal {
  switch (Number(answers.decisions?.[i] ?? 2)) {
    case 2:
    case 4:
      return { endedAt: toDate(answers.endedAt[i] ?? "0") };
    case 5:
      return refuse("hold_ended");
    default:
      return refuse("not_found", { message: "no such hold" });
  }
}

const toDate = (micros: string): Date => new Date(Number(micros) / 1_000);

/**
 * Net of open holds, and never below zero, though a limit may have been lowered below what is used.
 */
const remainingOf = ({ daily, monthly, total, spent }: Limits): Remaining => ({
  daily: left(daily, spent),
  monthly: left(monthly, spent),
  total: left(total, spent),
});

function left(before: Ngonka | null, spent: Ngonka): Ngonka | null {
  if (before === null) return null;
  return before > spent ? before - spent : 0n;
}

function refusalOf(decision: number, item: HoldRequest, remaining: Remaining, at: Date): Refusal {
  switch (decision) {
    case 4:
      return refuse("idempotency_conflict", { param: "hold_id", shouldRetry: false });
    case 5: // a child that is not there was refused before: this one is deleted
    case 6:
      return refuse(item.secretVersion > 0 ? "invalid_api_key" : "child_key_inactive");
    case 7:
      return refuse("account_suspended");
    case 8:
      return refuse("hold_ended");
    case 13:
    case 23:
      return refuse("insufficient_balance", retryOf(decision));
    default:
      return refuse("child_key_limit_exceeded", {
        ...retryOf(decision),
        facts: { ...remainingFacts(remaining), ...resetFacts(decision % 10, at) },
      });
  }
}

/**
 * Where only open holds are in the way, a second later may do; otherwise trying again is of no use.
 */
function retryOf(decision: number): { retryAfter?: number; shouldRetry: boolean } {
  return decision >= 20 ? { retryAfter: 1, shouldRetry: true } : { shouldRetry: false };
}

function remainingFacts({ daily, monthly, total }: Remaining): Record<string, string> {
  return {
    ...(daily === null ? {} : { daily_remaining: daily.toString() }),
    ...(monthly === null ? {} : { monthly_remaining: monthly.toString() }),
    ...(total === null ? {} : { total_remaining: total.toString() }),
  };
}

/** When the limit that refused (0 day, 1 month, 2 total) starts anew. */
function resetFacts(limit: number, at: Date): Record<string, string> {
  if (limit === 2) return {};
  const [year, month, day] = [at.getUTCFullYear(), at.getUTCMonth(), at.getUTCDate()];
  const reset = limit === 0 ? Date.UTC(year, month, day + 1) : Date.UTC(year, month + 1, 1);
  return { resets_at: new Date(reset).toISOString() };
}
