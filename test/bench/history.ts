import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { newId } from "../../src/base/ids.js";
import { elapsed, SECOND } from "../../src/base/time.js";
import { connect, only, type Sql } from "../../src/db/sql.js";
import { settleShard } from "../../src/ledger/ledger.js";

const USAGE = `Usage: node --import ./src/typescript.mjs test/bench/history.ts --database URL [--records N] [--children N]
         [--accounts N] [--months N] [--unsettled]

Fills a migrated database with a past: usage records (1e6) of child keys (1,000) of accounts (8),
evenly spread over months (6) up to a minute ago, such that keytoll check finds nothing wrong.
Settled by settle_account itself, or left unsettled. Running it again adds further accounts.`;

export interface History {
  /** Captured requests, over all accounts. */
  records: number;
  /** Child keys, over all accounts. */
  children: number;
  accounts: number;
  /** How far back the first record lies. */
  months: number;
  settled: boolean;
}

/** What was made: accounts, and the child keys of each in the same order. */
export interface Filled {
  accounts: string[];
  childrenOf(account: string): Promise<string[]>;
}

const CHUNK = 250_000;
const PAID_IN = 10n ** 17n;
const SHARDS = 4;

/**
 * Writes a past into a migrated database by set-based SQL, with every index and trigger in place.
 * The books are right afterwards: gapless usage numbers, counters, limits, balances, and a chain of
 * posts where it is settled.
 *
 * @param say is told of each step
 */
export async function fillHistory(
  url: string,
  history: History,
  say: (line: string) => void = () => {},
): Promise<Filled> {
  const sql = connect(url, { name: "history", max: 1 });
  const start = elapsed();
  const tell = (what: string) => say(`${((elapsed() - start) / SECOND).toFixed(1)} s  ${what}`);
  try {
    const past = await openPast(sql, history);
    const accounts = await openAccounts(sql, past);
    for (let from = 0; from < history.records; from += CHUNK) {
      await writeRecords(sql, past, from, Math.min(from + CHUNK, history.records));
      if (from % 1_000_000 === 0) tell(`${(from + CHUNK).toLocaleString("en-US")} records`);
    }
    await writeChildren(sql, past);
    await closeAccounts(sql, past);
    tell(`${history.children.toLocaleString("en-US")} child keys`);
    if (history.settled) await settleAll(sql);
    if (history.settled) tell("settled");
    for (const table of ["ended_hold", "child_key", "child_limit", "account", "transfer"]) {
      await sql.unsafe(`vacuum (analyze) ${table}`);
    }
    tell("vacuumed");
    return { accounts, childrenOf: (account) => childrenOf(url, account) };
  } finally {
    await sql.end();
  }
}

interface Past extends History {
  /** First and last instant of a record, epoch milliseconds. */
  first: number;
  last: number;
}

/**
 * Makes the partitions, and what knows which id stands for which number: ids are UUIDv7, and the
 * rest is a hash of this run and the number.
 */
async function openPast(sql: Sql, history: History): Promise<Past> {
  const run = newId();
  const { first, last } = only(
    await sql<{ first: number; last: number }[]>`
      select (extract(epoch from t - make_interval(months => ${history.months})) * 1000)::int8::float8
               as first, (extract(epoch from t) * 1000)::int8::float8 as last
        from (select keytoll_clock() - interval '1 minute') as x(t)`,
  );
  await sql.unsafe(`
    create or replace function pg_temp.past_id(what text, ms bigint, n bigint) returns uuid
      language sql immutable as $$
      select overlay(overlay(md5('${run}' || what || n)
               placing lpad(to_hex(ms), 12, '0') || '7' from 1) placing '8' from 17)::uuid $$;
    create or replace function pg_temp.account_id(n bigint) returns uuid language sql immutable
      as $$ select pg_temp.past_id('account', ${first}, n) $$;
    create temporary table past_child as
      select n, pg_temp.account_id(n % ${history.accounts}) as account_id,
             pg_temp.past_id('child', ${first} + n, n) as id
        from generate_series(0, ${history.children - 1}::bigint) n;
    analyze past_child;`);
  await sql`
    select make_hold_partition(m) from generate_series(
      date_trunc('month', to_timestamp(${first / 1_000}) at time zone 'UTC'),
      keytoll_clock() at time zone 'UTC', interval '1 month') m`;
  return { ...history, first, last };
}

/** Accounts with one management key each, paid in once. */
async function openAccounts(sql: Sql, { accounts, first }: Past): Promise<string[]> {
  await sql`
    insert into account (id, posted, created_at, last_at)
    select pg_temp.account_id(n), ${PAID_IN}::bigint, at, at
      from generate_series(0, ${accounts - 1}::bigint) n, to_timestamp(${first / 1_000}) at`;
  await sql`
    insert into transfer
      (id, debit_account, credit_account, amount, kind, reference, posted_at)
    select pg_temp.past_id('transfer', ${first}, n), '00000000-0000-0000-0000-000000000001',
           pg_temp.account_id(n), ${PAID_IN}::bigint, 'credit', 'history ' || pg_temp.account_id(n),
           to_timestamp(${first / 1_000})
      from generate_series(0, ${accounts - 1}::bigint) n`;
  await sql`
    insert into management_key (id, account_id, name, hint, created_at, updated_at)
    select pg_temp.past_id('manager', ${first}, n), pg_temp.account_id(n), 'history', 'gm-', at, at
      from generate_series(0, ${accounts - 1}::bigint) n, to_timestamp(${first / 1_000}) at`;
  const rows = await sql<{ id: string }[]>`
    select pg_temp.account_id(n) as id from generate_series(0, ${accounts - 1}::bigint) n`;
  return rows.map((row) => row.id);
}

