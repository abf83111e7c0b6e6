import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, only, type Sql } from "../db/sql.js";
import type { Capture, Extension, HoldRequest } from "./holds.js";

/** One item of a batch that ends holds. Kinds are those of the SQL function end_holds. */
export interface EndItem extends Omit<Capture, "own"> {
  kind: (typeof END_KINDS)[keyof typeof END_KINDS];
}
export const END_KINDS = { captureByBackend: 1, captureByGateway: 2, void: 3 } as const;

/** Answers of a batch, one list per column, in the items' order. Times are epoch microseconds. */
export interface AuthorizeAnswers {
  decisions: string[];
  granted: string[];
  authorizedAt: string[];
  daily: string[];
  monthly: string[];
  total: string[];
  /** Which of the distinct accounts each item is of (1-based): authorizedAt is told by account. */
  accountOf: number[];
}
export interface EndAnswers {
  decisions: string[];
  costs: string[];
  usageSeqs: string[];
  endedAt: string[];
}

/**
 * An array literal of values that need no quoting. Built by hand: the driver quotes each element,
 * ten times slower.
 */
const list = (values: readonly (string | number | bigint | boolean | null)[]): string =>
  `{${values.map((value) => value ?? "NULL").join(",")}}`;

const quoted = (value: string | null): string =>
  value === null ? "NULL" : `"${value.replace(/[\\"]/g, "\\$&")}"`;

/**
 * Distinct values, ascending as Postgres sorts uuids, and where each item finds its own (1-based).
 */
function indexed(ids: readonly Id[]): { distinct: Id[]; indexes: number[] } {
  const distinct = [...new Set(ids)].sort();
  const places = new Map(distinct.map((id, i) => [id, i + 1]));
  return { distinct, indexes: ids.map((id) => places.get(id) ?? 0) };
}

/** Authorizes a batch. */
export async function authorizeHolds(
  sql: Sql,
  items: readonly HoldRequest[],
  gateway: Id | null,
): Promise<AuthorizeAnswers> {
  const asked = index(items);
  const [row] =
    await sql`select * from authorize_holds(${authorizeArguments(sql, asked, gateway)})`;
  return readAuthorizeAnswers(row, asked);
}

/** Ends a batch. */
export async function endHolds(sql: Sql, items: readonly EndItem[]): Promise<EndAnswers> {
  const [row] = await sql`select * from end_holds(${endArguments(sql, items)})`;
  return readEndAnswers(row, row?.decisions);
}

/** Ends a batch and authorizes another, in one transaction. */
export async function endAndAuthorize(
  sql: Sql,
  ends: readonly EndItem[],
  items: readonly HoldRequest[],
  gateway: Id | null,
): Promise<{ ended: EndAnswers; authorized: AuthorizeAnswers }> {
  const asked = index(items);
  const all = indexed([...ends, ...items].map((item) => item.account)).distinct;
  const [toEnd, toHold] = [endArguments(sql, ends), authorizeArguments(sql, asked, gateway)];
  const [row] = await sql`
    select * from end_and_authorize(${list(all)}::uuid[], ${toEnd}, ${toHold})`;
  return {
    ended: readEndAnswers(row, row?.end_decisions),
    authorized: readAuthorizeAnswers(row, asked),
  };
}

type Row = Record<string, unknown> | undefined;

interface Asked {
  items: readonly HoldRequest[];
  accounts: { distinct: Id[]; indexes: number[] };
  children: { distinct: Id[]; indexes: number[] };
  /** Where each distinct child finds its account (1-based). */
  accountOfChild: number[];
}

function index(items: readonly HoldRequest[]): Asked {
  const children = indexed(items.map((item) => item.child));
  const accounts = indexed(items.map((item) => item.account));
  const accountOfChild: number[] = [];
  children.indexes.forEach((child, i) => {
    accountOfChild[child - 1] = accounts.indexes[i] ?? 0;
  });
  return { items, accounts, children, accountOfChild };
}

const authorizeArguments = (
  sql: Sql,
  { items, accounts, children, accountOfChild }: Asked,
  gateway: Id | null,
) => sql`
  ${list(accounts.distinct)}::uuid[], ${list(children.distinct)}::uuid[],
  ${list(accountOfChild)}::int[], ${list(items.map((item) => item.id))}::uuid[],
  ${list(items.map((item) => item.part))}::smallint[], ${list(children.indexes)}::int[],
  ${list(items.map((item) => item.amount))}::bigint[],
  ${list(items.map((item) => item.floor))}::bigint[],
  ${list(items.map((item) => item.secretVersion))}::int[],
  ${list(items.map((item) => item.seconds))}::int[],
  ${list(items.map((item) => item.fingerprint))}::bigint[],
  ${list(items.map((item) => quoted(item.model)))}::text[],
  ${list(items.map((item) => item.priceVersion))}::int[],
  ${list(items.map((item) => item.own))}::boolean[], ${gateway}::uuid`;

