import { LRUCache } from "lru-cache";
import { elapsed } from "../base/time.js";

const MAX_KEYS = 50_000;

/** What a window says of a request; times in milliseconds. */
export interface Verdict {
  allowed: boolean;
  /** Requests in the window, this one included where it is allowed. */
  used: number;
  /** Until one more is allowed; 0 where this one is. */
  retryMs: number;
  /** Until the oldest request leaves the window. */
  resetMs: number;
}

interface Times {
  /** When requests were allowed, in milliseconds, oldest first. */
  list: number[];
  /** Where the window begins in the list: what is before it counts no longer. */
  first: number;
}

/**
 * Sliding windows of this process alone, `window` milliseconds long; the least used keys are
 * forgotten first.
 */
export function createWindows(window: number) {
  const times = new LRUCache<string, Times>({ max: MAX_KEYS, ttl: window, updateAgeOnGet: true });

  function timesOf(key: string, now: number): Times {
    const known = times.get(key);
    if (!known) {
      const fresh = { list: [], first: 0 };
      times.set(key, fresh);
      return fresh;
    }
    while ((known.list[known.first] ?? now) <= now - window) known.first += 1;
    if (known.first > 64 && known.first * 2 > known.list.length) {
      known.list = known.list.slice(known.first);
      known.first = 0;
    }
    return known;
  }

  return {
    /** Counts a request that was allowed elsewhere. */
    note(key: string): void {
      const now = elapsed();
      timesOf(key, now).list.push(now);
    },
    /** Counts a request where the window has room for it. */
    take(key: string, limit: number): Verdict {
      const now = elapsed();
      const { list, first } = timesOf(key, now);
      const used = list.length - first;
      const untilGone = (index: number) => (list[index] ?? now) + window - now;
      if (used >= limit) {
        const retryMs = untilGone(list.length - limit);
        return { allowed: false, used, retryMs, resetMs: untilGone(first) };
      }
      list.push(now);
      return { allowed: true, used: used + 1, retryMs: 0, resetMs: untilGone(first) };
    },
  };
}
