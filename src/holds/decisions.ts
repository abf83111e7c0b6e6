import { type Refusal, refuse } from "../base/errors.js";
import type { Ngonka } from "../base/money.js";
import type { Authorized, Captured, HoldRequest, Remaining } from "./holds.js";
import type { AuthorizeAnswers, EndAnswers } from "./store.js";

/** What authorize_holds decided, as answers and refusals in the items' order. */
export function readAuthorized(
  items: readonly HoldRequest[],
  answers: AuthorizeAnswers,
): (Authorized | Refusal)[] {
  const times = answers.authorizedAt.map(toDate);
  return items.map((item, i) => {
    const at = times[(answers.accountOf[i] ?? 0) - 1] ?? new Date(0);
    const decision = Number(answers.decisions[i]);
    if (decision > 3) return refusalOf(decision, item, remainingAt(answers, i), at);
    return {
      amount: BigInt(answers.granted[i] ?? 0),
      authorizedAt: at,
      deadline: new Date(at.getTime() + item.seconds * 1_000),
      remaining: remainingAt(answers, i),
      repeated: decision === 1 ? null : decision === 2 ? "open" : "ended",
    };
  });
}

export function readCaptured(answers: EndAnswers, i: number): Captured | Refusal {
  switch (Number(answers.decisions[i])) {
    case 1:
    case 3:
      return {
        cost: BigInt(answers.costs[i] ?? 0),
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
  switch (Number(answers.decisions[i])) {
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

function remainingAt(answers: AuthorizeAnswers, i: number): Remaining {
  return {
    daily: left(answers.daily[i]),
    monthly: left(answers.monthly[i]),
    total: left(answers.total[i]),
  };
}

/**
 * Net of open holds, and never below zero, though a limit may have been lowered below what is used.
 */
function left(text: string | undefined): Ngonka | null {
  if (!text) return null;
  return text.startsWith("-") ? 0n : BigInt(text);
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
