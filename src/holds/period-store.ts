import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, lockAccounts, only, type Tx } from "../db/sql.js";
import type { Period } from "./periods.js";

/** Columns of child_key: which period is counted, and the counter. */
const COUNTERS = {
  day: { period: "day", used: "used_daily" },
  month: { period: "month", used: "used_monthly" },
} as const;

const CAPS = { day: "limit_daily", month: "limit_monthly" } as const;

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
export async function finishReset(tx: Tx, { kind, firstDay, ended }: Period): Promise<ResetRow> {
  await tx`select lock_rollups()`;
  return only(
    await tx<ResetRow[]>`
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

export interface UsagePage {
  /** Accounts that may have usage to sum up, ascending. */
  accounts: Id[];
  /** Those of them that something may still be captured in before the period begins. */
  open: Id[];
}

/**
 * The next accounts after `after` that were in use since `since`, or have usage that is not summed
 * up. What is captured for others before `begins` can only be because a clock stepped back.
 */
export async function usagePage(
  db: Db,
  { begins, since }: { begins: Date; since: Date },
  after: Id,
  limit: number,
): Promise<UsagePage> {
  return only(
    await db<UsagePage[]>`
      select coalesce(array_agg(id order by id), '{}') as accounts,
             coalesce(array_agg(id order by id) filter (where recent and last_at < ${begins}), '{}')
               as open
        from (select * from (
                select a.id, a.last_at, a.last_at >= ${since} or a.held > 0 as recent,
                       a.usage_seq > coalesce(r.seq, 0) as waiting
                  from account a left join usage_rolled r on r.account_id = a.id
                 where a.id > ${after}) x
               where recent or waiting order by id limit ${limit}) page`,
  );
}

/**
 * Adds up to `limit` records of accounts to the roll-ups: those captured before `until` that are
 * not in them yet. A transaction of its own.
 *
 * @returns whether more of them wait
 */
export async function rollUpUsage(db: Db, accounts: Id[], until: Date, limit: number) {
  const { more } = only(
    await db<{ more: boolean }[]>`
      select more from roll_up_usage(${accounts}::uuid[], ${until}, ${limit})`,
  );
  return more;
}

export interface ChildReset {
  child: Id;
  account: Id;
  /** In force now. */
  limit: Ngonka;
  /** Captured requests of the period that ended, and their cost. */
  requests: bigint;
  used: Ngonka;
}

export interface ChildPage {
  /** Last key that was looked at; null: there are no more. */
  last: Id | null;
  children: ChildReset[];
}

/** Looks at the next `limit` child keys after `after`. */
export async function usedChildren(
  db: Db,
  { kind }: Period,
  days: string[],
  after: Id,
  limit: number,
): Promise<ChildPage> {
  const rows = await db<(ChildReset & { looked: Id })[]>`
    select c.id as looked, c.id as child, c.account_id as account, c.cap as limit,
           coalesce(u.requests, 0)::bigint as requests, coalesce(u.cost, 0)::bigint as used
      from (select id, account_id, ${db(CAPS[kind])} as cap
              from child_key where id > ${after} order by id limit ${limit}) c
      left join lateral (
        select sum(r.requests) as requests, sum(r.cost) as cost from usage_rollup r
         where c.cap is not null and r.day = any(${days}::date[]) and r.child_key_id = c.id) u
        on true
     order by c.id`;
  return {
    last: rows.at(-1)?.looked ?? null,
    children: rows
      .filter(({ limit: cap, requests }) => cap !== null && requests > 0n)
      .map(({ looked: _, ...child }) => child),
  };
}

export async function newestFinished(db: Db, kind: Period["kind"]): Promise<Date | null> {
  const { begins } = only(
    await db<{ begins: Date | null }[]>`
      select max(period)::timestamp at time zone 'UTC' as begins
        from period_reset where kind = ${kind} and finished_at is not null`,
  );
  return begins;
}
