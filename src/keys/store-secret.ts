import type { Id } from "../base/ids.js";
import type { Db, Tx } from "../db/sql.js";
import { enqueue } from "../temporal/outbox.js";
import type { Access, CostFields } from "./caller.js";
import type { SecretState, StoredStatus } from "./key.js";
import type { KeyKind } from "./secret.js";

interface NewSecretRow {
  kind: KeyKind;
  key: Id;
  version: number;
  hash: Buffer;
  pepper: string;
  at: Date;
}

export async function insertSecret(tx: Tx, row: NewSecretRow): Promise<void> {
  await tx`
    insert into key_secret (hash, pepper, kind, key_id, version, created_at)
    values (${row.hash}, ${row.pepper}, ${row.kind}, ${row.key}, ${row.version}, ${row.at})`;
}

export interface FoundManagement extends SecretState {
  kind: "management";
  key: Id;
  account: Id;
  /** Version of the secret that was found. */
  version: number;
  access: Access;
}

export interface FoundChild extends SecretState {
  kind: "child";
  key: Id;
  account: Id;
  version: number;
  managementKey: Id;
  parentStatus: StoredStatus;
  parentExpiresAt: Date | null;
  rateLimitRpm: number | null;
  /** As the operator set them for this account: null where the default applies, 0 for no limit. */
  accountRpm: number | null;
  accountConcurrency: number | null;
  models: string[] | null;
  costFields: CostFields;
}

export type Found = FoundManagement | FoundChild;

/**
 * Finds the keys that secrets of one kind belong to.
 *
 * @param secrets each by its hashes under all peppers
 * @returns in their order; null for one that belongs to none
 */
export async function findBySecrets(
  db: Db,
  kind: KeyKind,
  secrets: readonly Buffer[][],
): Promise<(Found | null)[]> {
  const hashes = `{${secrets.flat().map(arrayItem).join(",")}}`;
  const rows: (Found & { hash: string })[] =
    kind === "child" ? await childrenBySecret(db, hashes) : await managersBySecret(db, hashes);
  const byHash = new Map(rows.map((row) => [row.hash, row]));
  const foundOf = (hash: Buffer): Found | undefined => byHash.get(hash.toString("hex"));
  return secrets.map((own) => own.map(foundOf).find((found) => found !== undefined) ?? null);
}

const arrayItem = (hash: Buffer): string => `"\\\\x${hash.toString("hex")}"`;

const managersBySecret = (db: Db, hashes: string) => db<(FoundManagement & { hash: string })[]>`
  select encode(s.hash, 'hex') as hash, s.kind, m.id as key, m.account_id as account, s.version,
         m.access, m.status, m.expires_at as "expiresAt", m.secret_version as "secretVersion",
         m.previous_secret_until as "previousSecretUntil"
    from key_secret s join management_key m on m.id = s.key_id
   where s.hash = any (${hashes}::text::bytea[]) and s.kind = 'management'`;

const childrenBySecret = (db: Db, hashes: string) => db<(FoundChild & { hash: string })[]>`
  select encode(s.hash, 'hex') as hash, s.kind, c.id as key, c.account_id as account, s.version,
         c.status, c.management_key_id as "managementKey", m.status as "parentStatus",
         m.expires_at as "parentExpiresAt", c.rate_limit_rpm as "rateLimitRpm", c.models,
         m.cost_fields as "costFields",
         r.rate_limit_rpm as "accountRpm", r.concurrency as "accountConcurrency",
         c.expires_at as "expiresAt", c.secret_version as "secretVersion",
         c.previous_secret_until as "previousSecretUntil"
    from key_secret s
    join child_key c on c.id = s.key_id
    join management_key m on m.id = c.management_key_id
    left join account_rate r on r.account_id = c.account_id
   where s.hash = any (${hashes}::text::bytea[]) and s.kind = 'child'`;

/** Whose a child is, which never changes, and which models it may use (null: all). */
export interface ChildFacts {
  account: Id;
  managementKey: Id;
  models: string[] | null;
}

export async function findChildById(db: Db, child: Id): Promise<ChildFacts | undefined> {
  const [row] = await db<ChildFacts[]>`
    select account_id as account, management_key_id as "managementKey", models
      from child_key where id = ${child}`;
  return row;
}

/**
 * Tells every gateway to forget the key, and the job that watches its expiry of a new time, once
 * this commits.
 */
export async function announceKey(tx: Tx, key: Id, timed: boolean): Promise<void> {
  await tx`select pg_notify('key_changed', ${key})`;
  if (timed) await enqueue(tx, { kind: "key_expiry", key });
}

/** Forgets replaced secrets of these keys that have no grace. */
export async function forgetReplacedSecrets(tx: Tx, keys: readonly Id[]): Promise<void> {
  await tx`select forget_replaced_secrets(${[...keys]})`;
}
