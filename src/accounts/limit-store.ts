import type { Id } from "../base/ids.js";
import type { Db, Tx } from "../db/sql.js";

/** What the operator set for an account: null where the default applies, 0 for no limit. */
export interface AccountRate {
  /** Most requests in any 60 s, of all keys together. */
  rateLimitRpm: number | null;
  /** Most requests that run at once. */
  concurrency: number | null;
}

/** Undefined where nothing was set. */
export async function findRate(db: Db, account: Id): Promise<AccountRate | undefined> {
  const [row] = await db<AccountRate[]>`
    select rate_limit_rpm as "rateLimitRpm", concurrency
      from account_rate where account_id = ${account}`;
  return row;
}

/** Sets it, and tells every gateway to forget the account's keys once this commits. */
export async function putRate(tx: Tx, account: Id, rate: AccountRate, at: Date): Promise<void> {
  await tx`
    insert into account_rate (account_id, rate_limit_rpm, concurrency, updated_at)
    values (${account}, ${rate.rateLimitRpm}, ${rate.concurrency}, ${at})
    on conflict (account_id) do update
       set rate_limit_rpm = excluded.rate_limit_rpm, concurrency = excluded.concurrency,
           updated_at = excluded.updated_at`;
  await tx`select pg_notify('key_changed', ${account})`;
}