function endArguments(sql: Sql, items: readonly EndItem[]) {
  const accounts = indexed(items.map((item) => item.account));
  return sql`
    ${list(accounts.distinct)}::uuid[], ${list(items.map((item) => item.id))}::uuid[],
    ${list(accounts.indexes)}::int[], ${list(items.map((item) => item.kind))}::smallint[],
    ${list(items.map((item) => item.cost))}::bigint[],
    ${list(items.map((item) => item.inputTokens))}::bigint[],
    ${list(items.map((item) => item.outputTokens))}::bigint[],
    ${list(items.map((item) => item.estimated))}::boolean[],
    ${list(items.map((item) => item.fingerprint))}::bigint[]`;
}

const readAuthorizeAnswers = (row: Row, { accounts }: Asked): AuthorizeAnswers => ({
  decisions: split(row?.decisions),
  granted: split(row?.granted),
  authorizedAt: split(row?.authorized_at),
  daily: split(row?.daily),
  monthly: split(row?.monthly),
  total: split(row?.total),
  accountOf: accounts.indexes,
});

const readEndAnswers = (row: Row, decisions: unknown): EndAnswers => ({
  decisions: split(decisions),
  costs: split(row?.costs),
  usageSeqs: split(row?.usage_seqs),
  endedAt: split(row?.ended_at),
});

/** @returns new deadlines in epoch microseconds, "" where the hold is not open */
export async function extendHolds(sql: Sql, items: readonly Extension[]): Promise<string[]> {
  const accounts = indexed(items.map((item) => item.account));
  const [row] = await sql`
    select extend_holds(
      ${list(accounts.distinct)}::uuid[], ${list(items.map((item) => item.id))}::uuid[],
      ${list(accounts.indexes)}::int[], ${list(items.map((item) => item.seconds))}::int[],
      ${list(items.map((item) => item.checkpoint?.cost ?? null))}::bigint[],
      ${list(items.map((item) => item.checkpoint?.inputTokens ?? null))}::bigint[],
      ${list(items.map((item) => item.checkpoint?.outputTokens ?? null))}::bigint[]) as deadlines`;
  return split(row?.deadlines);
}

function split(text: unknown): string[] {
  if (typeof text !== "string") throw new Error("the database did not answer a batch");
  return text.split(",");
}

/** One part of a hold as it stands in open_hold or ended_hold. */
export interface HoldPart {
  part: number;
  child_key_id: Id;
  amount: Ngonka;
  cost: Ngonka | null;
  outcome: "captured" | "voided" | "swept" | null;
  day: string;
  month: string;
  authorized_at: Date;
  deadline: Date | null;
  ended_at: Date | null;
  usage_seq: bigint | null;
  model: string | null;
  price_version: number | null;
  /** Of an open hold: the gateway whose request it is; null for a backend's own. */
  gateway_id: Id | null;
}

/**
 * All parts of a hold of this account, open or ended, first part first; none where there is no such
 * hold.
 */
export async function findHoldParts(db: Db, account: Id, id: Id): Promise<HoldPart[]> {
  return await db<HoldPart[]>`
    select part, child_key_id, amount, null::bigint as cost, null as outcome, day, month,
      authorized_at, deadline,
           null::timestamptz as ended_at, null::bigint as usage_seq, model, price_version,
             gateway_id
      from open_hold where account_id = ${account} and id = ${id}
    union all
    select part, child_key_id, amount, cost, outcome, day, month, authorized_at, null, ended_at,
      usage_seq,
           model, price_version, null
      from ended_hold where account_id = ${account} and id = ${id}
    order by part`;
}

/** A child as a backend's hold needs it: whose it is and which models it may use (null: all). */
export interface ChildRow {
  id: Id;
  managementKey: Id;
  models: string[] | null;
}

export async function findChildOfAccount(
  db: Db,
  account: Id,
  child: Id,
): Promise<ChildRow | undefined> {
  const [row] = await db<ChildRow[]>`
    select id, management_key_id as "managementKey", models from child_key
     where id = ${child} and account_id = ${account}`;
  return row;
}

/** Notes that a gateway lives. @returns the database's clock */
export async function renewLease(sql: Sql, gateway: Id): Promise<Date> {
  const { seen_at } = only(
    await sql<{ seen_at: Date }[]>`
      insert into gateway values (${gateway}, keytoll_clock(), keytoll_clock())
      on conflict (id) do update set seen_at = keytoll_clock()
      returning seen_at`,
  );
  return seen_at;
}

/** Ends up to `limit` holds that are past their deadline or whose gateway is gone. */
export async function sweepPage(
  sql: Sql,
  limit: number,
): Promise<{ captured: number; voided: number }> {
  return only(
    await sql<{ captured: number; voided: number }[]>`
      select captured, voided from sweep_holds(${limit})`,
  );
}

/**
 * Makes the monthly partitions from last month to three months ahead. @returns how many were
 * missing
 */
export async function ensurePartitions(sql: Sql): Promise<number> {
  const { made } = only(await sql<{ made: number }[]>`select ensure_hold_partitions(3) as made`);
  return made;
}