/**
 * Records `from` to `to` (excluded), in the order of time: record n is of account n mod accounts,
 * and of one of that account's child keys by a hash. A request holds 1,000 and costs 500 to 999.
 */
async function writeRecords(sql: Sql, past: Past, from: number, to: number): Promise<void> {
  const { accounts, records, first, last } = past;
  const ownChildren = Math.floor(past.children / accounts);
  await sql`
    insert into ended_hold (account_id, id, part, child_key_id, amount, cost, outcome, day, month,
      authorized_at, ended_at, fingerprint, end_fingerprint, model, price_version, usage_seq,
      request_cost, input_tokens, output_tokens, estimated)
    select c.account_id, uuidv7(at - clock_timestamp()), 0, c.id,
           1000, 500 + s.n % 500, 'captured', (at at time zone 'UTC')::date,
           date_trunc('month', at at time zone 'UTC')::date, at, at + interval '20 milliseconds',
           1, 2, case s.n % 3 when 0 then 'demo/fast' else 'demo/deep' end, 1, s.n / ${accounts} + 1,
           500 + s.n % 500, 10 + s.n % 100, 20 + s.n % 200, false
      from generate_series(${from}::bigint, ${to - 1}::bigint) as s(n)
      join pg_temp.past_child c on c.n
           = (hashint8(s.n)::bigint + 2147483648) % ${ownChildren} * ${accounts} + s.n % ${accounts},
           lateral (select to_timestamp(trunc(
             ${first} + ${last - first}::float8 * s.n / ${records}) / 1000)) u(at)
     order by s.n`;
}

/** Child keys with limits that never bind, and the counters that their records make. */
async function writeChildren(sql: Sql, { accounts, first, last }: Past): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`set local work_mem = '512MB'`;
    await tx`
      insert into child_key (id, account_id, management_key_id, name, hint, limit_daily,
        limit_monthly, day, used_daily, month, used_monthly, used_total, requests_total,
        last_used_at, created_at, updated_at)
      select c.id, c.account_id,
             pg_temp.past_id('manager', ${first}, c.n % ${accounts}), 'client ' || c.n, 'gc-',
             ${10n ** 15n}::bigint, ${10n ** 16n}::bigint, p.day, coalesce(u.daily, 0), p.month,
             coalesce(u.monthly, 0), coalesce(u.total, 0), coalesce(u.requests, 0), u.at, t.at, t.at
        from pg_temp.past_child c
       cross join (select (at at time zone 'UTC')::date as day,
                          date_trunc('month', at at time zone 'UTC')::date as month
                     from to_timestamp(${last / 1_000}) at) p
       cross join (select to_timestamp(${first / 1_000})) t(at)
        left join (select child_key_id, sum(cost) as total, count(*) as requests,
                          max(ended_at) as at,
                          sum(cost) filter (where h.day = q.day) as daily,
                          sum(cost) filter (where h.month = q.month) as monthly
                     from ended_hold h, (select (at at time zone 'UTC')::date as day,
                            date_trunc('month', at at time zone 'UTC')::date as month
                            from to_timestamp(${last / 1_000}) at) q
                    group by 1) u on u.child_key_id = c.id`;
    await tx`
      insert into child_limit (child_key_id, since, limit_daily, limit_monthly)
      select id, to_timestamp(${first / 1_000}), ${10n ** 15n}::bigint, ${10n ** 16n}::bigint
        from pg_temp.past_child`;
  });
}

/** Balances and numbers as the records make them, all unsettled. */
async function closeAccounts(sql: Sql, { accounts }: Past): Promise<void> {
  await sql`
    update account a set accrued = u.cost, usage_seq = u.records, last_at = u.at
      from (select account_id, sum(request_cost) as cost, count(*) as records, max(ended_at) as at
              from ended_hold group by 1) u
     where a.id = u.account_id
       and a.id in (select pg_temp.account_id(n)
                      from generate_series(0, ${accounts - 1}::bigint) n)`;
}

async function settleAll(sql: Sql): Promise<void> {
  for (let shard = 0; shard < SHARDS; shard++) {
    await settleShard(sql, shard, { maxPosts: Number.MAX_SAFE_INTEGER });
  }
}

async function childrenOf(url: string, account: string): Promise<string[]> {
  const sql = connect(url, { name: "history", max: 1 });
  const rows = await sql<{ id: string }[]>`
    select id from child_key where account_id = ${account} order by id`;
  await sql.end();
  return rows.map((row) => row.id);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      database: { type: "string" },
      records: { type: "string", default: "1e6" },
      children: { type: "string", default: "1e3" },
      accounts: { type: "string", default: "8" },
      months: { type: "string", default: "6" },
      unsettled: { type: "boolean", default: false },
    },
  });
  const [records, children] = [Number(values.records), Number(values.children)];
  const [accounts, months] = [Number(values.accounts), Number(values.months)];
  if (values.database === undefined || !(records >= accounts && children >= accounts)) {
    console.log(USAGE);
    return 2;
  }
  const settled = !values.unsettled;
  await fillHistory(values.database, { records, children, accounts, months, settled }, (line) =>
    console.log(line),
  );
  return 0;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) process.exitCode = await main();
