import { hash, randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { MINUTE, now } from "../base/time.js";
import { listen } from "../db/listen.js";
import type { Sql } from "../db/sql.js";
import type { AccountLimits, KeyCaller } from "./caller.js";
import { works } from "./key.js";
import { hashSecret, type KeyKind, kindOfSecret } from "./secret.js";
import {
  type ChildFacts,
  findBySecrets,
  findChildById,
  type Found as Row,
} from "./store-secret.js";

/** About 0.5 kB each. */
const MAX_CACHED = 50_000;
const TTL = MINUTE;

/** A key with whom it makes of whoever shows it. */
type Found = Row & { caller: KeyCaller };

const UNLIMITED: AccountLimits = { rateLimitRpm: null, concurrency: null };

export interface Keyring {
  /**
   * Tells whose secret this is. @throws invalid_api_key, one refusal for whatever is wrong with it
   */
  find(secret: string): Promise<KeyCaller>;
  /**
   * A child by its id, deleted ones too; whether it may spend is for authorize to decide. Undefined
   * where there is none.
   */
  findChild(id: Id): Promise<ChildFacts | undefined>;
  /** Forgets a key, for a management key its children too, for an account all its keys. */
  evict(id: Id): void;
  stop(): Promise<void>;
}

/**
 * Authenticates secrets of keys, from a cache that forgets a key as soon as Postgres tells of its
 * change. Status, expiry and grace are judged by the clock at each use; what is spent is decided by
 * authorize alone, which reads the rows again. Unknown secrets are never cached.
 *
 * A secret that is known and refused is answered sooner than an unknown one. That tells nobody
 * anything: to ask, one must hold the whole secret, and who holds it knows that it was issued. A
 * guess is a look-up by its keyed hash, which takes as long however near it comes.
 *
 * @param secrets  peppers, newest first
 * @param defaults what an account may send for which the operator has set nothing else
 */
export function createKeyring(
  sql: Sql,
  secrets: readonly string[],
  defaults: AccountLimits = UNLIMITED,
): Keyring {
  const cache = createCache();
  const children = new LRUCache<Id, ChildFacts>({ max: MAX_CACHED, ttl: TTL });
  // Names in the cache are hashes too, so that no secret stays in memory; of this process alone,
  // and cheaper than an HMAC
  const salt = randomBytes(32).toString("base64");
  const asked = new Map<string, Promise<Found | undefined>>();
  const readers = {
    child: secretReader(sql, "child"),
    management: secretReader(sql, "management"),
  };
  // Grows with each change that is heard of, so that a row read before it is not cached after it
  let changes = 0;

  const evict = (key: Id): void => {
    changes += 1;
    asked.clear();
    cache.forget(key);
    children.delete(key);
  };
  const evictAll = (): void => {
    changes += 1;
    asked.clear();
    cache.clear();
    children.clear();
  };
  const ear = listen(sql, "key_changed", { heard: evict, connected: evictAll });

  async function lookUp(kind: KeyKind, secret: string, name: string): Promise<Found | undefined> {
    const seen = changes;
    const hashes = secrets.map((pepper) => hashSecret(secret, pepper));
    const row = await readers[kind](hashes);
    const found = row === null ? undefined : { ...row, caller: toCaller(row, defaults) };
    if (found && seen === changes) cache.put(name, found);
    return found;
  }

  /** A secret that is not cached: one that is mistyped costs no look-up. */
  async function findNew(secret: string, name: string): Promise<Found | undefined> {
    const kind = kindOfSecret(secret);
    return kind && (await lookUpOnce(kind, secret, name));
  }

  function lookUpOnce(kind: KeyKind, secret: string, name: string): Promise<Found | undefined> {
    const underWay = asked.get(name);
    if (underWay) return underWay;
    const answer = lookUp(kind, secret, name).finally(() => {
      if (asked.get(name) === answer) asked.delete(name);
    });
    asked.set(name, answer);
    return answer;
  }

  return {
    async find(secret) {
      const name = hash("sha256", salt + secret, "base64");
      const found = cache.get(name) ?? (await findNew(secret, name));
      if (!found || !mayPass(found)) throw refuse("invalid_api_key");
      return found.caller;
    },
    async findChild(id) {
      const known = children.get(id);
      if (known) return known;
      const seen = changes;
      const row = await findChildById(sql, id);
      if (row && seen === changes) children.set(id, row);
      return row;
    },
    evict,
    stop: () => ear.stop(),
  };
}

/**
 * Reads what is asked for in one turn of the event loop in one query: a gateway that starts knows
 * none of its callers. No turn waits for another's query.
 */
function secretReader(sql: Sql, kind: KeyKind): (hashes: Buffer[]) => Promise<Row | null> {
  let asked: Buffer[][] = [];
  let reading: Promise<(Row | null)[]> | undefined;
  const read = async () => {
    await new Promise(setImmediate);
    const secrets = asked;
    asked = [];
    reading = undefined;
    return await findBySecrets(sql, kind, secrets);
  };
  return async (hashes) => {
    const place = asked.push(hashes) - 1;
    reading ??= read();
    return (await reading)[place] ?? null;
  };
}

/** Found keys by the hash of their secret, with a way back from the key's id. */
function createCache() {
  const namesOf = new Map<Id, Set<string>>();
  const found = new LRUCache<string, Found>({
    max: MAX_CACHED,
    ttl: TTL,
    dispose: (row, name) => {
      for (const id of idsOf(row)) {
        const names = namesOf.get(id);
        names?.delete(name);
        if (names?.size === 0) namesOf.delete(id);
      }
    },
  });
  return {
    get: (name: string) => found.get(name),
    put(name: string, row: Found): void {
      found.set(name, row);
      for (const id of idsOf(row)) {
        const names = namesOf.get(id) ?? new Set();
        namesOf.set(id, names.add(name));
      }
    },
    forget(id: Id): void {
      for (const name of [...(namesOf.get(id) ?? [])]) found.delete(name);
    },
    clear: () => found.clear(),
  };
}

const idsOf = (row: Found): Id[] =>
  row.kind === "child" ? [row.key, row.managementKey, row.account] : [row.key];

function mayPass(found: Found): boolean {
  const at = now();
  if (!works(found, found.version, at)) return false;
  if (found.kind === "management") return true;
  const parentExpired = found.parentExpiresAt !== null && found.parentExpiresAt.getTime() <= at;
  return found.parentStatus === "active" && !parentExpired;
}

function toCaller(row: Row, defaults: AccountLimits): KeyCaller {
  const { account, version: secretVersion } = row;
  if (row.kind === "management") {
    const { kind, key: managementKey, access } = row;
    return { kind, account, managementKey, secretVersion, access };
  }
  const { kind, key: child, managementKey, rateLimitRpm, models, costFields } = row;
  const inForce = (own: number | null, usual: number | null) => (own === 0 ? null : (own ?? usual));
  const accountLimits = {
    rateLimitRpm: inForce(row.accountRpm, defaults.rateLimitRpm),
    concurrency: inForce(row.accountConcurrency, defaults.concurrency),
  };
  return {
    ...{ kind, account, child, managementKey, secretVersion },
    ...{ rateLimitRpm, accountLimits, models, costFields },
  };
}
