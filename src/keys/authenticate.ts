import { hash, randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { MINUTE, now } from "../base/time.js";
import { listen } from "../db/listen.js";
import type { Sql } from "../db/sql.js";
import type { AccountLimits, ChildCaller, KeyCaller } from "./caller.js";
import { works } from "./key.js";
import { createKeyCache, type FoundKey } from "./key-cache.js";
import { hashSecret, type KeyKind, kindOfSecret } from "./secret.js";
import {
  type ChildFacts,
  type FoundChild,
  findBySecrets,
  findChildById,
  type Found as Row,
} from "./store-secret.js";

/** About 0.2 kB each. */
const MAX_CHILDREN = 50_000;
const TTL = MINUTE;

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
  const cache = createKeyCache();
  const children = new LRUCache<Id, ChildFacts>({ max: MAX_CHILDREN, ttl: TTL });
  // Names in the cache are hashes too, so that no secret stays in memory; of this process alone,
  // and cheaper than an HMAC
  const salt = randomBytes(32).toString("base64");
  const asked = new Map<string, Promise<FoundKey | undefined>>();
  const readers = {
    child: secretReader(sql, "child"),
    management: secretReader(sql, "management"),
  };

  const evict = (key: Id): void => {
    asked.clear();
    cache.forget(key);
    children.delete(key);
  };
  const evictAll = (): void => {
    asked.clear();
    cache.clear();
    children.clear();
  };
  const ear = listen(sql, "key_changed", { heard: evict, connected: evictAll });

  async function lookUp(
    kind: KeyKind,
    secret: string,
    name: string,
  ): Promise<FoundKey | undefined> {
    const changes = cache.changes();
    const hashes = secrets.map((pepper) => hashSecret(secret, pepper));
    const row = await readers[kind](hashes);
    if (row === null) return undefined;
    const found = toFound(row, defaults, changes);
    cache.put(name, found);
    return found;
  }

  /** A secret that is not cached: one that is mistyped costs no look-up. */
  async function findNew(secret: string, name: string): Promise<FoundKey | undefined> {
    const kind = kindOfSecret(secret);
    return kind && (await lookUpOnce(kind, secret, name));
  }

  function lookUpOnce(kind: KeyKind, secret: string, name: string): Promise<FoundKey | undefined> {
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
      const changes = cache.changes();
      const row = await findChildById(sql, id);
      if (row && changes === cache.changes()) children.set(id, row);
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

function mayPass({ state, parent, caller }: FoundKey): boolean {
  const at = now();
  if (!works(state, caller.secretVersion, at)) return false;
  if (parent === undefined) return true;
  const parentExpired = parent.expiresAt !== null && parent.expiresAt.getTime() <= at;
  return parent.status === "active" && !parentExpired;
}

/** Field by field: spreads take microseconds, and this is done for each key that comes anew. */
function toFound(row: Row, defaults: AccountLimits, changes: number): FoundKey {
  const { status, expiresAt, secretVersion, previousSecretUntil } = row;
  const state = { status, expiresAt, secretVersion, previousSecretUntil };
  const { account, version } = row;
  if (row.kind === "management") {
    const { kind, key: managementKey, access } = row;
    const caller = { kind, account, managementKey, secretVersion: version, access };
    return { caller, state, parent: undefined, changes };
  }
  const { kind, key: child, managementKey, rateLimitRpm, models, costFields } = row;
  const caller: ChildCaller = {
    kind,
    account,
    child,
    managementKey,
    secretVersion: version,
    rateLimitRpm,
    accountLimits: limitsOf(row, defaults),
    models,
    costFields,
  };
  const parent = { status: row.parentStatus, expiresAt: row.parentExpiresAt };
  return { caller, state, parent, changes };
}

/** The defaults themselves where nothing else is set: nearly all callers share them. */
function limitsOf(
  { accountRpm, accountConcurrency }: Pick<FoundChild, "accountRpm" | "accountConcurrency">,
  defaults: AccountLimits,
): AccountLimits {
  if (accountRpm === null && accountConcurrency === null) return defaults;
  return {
    rateLimitRpm: inForce(accountRpm, defaults.rateLimitRpm),
    concurrency: inForce(accountConcurrency, defaults.concurrency),
  };
}

/** 0 lifts what is usual. */
const inForce = (own: number | null, usual: number | null): number | null =>
  own === 0 ? null : (own ?? usual);
