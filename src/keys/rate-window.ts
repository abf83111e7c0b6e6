import { LRUCache } from "lru-cache";
import { elapsed } from "../base/time.js";

const MAX_KEYS = 50_000;

/** Names a request to the limits that it holds a slot of. */
export type Entry = string;

/** What a request is counted against. */
export interface Limit {
  /** How many come in any 60 s, or how many run at once. */
  kind: "rate" | "slots";
  /** What it limits, for the operator: `key_rpm`. */
  name: string;
  /** Who is counted. */
  key: string;
  limit: number;
}

/** What a limit says of a request; times in milliseconds. */
export interface Said {
  /** What it had counted before this request. */
  used: number;
  /** Until it has room, where it has none now; 0 for slots, which nobody can foretell. */
  retryMs: number;
  /** Until the oldest request that it counts leaves it. */
  resetMs: number;
}

interface Times {
  /** When requests were allowed, in milliseconds, oldest first. */
  list: number[];
  /** Where the window begins in the list: what is before it counts no longer. */
  first: number;
}

export type LocalCounts = ReturnType<typeof createLocalCounts>;

/**
 * What this process has counted: sliding windows, `window` milliseconds long, of which the least
 * used are forgotten first, and the slots of what runs.
 */
export function createLocalCounts(window: number) {
  const times = new LRUCache<string, Times>({ max: MAX_KEYS, ttl: window, updateAgeOnGet: true });
  const slots = new Map<string, Set<Entry>>();

  function timesOf(key: string, now: number): Times | undefined {
    const known = times.get(key);
    if (!known) return undefined;
    while ((known.list[known.first] ?? now) <= now - window) known.first += 1;
    if (known.first > 64 && known.first * 2 > known.list.length) {
      known.list = known.list.slice(known.first);
      known.first = 0;
    }
    return known;
  }

  function look({ kind, key, limit }: Limit): Said {
    if (kind === "slots") return { used: slots.get(key)?.size ?? 0, retryMs: 0, resetMs: 0 };
    const now = elapsed();
    const { list, first } = timesOf(key, now) ?? { list: [], first: 0 };
    const used = list.length - first;
    const untilGone = (index: number) => (list[index] ?? now) + window - now;
    const retryMs = used >= limit ? untilGone(list.length - limit) : 0;
    return { used, retryMs, resetMs: untilGone(first) };
  }

  function countOne({ kind, key }: Limit, entry: Entry, at: number): void {
    if (kind === "slots") {
      const entries = slots.get(key);
      if (entries) entries.add(entry);
      else slots.set(key, new Set([entry]));
      return;
    }
    const known = timesOf(key, at);
    if (known) known.list.push(Math.max(at, known.list.at(-1) ?? at));
    else times.set(key, { list: [at], first: 0 });
  }

  return {
    /** What each limit would say, without counting. */
    look: (limits: readonly Limit[]): Said[] => limits.map(look),
    /** Counts a request that came at `at` (of `elapsed`), whether there is room or not. */
    count(limits: readonly Limit[], entry: Entry, at: number): void {
      for (const limit of limits) countOne(limit, entry, at);
    },
    leave(key: string, entry: Entry): void {
      const entries = slots.get(key);
      entries?.delete(entry);
      if (entries?.size === 0) slots.delete(key);
    },
    /** The slots of what runs, by key. */
    slots: slots as ReadonlyMap<string, ReadonlySet<Entry>>,
  };
}
