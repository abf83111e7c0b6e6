import { Refusal } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { HoldRequest, Holds } from "./holds.js";

/** A request that was refused for good: trying it again cannot help. */
export interface RefusedHold {
  child: Id;
  limit: "daily" | "monthly" | "total" | "balance";
  /** The period that the limit is of: 2026-11-23, 2026-11 or total; empty for the balance. */
  period: string;
  /** Ngonka that it needed. */
  wanted: bigint;
}

/**
 * The same money core; each refusal for a limit or the balance that no open hold causes is told to
 * `note`, which must not wait.
 */
export function noticing(holds: Holds, note: (refused: RefusedHold) => void): Holds {
  return {
    ...holds,
    async authorize(request) {
      try {
        return await holds.authorize(request);
      } catch (error) {
        const refused = error instanceof Refusal ? readRefused(error, request) : undefined;
        if (refused) note(refused);
        throw error;
      }
    },
  };
}

function readRefused({ reason, details }: Refusal, request: HoldRequest): RefusedHold | undefined {
  if (details.shouldRetry !== false) return undefined;
  const wanted = request.floor > 0n ? request.floor : request.amount;
  const { child } = request;
  if (reason === "insufficient_balance") return { child, limit: "balance", period: "", wanted };
  if (reason !== "child_key_limit_exceeded") return undefined;

  const { resets_at: resetsAt, daily_remaining: daily } = details.facts ?? {};
  if (resetsAt === undefined) return { child, limit: "total", period: "total", wanted };
  const last = new Date(Date.parse(resetsAt) - 1).toISOString();
  // On a month's last day both limits begin anew at one instant
  const monthly =
    resetsAt.slice(8, 10) === "01" && (daily === undefined || BigInt(daily) >= wanted);
  const limit = monthly ? "monthly" : "daily";
  return { child, limit, period: last.slice(0, monthly ? 7 : 10), wanted };
}
