import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, lockAccounts, only, type Tx } from "../db/sql.js";
import type { Period } from "./periods.js";

/** Columns of child_key: which period is counted, and the counter. */
const COUNTERS = {
  day: { period: "day", used: "used_daily" },
  month: { period: "month", used: "used_monthly" },
} as const;

/** Milliseconds until an instant by the database's clock; zero or less once it has passed. */
export async function msUntil(db: Db, at: Date): Promise<number> {
  const { ms } = only(
    await db<{ ms: number }[]>`
      select ceil(extract(epoch from ${at}::timestamptz - keytoll_clock()) * 1000)::float8 as ms`,
  );
  return ms;
}

export interface ResetRow {
  keysRolled: bigint;
  requests: bigint;
  cost: Ngonka;
  finished: boolean;
}

export async function openReset(db: Db, { kind, firstDay }: Period): Promise<ResetRow> {
  await db`
    insert into period_reset (kind, period) values (${kind}, ${firstDay}) on conflict do nothing`;
  return only(
    await db<ResetRow[]>`
      select keys_rolled as "keysRolled", requests, cost, finished_at is not null as finished
        from period_reset where kind = ${kind} and period = ${firstDay}`,
  );
}

/** Sums up the roll-ups of the days of the ended period, and finishes its reset. */
export async function finishReset(db: Db, { kind, firstDay, ended }: Period): Promise<ResetRow> {
  return only(
    await db<ResetRow[]>`
      update period_reset r
         set requests = u.requests, cost = u.cost,
             finished_at = coalesce(r.finished_at, keytoll_clock())
        from (select coalesce(sum(requests), 0)::bigint as requests,
                     coalesce(sum(cost), 0)::bigint as cost
                from usage_rollup where day >= ${ended.firstDay} and day < ${firstDay}) u
       where r.kind = ${kind} and r.period = ${firstDay}
      returning r.keys_rolled as "keysRolled", r.requests, r.cost, true as finished`,
  );
}

export interface CounterPage {
  /** Last key that was looked at; null: there are no more. */
  last: Id | null;
  /**
   * Those of them whose counter still shows what was used in an earlier period, and their accounts.
   */
  keys: Id[];
  accounts: Id[];
}

/** Looks at the next `limit` child keys after `after`. */
export async function counterPage(
  db: Db,
  { kind, firstDay }: Period,
  after: Id,
  limit: number,
): Promise<CounterPage> {
  const { period, used } = COUNTERS[kind];
  return only(
    await db<CounterPage[]>`
      with page as (
        select id, account_id, ${db(period)} < ${firstDay} and ${db(used)} > 0 as idle
          from child_key where id > ${after} order by id limit ${limit})
      select (select id from page order by id desc limit 1) as last,
             coalesce(array_agg(id) filter (where idle), '{}') as keys,
             coalesce(array_agg(distinct account_id) filter (where idle), '{}') as accounts
        from page`,
  );
}

/**
 * Locks accounts and makes sure that their time has reached the period, so that nothing falls into
 * earlier ones.
 */
export async function enterPeriod(tx: Tx, { begins }: Period, accounts: Id[]): Promise<void> {
  await lockAccounts(tx, accounts);
  await tx`
    update account set last_at = ${begins} where id = any(${accounts}) and last_at < ${begins}`;
}

/** Key and counter together, never backwards; the count goes on record in the same transaction. */
export async function rollPage(tx: Tx, { kind, firstDay }: Period, keys: Id[]): Promise<void> {
  const { period, used } = COUNTERS[kind];
  await tx`
    with rolled as (
      update child_key set ${tx(period)} = ${firstDay}, ${tx(used)} = 0
       where id = any(${keys}) and ${tx(period)} < ${firstDay} and ${tx(used)} > 0
      returning id)
    update period_reset set keys_rolled = keys_rolled + (select count(*) from rolled)
     where kind = ${kind} and period = ${firstDay}`;
}

/** Accounts after `after` that may have usage captured since `since`. */
export async function accountsActiveSince(db: Db, since: Date, after: Id, limit: number) {
  const rows = await db<{ id: Id }[]>`
    select id from account
     where id > ${after} and (last_at >= ${since} or held > 0) order by id limit ${limit}`;
  return rows.map((row) => row.id);
}

/** True where the reset that began after `day` has finished, and so the day is summed up. */
export async function isSummedUp(db: Db, { firstDay }: Period): Promise<boolean> {
  const rows = await db`
    select from period_reset where kind = 'day' and period = ${firstDay}
      and finished_at is not null`;
  return rows.length > 0;
}

/**
 * Sums up an account's usage captured in the day that ended when `next` began. Finds it by number:
 * numbers and times of an account's usage grow together, while a late capture's id may be of any
 * day before.
 */
export async function rollUpAccount(db: Db, next: Period, account: Id): Promise<void> {
  const { begins: from, firstDay: day } = next.ended;
  await db`
    insert into usage_rollup
      (day, child_key_id, model, account_id, requests, input_tokens, output_tokens, cost)
    select ${day}::date, u.child_key_id, coalesce(u.model, ''), u.account_id, count(*),
           coalesce(sum(u.input_tokens), 0), coalesce(sum(u.output_tokens), 0), sum(u.request_cost)
      from ended_hold u
     where u.account_id = ${account}
       and u.usage_seq > coalesce((
             select e.usage_seq from ended_hold e
              where e.account_id = ${account} and e.usage_seq > 0 and e.ended_at < ${from}
              order by e.usage_seq desc limit 1), 0)
       and u.ended_at >= ${from} and u.ended_at < ${next.begins}
     group by 2, 3, 4 order by 2, 3
    on conflict (day, child_key_id, model) do update
       set requests = excluded.requests, input_tokens = excluded.input_tokens,
           output_tokens = excluded.output_tokens, cost = excluded.cost`;
}

export async function newestFinished(db: Db, kind: Period["kind"]): Promise<Date | null> {
  const { begins } = only(
    await db<{ begins: Date | null }[]>`
      select max(period)::timestamp at time zone 'UTC' as begins
        from period_reset where kind = ${kind} and finished_at is not null`,
  );
  return begins;
}
