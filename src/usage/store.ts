import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, only } from "../db/sql.js";
import type { Section } from "./sections.js";

/** Whose usage is read. */
export interface Scope {
  account: Id;
  /** The only management key whose children count; null: all. */
  managementKey: Id | null;
  /** The only child that counts; null: all. */
  child: Id | null;
}

/** Half-open; null: without end on that side. */
export interface Span {
  from: Date | null;
  to: Date | null;
}

export interface Totals {
  requests: bigint;
  inputTokens: bigint;
  outputTokens: bigint;
  cost: Ngonka;
}

export type Group = "day" | "model" | "child";

export interface Line extends Totals {
  /** The day, the model's id, or the child's. */
  key: string;
  /** Of a child. */
  name: string | null;
}

export interface UsageRecord {
  number: bigint;
  hold: Id;
  child: Id;
  model: string | null;
  inputTokens: bigint | null;
  outputTokens: bigint | null;
  cost: Ngonka;
  estimated: boolean;
  authorizedAt: Date;
  capturedAt: Date;
}

/** Whether the child that a scope names is in it. */
export async function isInScope(db: Db, { account, managementKey, child }: Scope) {
  const rows = await db`
    select from child_key
     where id = ${child} and account_id = ${account}
       and (${managementKey}::uuid is null or management_key_id = ${managementKey}::uuid)`;
  return rows.length > 0;
}

/** Newest capture that was archived: what came up to then is in roll-ups only. Null: all is there. */
export async function archivedThrough(db: Db, account: Id): Promise<Date | null> {
  const [row] = await db<{ through: Date }[]>`
    select through from detached_account where account_id = ${account}`;
  return row?.through ?? null;
}

/** Which part of the lines is wanted: `limit` of those after the key `after`. */
export interface LinePage {
  group: Group | null;
  after: string | null;
  limit: number;
}

/**
 * Sums of a time, from roll-ups where they cover whole days and from records elsewhere: one
 * statement, so one moment.
 *
 * @returns the totals, and the page's lines with one more than its limit
 */
export async function readSums(
  db: Db,
  scope: Scope,
  { records, days }: Section,
  { group, after, limit }: LinePage,
): Promise<{ totals: Totals; lines: Line[] }> {
  const { account } = scope;
  const [since, until] = [records.map((it) => it.from), records.map((it) => it.to)];
  const unrolled = records.map((it) => String(it.unrolled));
  const [totals, ...lines] = await db<(Line & { key: string | null })[]>`
    with rolled as materialized (
      select coalesce((select seq from usage_rolled where account_id = ${account}), 0) as seq),
    numbers as materialized (
      select greatest(last_usage_before(${account}, s.since, 0),
                      case when s.unrolled then (select seq from rolled) else 0 end) as low,
             last_usage_before(${account}, s.until, 0) as high
        from unnest(${since}::text[]::timestamptz[], ${until}::text[]::timestamptz[],
                    ${unrolled}::text[]::boolean[]) s(since, until, unrolled)),
    used as (
      select (e.ended_at at time zone 'UTC')::date as day, coalesce(e.model, '') as model,
             e.child_key_id, 1 as requests, e.input_tokens, e.output_tokens, e.request_cost as cost
        from numbers n, lateral (
          select * from ended_hold h
           where h.account_id = ${account} and h.usage_seq > n.low and h.usage_seq <= n.high) e
       where true ${inScope(db, scope)}
       union all
      select day, model, child_key_id, requests, input_tokens, output_tokens, cost
        from usage_rollup r
       where account_id = ${account} and ${rolledDays(db, scope, days)} ${inScope(db, scope)}),
    lines as materialized (
      select ${keyOf(db, group)} as key, sum(requests)::bigint as requests,
             coalesce(sum(input_tokens), 0)::bigint as input_tokens,
             coalesce(sum(output_tokens), 0)::bigint as output_tokens, sum(cost)::bigint as cost
        from used group by 1)
    select null as key, null as name, coalesce(sum(requests), 0)::bigint as requests,
           coalesce(sum(input_tokens), 0)::bigint as "inputTokens",
           coalesce(sum(output_tokens), 0)::bigint as "outputTokens",
           coalesce(sum(cost), 0)::bigint as cost
      from lines
     union all (
    select l.key, ${group === "child" ? db`c.name` : db`null`}, l.requests, l.input_tokens,
           l.output_tokens, l.cost
      from lines l ${group === "child" ? db`join child_key c on c.id = l.key::uuid` : db``}
     where ${group !== null} and (${after}::text is null or l.key > ${after}::text collate "C")
     order by l.key limit ${limit + 1})`;
  if (totals === undefined) throw new Error("sums without totals");
  return { totals, lines };
}

function inScope(db: Db, { managementKey, child }: Scope) {
  if (child !== null) return db`and child_key_id = ${child}`;
  if (managementKey === null) return db``;
  return db`and child_key_id in (
    select id from child_key where management_key_id = ${managementKey})`;
}

/** Of one child they are looked up day by day, as the roll-ups are keyed; of all by the account. */
function rolledDays(db: Db, { child }: Scope, days: Section["days"]) {
  if (days === null) return db`false`;
  const [from, until] = [days.from ?? "-infinity", days.until ?? "infinity"];
  if (child === null || days.from === null || days.until === null) {
    return db`day >= ${from}::date and day < ${until}::date`;
  }
  return db`day = any(array(
    select generate_series(${from}::date, ${until}::date - 1, interval '1 day')::date))`;
}

function keyOf(db: Db, group: Group | null) {
  if (group === "day") return db`day::text collate "C"`;
  if (group === "model") return db`model collate "C"`;
  if (group === "child") return db`child_key_id::text collate "C"`;
  return db`''::text collate "C"`;
}

/** Numbers of an account's records of a time: above `low`, up to `high`. */
export async function numbersOf(db: Db, account: Id, { from, to }: Span) {
  return only(
    await db<{ low: bigint; high: bigint }[]>`
      select last_usage_before(${account}, coalesce(${from}::timestamptz, '-infinity'), 0) as low,
             last_usage_before(${account}, coalesce(${to}::timestamptz, 'infinity'), 0) as high`,
  );
}

/** The newest `limit` records of a scope with numbers above `low`, up to `high`; newest first. */
export async function selectRecords(
  db: Db,
  scope: Scope,
  { low, high }: { low: bigint; high: bigint },
  limit: number,
): Promise<UsageRecord[]> {
  return await db<UsageRecord[]>`
    select usage_seq as number, hold_id as hold, child_key_id as child, model,
           input_tokens as "inputTokens", output_tokens as "outputTokens", cost, estimated,
           authorized_at as "authorizedAt", captured_at as "capturedAt"
      from usage_record
     where account_id = ${scope.account} and usage_seq > ${low} and usage_seq <= ${high}
       ${inScope(db, scope)}
     order by usage_seq desc limit ${limit}`;
}
