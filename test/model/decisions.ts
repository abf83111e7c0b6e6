import { type Reason, Refusal } from "../../src/base/errors.js";
import type { Authorized, Captured } from "../../src/holds/holds.js";
import { dayOf, type Hold, leftOf, type Micros, monthOf, type World } from "./model.js";

/** Decisions of the batch functions in the model's words, and what a caller is told of each. */

export const HOLD_DECISIONS: Record<number, string> = {
  1: "held",
  2: "held before",
  3: "held before, ended since",
  4: "other content",
  5: "no such child",
  6: "key not active",
  7: "account suspended",
  8: "first hold not open",
  10: "daily limit",
  11: "monthly limit",
  12: "total limit",
  13: "balance",
  20: "daily limit, for now",
  21: "monthly limit, for now",
  22: "total limit, for now",
  23: "balance, for now",
};

export const END_DECISIONS: Record<number, string> = {
  1: "captured",
  2: "voided",
  3: "captured before",
  4: "voided before",
  5: "ended otherwise",
  6: "no such hold",
  7: "above the hold",
  8: "other end before",
  9: "not due",
};

const REASONS: Record<string, Reason> = {
  "other content": "idempotency_conflict",
  "no such child": "child_key_inactive",
  "key not active": "child_key_inactive",
  "account suspended": "account_suspended",
  "first hold not open": "hold_ended",
  "ended otherwise": "hold_ended",
  "no such hold": "not_found",
  "above the hold": "capture_exceeds_hold",
  "other end before": "idempotency_conflict",
  balance: "insufficient_balance",
};

const millis = (at: Micros): number => Math.floor(at / 1_000);
const told = (reason: string, retry: unknown, facts: object): string =>
  `${reason}, retry ${retry ?? "-"} ${JSON.stringify(facts)}`;

/** An answer or refusal as a line. */
export function inLine(answer: Authorized | Captured | { endedAt: Date } | Refusal): string {
  if (answer instanceof Refusal) {
    const { shouldRetry, retryAfter, facts = {} } = answer.details;
    return told(answer.reason, retryAfter ?? shouldRetry, facts);
  }
  if ("remaining" in answer) {
    const { daily, monthly, total } = answer.remaining;
    return `${answer.amount}, left ${daily ?? "-"}/${monthly ?? "-"}/${total ?? "-"}`;
  }
  const cost = "cost" in answer ? `${answer.cost} as ${answer.usageSeq} ` : "";
  return `${cost}at ${answer.endedAt.getTime()}`;
}

/** The line that must answer a hold, read right after it was decided. */
export function expectedHold(
  world: World,
  { child, version }: { child: number; version: number },
  { word, amount }: { word: string; amount: bigint },
  now: Micros,
): string {
  const limited = word.includes("limit");
  if (!word.startsWith("held") && !limited && !word.startsWith("balance")) {
    const bySecret = REASONS[word] === "child_key_inactive" && version > 0;
    const reason = bySecret ? "invalid_api_key" : REASONS[word];
    return told(reason ?? word, word === "other content" ? false : undefined, {});
  }
  const retry = word.endsWith("for now") ? 1 : false;
  if (word.startsWith("balance")) return told("insufficient_balance", retry, {});

  const { daily, monthly, total } = leftOf(world, child, now);
  const shown = (left: bigint | null) => (left === null || left > 0n ? left : 0n);
  if (!limited) {
    const left = [daily, monthly, total].map((it) => shown(it) ?? "-");
    return `${amount}, left ${left.join("/")}`;
  }
  const facts = Object.entries({
    daily_remaining: shown(daily)?.toString(),
    monthly_remaining: shown(monthly)?.toString(),
    total_remaining: shown(total)?.toString(),
    resets_at: resetAfter(word, now),
  }).filter(([, fact]) => fact !== undefined);
  return told("child_key_limit_exceeded", retry, Object.fromEntries(facts));
}

/** When the limit that refused starts anew. */
function resetAfter(word: string, now: Micros): string | undefined {
  if (word.startsWith("total")) return undefined;
  const next = new Date(word.startsWith("daily") ? dayOf(now) : monthOf(now));
  if (word.startsWith("daily")) next.setUTCDate(next.getUTCDate() + 1);
  else next.setUTCMonth(next.getUTCMonth() + 1);
  return next.toISOString();
}

/** The line that must answer the end of a hold. */
export function expectedEnd(hold: Hold | undefined, how: string, word: string): string {
  const refused = REASONS[word];
  if (refused || !hold) {
    return told(refused ?? word, word === "other end before" ? false : undefined, {});
  }
  const cost = how === "void" ? "" : `${hold.cost} as ${hold.seq} `;
  return `${cost}at ${millis(hold.endedAt)}`;
}
