import { LRUCache } from "lru-cache";
import type { Id } from "../base/ids.js";
import { MINUTE } from "../base/time.js";
import type { KeyCaller } from "./caller.js";
import type { SecretState } from "./key.js";

/** About 0.5 kB each. */
const MAX_CACHED = 50_000;
const TTL = MINUTE;

/** A key as it was when its secret was looked up. */
export interface FoundKey {
  /** Whom it makes of whoever shows it. */
  caller: KeyCaller;
  state: SecretState;
  /** Of a child: that of its management key. */
  parent: Pick<SecretState, "status" | "expiresAt"> | undefined;
  /** How many changes had been heard of when it was read. */
  changes: number;
}

/**
 * Found keys by the name of their secret, for a minute. One counts only if nothing was heard of its
 * key, its management key or its account since it was read: what changes is noted, instead of a way
 * back from each id to all that is kept for it.
 */
export function createKeyCache() {
  const found = new LRUCache<string, FoundKey>({ max: MAX_CACHED, ttl: TTL });
  // Kept for as long as what was read before may be
  const changed = new LRUCache<Id, number>({ max: MAX_CACHED, ttl: TTL });
  let changes = 0;
  let clearedAt = 0;

  function clear(): void {
    changes += 1;
    clearedAt = changes;
    found.clear();
    changed.clear();
  }

  const isAsRead = ({ caller, changes: since }: FoundKey): boolean => {
    if (since < clearedAt) return false;
    if (changed.size === 0) return true;
    const unheardOf = (id: Id) => (changed.get(id) ?? 0) <= since;
    if (!unheardOf(caller.managementKey) || !unheardOf(caller.account)) return false;
    return caller.kind === "management" || unheardOf(caller.child);
  };

  return {
    /** What is put is as old as this. */
    changes: () => changes,
    get(name: string): FoundKey | undefined {
      const key = found.get(name);
      return key !== undefined && isAsRead(key) ? key : undefined;
    },
    put(name: string, key: FoundKey): void {
      if (isAsRead(key)) found.set(name, key);
    },
    /** A key, a management key with its children, or an account with all its keys has changed. */
    forget(id: Id): void {
      // None may be dropped while something older than it is kept
      if (changed.size === MAX_CACHED) clear();
      changes += 1;
      changed.set(id, changes);
    },
    clear,
  };
}
