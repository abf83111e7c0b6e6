import { type Id, newId } from "../../src/base/ids.js";
import { elapsed, pause, SECOND } from "../../src/base/time.js";
import { connect, type Sql } from "../../src/db/sql.js";

export const openPool = (url: string, max = 6): Sql => connect(url, { name: "bench", max });

/** When the keys expire that are made: `count` of them, evenly from one moment to the other. */
export interface Expiries {
  count: number;
  /** Seconds from now. */
  from: number;
  to: number;
}

const ACCOUNTS = 1_000;

/** Accounts with a management key each. */
export async function fillAccounts(sql: Sql): Promise<void> {
  const ids = Array.from({ length: ACCOUNTS }, newId);
  await sql`insert into account (id) select unnest(${ids}::uuid[])`;
  await sql`
    insert into management_key (id, account_id, name, hint, created_at, updated_at)
    select gen_random_uuid(), id, 'SaaS', 'gm-...last', now(), now() from account`;
}

/** Child keys, spread over the accounts. @param told whether the outbox knows of them */
export async function fillKeys(sql: Sql, expiries: Expiries, told: boolean): Promise<Id[]> {
  const { count, from, to } = expiries;
  const rows = await sql<{ id: Id }[]>`
    with made as (
      insert into child_key (id, account_id, management_key_id, name, hint, day, month, created_at,
        updated_at, expires_at)
      select gen_random_uuid(), m.account_id, m.id, 'client ' || i, 'gc-...last', t.day,
             date_trunc('month', t.day), t.now, t.now,
             t.now + make_interval(secs => ${from} + ${to - from}::float8 * i / ${count})
        from generate_series(1, ${count}) i
        join (select *, row_number() over (order by id) as n from management_key) m
          on m.n = i % ${ACCOUNTS} + 1
       cross join (select now(), (now() at time zone 'UTC')::date as day) t
      returning id),
    outboxed as (insert into outbox (kind, key) select 'key_expiry', id from made where ${told})
    select id from made`;
  return rows.map((row) => row.id);
}

/** Of sorted values. */
export const percentile = (sorted: number[], percent: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? 0;

export const counted = (n: number): string => n.toLocaleString("en-US");

/** Waits until `reached` answers true. @throws Error after `seconds` */
export async function until(
  what: string,
  seconds: number,
  reached: () => Promise<boolean>,
): Promise<number> {
  const start = elapsed();
  while (!(await reached())) {
    if (elapsed() - start > seconds * SECOND) throw new Error(`not in ${seconds} s: ${what}`);
    await pause(200);
  }
  return (elapsed() - start) / SECOND;
}
