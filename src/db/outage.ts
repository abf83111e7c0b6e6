import { type Refusal, refuse, toRefusal } from "../base/errors.js";
import { elapsed, pause } from "../base/time.js";

const LOST = new Set([
  "CONNECTION_CLOSED",
  "CONNECTION_DESTROYED",
  "CONNECTION_ENDED",
  "CONNECT_TIMEOUT",
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "ENOTFOUND",
  "53300", // too many connections
  "57P01", // shutting down
  "57P02", // crashed
  "57P03", // starting up
]);
/**
 * Deadlock and serialization failure: all of the transaction was undone, the same again may
 * succeed.
 */
const UNDONE = new Set(["40P01", "40001"]);

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : "";

/** True where the database was not reached or its answer was lost: the outcome is unknown. */
export function isOutage(error: unknown): boolean {
  const code = codeOf(error);
  return LOST.has(code) || code.startsWith("08");
}

/** Disk, memory or connections of the database are used up. */
const isExhausted = (error: unknown): boolean => codeOf(error).startsWith("53");

/** True for what says nothing of what was asked: the same again may succeed. */
export const isPassing = (error: unknown): boolean =>
  isOutage(error) || isExhausted(error) || UNDONE.has(codeOf(error));

/**
 * What a caller may learn of any error: that the database is away or full is `not_ready`, which
 * passes, and no error of ours.
 */
export function toAnswer(error: unknown): Refusal {
  if (isOutage(error) || isExhausted(error)) return refuse("not_ready", { retryAfter: 1 });
  return toRefusal(error);
}

/**
 * Runs `work` again while the database is away or undid it. Only for work that may run twice: the
 * same ids, the same effect.
 *
 * @param patience milliseconds after which the last error is given up to the caller
 */
export async function withPatience<T>(patience: number, work: () => Promise<T>): Promise<T> {
  const start = elapsed();
  for (let wait = 20; ; wait = Math.min(wait * 2, 500)) {
    try {
      return await work();
    } catch (error) {
      const again = isOutage(error) || UNDONE.has(codeOf(error));
      if (!again || elapsed() - start > patience) throw error;
      await pause(wait);
    }
  }
}
