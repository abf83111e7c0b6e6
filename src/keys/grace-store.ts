import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";
import type { KeyTable } from "./expiry-store.js";

export interface KeyInGrace {
  table: KeyTable;
  accountId: Id;
  name: string;
  hint: string;
  /** End of the grace of its replaced secret; null: it has none, or its end is on record. */
  until: Date | null;
  /** Milliseconds until then by the database's clock, zero or less once it has passed. */
  waitMs: number | null;
}

/** Finds a child or management key, deleted ones too. */
export async function findGrace(db: Db, id: Id): Promise<KeyInGrace | undefined> {
  const columns = db`
    account_id as "accountId", name, hint, previous_secret_until as until,
    ceil(extract(epoch from previous_secret_until - keytoll_clock()) * 1000)::float8 as "waitMs"`;
  const [row] = await db<KeyInGrace[]>`
    select 'child_key' as table, ${columns} from child_key where id = ${id}
    union all
    select 'management_key', ${columns} from management_key where id = ${id}`;
  return row;
}

/** Keys whose grace has ended without a record of it, longest ago first. */
export async function unrecordedGraces(db: Db, table: KeyTable, limit: number) {
  return await db<{ id: Id; accountId: Id }[]>`
    select id, account_id as "accountId" from ${db(table)}
     where previous_secret_until <= (select keytoll_clock())
     order by previous_secret_until limit ${limit}`;
}

/**
 * Records which of these graces have ended by their accounts' time. Their accounts are locked
 * already.
 *
 * @returns the keys for which it was recorded
 */
export async function recordGraceEnds(tx: Tx, table: KeyTable, ids: readonly Id[]): Promise<Id[]> {
  const { recorded } = only(
    await tx<{ recorded: Id[] }[]>`
      with ended as (
        update ${tx(table)} k set previous_secret_until = null
          from ${tx(table)} before, account a
         where k.id = any(${[...ids]}) and before.id = k.id and a.id = k.account_id
           and k.previous_secret_until <= greatest(keytoll_clock(), a.last_at)
        returning k.id, k.account_id, k.secret_version - 1 as version,
                  before.previous_secret_until as until),
      audited as (
        insert into audit_event (account_id, at, actor, action, subject, change)
        select account_id, greatest(keytoll_clock(), until), 'system', ${`${table}.grace_ended`},
               id, jsonb_build_object('version', version, 'until', until)
          from ended),
      told as (
        select id, pg_notify('key_changed', id::text) from ended)
      select coalesce(array_agg(id), '{}') as recorded from told`,
  );
  return recorded;
}
