import type { Signal } from "./line.js";

/**
 * The one place where a process reads its clock. Money never depends on it: that clock is the
 * database's.
 */
export const now = (): number => Date.now();

/** Milliseconds that only ever grow, for measuring how long something took. */
export const elapsed = (): number => performance.now();

export const SECOND = 1_000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** Resolves after `ms`, at once when `signal` aborts. */
export function pause(ms: number, signal?: Signal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}
