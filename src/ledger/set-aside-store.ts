import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";

/** An account whose usage cannot be posted, for now. */
export interface SetAside {
  account: Id;
  reason: string;
  /** In vain, since it was set aside. */
  attempts: number;
  since: Date;
  lastAt: Date;
  nextAt: Date;
}

/** Notes that an account could not be posted. The next try is in 30 s, then 1 min, up to an hour. */
export async function setAside(db: Db, account: Id, reason: string): Promise<void> {
  await db`
    insert into settlement_set_aside as s (account_id, reason, next_at)
    values (${account}, ${reason.slice(0, 1_000)}, keytoll_clock() + interval '30 seconds')
    on conflict (account_id) do update
       set reason = excluded.reason, last_at = excluded.last_at, settled_at = null,
           since = case when s.settled_at is null then s.since else excluded.since end,
           attempts = case when s.settled_at is null then s.attempts + 1 else 1 end,
           next_at = excluded.last_at + least(interval '1 hour', interval '30 seconds' * case
             when s.settled_at is null then power(2, least(s.attempts, 20)) else 1 end)`;
}

/** Notes that an account was posted. @returns whether it had been set aside */
export async function takeBack(db: Db, account: Id): Promise<boolean> {
  const rows = await db`
    update settlement_set_aside set settled_at = keytoll_clock()
     where account_id = ${account} and settled_at is null
    returning account_id`;
  return rows.length > 0;
}

/** Makes an account due at once. @returns whether it is set aside */
export async function makeDue(tx: Tx, account: Id): Promise<boolean> {
  const rows = await tx`
    update settlement_set_aside set next_at = keytoll_clock()
     where account_id = ${account} and settled_at is null
    returning account_id`;
  return rows.length > 0;
}

/** Accounts that are set aside, longest first: of one shard, or of all (null). */
export async function listSetAside(
  db: Db,
  shard: number | null,
  limit: number,
): Promise<SetAside[]> {
  return await db<SetAside[]>`
    select account_id as account, reason, attempts, since, last_at as "lastAt",
           next_at as "nextAt"
      from settlement_set_aside
     where settled_at is null and (${shard}::int is null or shard_of(account_id) = ${shard}::int)
     order by since, account_id limit ${limit}`;
}

/** The instant that an operator's order is noted at. */
export async function clock(db: Db): Promise<Date> {
  return only(await db<{ at: Date }[]>`select keytoll_clock() as at`).at;
}

/** Whether the audit trail has an order already. */
export async function isNoted(db: Db, account: Id | null, id: string): Promise<boolean> {
  const rows = await db`
    select from audit_event
     where ${account ? db`account_id = ${account}` : db`account_id is null`}
       and change ->> 'order' = ${id}
     limit 1`;
  return rows.length > 0;
}
