import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";

export const KEY_TABLES = ["child_key", "management_key"] as const;
export type KeyTable = (typeof KEY_TABLES)[number];

export interface ExpiringKey {
  table: KeyTable;
  accountId: Id;
  name: string;
  hint: string;
  deleted: boolean;
  expiresAt: Date | null;
  /** True where the passing of this very expiresAt is on record. */
  recorded: boolean;
  /** Milliseconds until then by the database's clock, zero or less once it has passed. */
  waitMs: number | null;
}

/** Finds a child or management key, deleted ones too. */
export async function findExpiringKey(db: Db, id: Id): Promise<ExpiringKey | undefined> {
  const columns = db`
    account_id as "accountId", name, hint, status = 'deleted' as deleted, expires_at as "expiresAt",
    expiry_recorded is not distinct from expires_at as recorded,
    ceil(extract(epoch from expires_at - keytoll_clock()) * 1000)::float8 as "waitMs"`;
  const [row] = await db<ExpiringKey[]>`
    select 'child_key' as table, ${columns} from child_key where id = ${id}
    union all
    select 'management_key', ${columns} from management_key where id = ${id}`;
  return row;
}

/** Keys that have expired without a record of it, longest ago first. */
export async function unrecordedExpiries(db: Db, table: KeyTable, limit: number) {
  return await db<{ id: Id; accountId: Id }[]>`
    select id, account_id as "accountId" from ${db(table)}
     where expires_at <= (select keytoll_clock()) and expires_at is not null
       and status <> 'deleted' and expiry_recorded is distinct from expires_at
     order by expires_at limit ${limit}`;
}

/**
 * Records what has expired of these keys by their accounts' time, and moves that time on to the
 * expiry, so that no clock brings them back. Their accounts are locked already.
 *
 * @returns how many were recorded
 */
export async function recordExpired(tx: Tx, table: KeyTable, ids: readonly Id[]): Promise<number> {
  const { recorded } = only(
    await tx<{ recorded: number }[]>`
      with expired as (
        update ${tx(table)} k set expiry_recorded = k.expires_at
          from account a
         where k.id = any(${[...ids]}) and a.id = k.account_id and k.status <> 'deleted'
           and k.expires_at <= greatest(keytoll_clock(), a.last_at)
           and k.expiry_recorded is distinct from k.expires_at
        returning k.id, k.account_id, k.expires_at),
      moved_on as (
        update account a set last_at = e.at
          from (select account_id, max(expires_at) as at from expired group by 1) e
         where a.id = e.account_id and a.last_at < e.at),
      audited as (
        insert into audit_event (account_id, at, actor, action, subject, change)
        select account_id, greatest(keytoll_clock(), expires_at), 'system', ${`${table}.expired`},
          id,
               jsonb_build_object('expires_at', expires_at)
          from expired),
      told as (
        select pg_notify('key_changed', id::text) from expired)
      select count(*)::int as recorded from told`,
  );
  return recorded;
}
