import type { Id } from "../base/ids.js";
import { only, type Sql } from "../db/sql.js";
import type { Capture, Extension, HoldRequest } from "./holds.js";

/** One item of a batch that ends holds. Kinds are those of the SQL function end_holds. */
export interface EndItem extends Omit<Capture, "own"> {
  kind: (typeof END_KINDS)[keyof typeof END_KINDS];
}
export const END_KINDS = { captureByBackend: 1, captureByGateway: 2, void: 3 } as const;

/**
 * Answers of a batch, one list per column. Times are epoch microseconds; remaining amounts are
 * those before the batch, "" where there is no limit.
 */
export interface AuthorizeAnswers {
  /** By item; null where all are held. */
  decisions: string[] | null;
  /** By item; null where all is granted as asked. */
  granted: string[] | null;
  /** By account. */
  authorizedAt: string[];
  /** By child, as the next two. */
  daily: string[];
  monthly: string[];
  total: string[];
  /** Which of the distinct accounts each child is of, which of the distinct children each item. */
  accountOfChild: number[];
  childOf: number[];
}
/** By item; what is null is as asked, and "" in `held` means that the hold was not open. */
export interface EndAnswers {
  decisions: string[] | null;
  costs: string[] | null;
  usageSeqs: string[];
  endedAt: string[];
  held: string[];
}

/**
 * An array literal of what each item has there, which must need no quotes. Built by hand: the
 * driver quotes each element, ten times slower.
 */
function column<Item>(
  items: readonly Item[],
  of: (item: Item) => string | number | bigint | boolean | null,
): string {
  let text = "{";
  for (const item of items) text += `${of(item) ?? "NULL"},`;
  return text === "{" ? "{}" : `${text.slice(0, -1)}}`;
}

const list = (values: readonly (string | number)[]): string => `{${values.join(",")}}`;

const quoted = (value: string | null): string =>
  value === null ? "NULL" : `"${value.replace(/[\\"]/g, "\\$&")}"`;

/**
 * Distinct values, ascending as Postgres sorts uuids, and where each item finds its own (1-based).
 */
function indexed(ids: readonly string[]): { distinct: string[]; indexes: number[] } {
  const places = new Map<string, number>();
  for (const id of ids) places.set(id, 0);
  const distinct = [...places.keys()].sort();
  for (let i = 0; i < distinct.length; ) places.set(distinct[i] ?? "", ++i);
  return { distinct, indexes: ids.map((id) => places.get(id) ?? 0) };
}

const ID_LENGTH = 36;

const AUTHORIZE =
  "select * from authorize_holds($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)";
const END = "select * from end_holds($1,$2,$3,$4,$5,$6,$7,$8,$9)";
const END_AND_AUTHORIZE = `select * from end_and_authorize(
  $1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,$25)`;

/** Authorizes a batch. */
export async function authorizeHolds(
  sql: Sql,
  items: readonly HoldRequest[],
  gateway: Id | null,
): Promise<AuthorizeAnswers> {
  const asked = index(items);
  const row = await callBatch(sql, AUTHORIZE, authorizeArguments(asked, gateway));
  return readAuthorizeAnswers(row, asked);
}

/** Ends a batch. */
export async function endHolds(sql: Sql, items: readonly EndItem[]): Promise<EndAnswers> {
  const row = await callBatch(sql, END, endArguments(items));
  return readEndAnswers(row, row.decisions);
}

/** Ends a batch and authorizes another, in one transaction. */
export async function endAndAuthorize(
  sql: Sql,
  ends: readonly EndItem[],
  items: readonly HoldRequest[],
  gateway: Id | null,
): Promise<{ ended: EndAnswers; authorized: AuthorizeAnswers }> {
  const asked = index(items);
  const all = new Set(asked.accounts);
  for (const end of ends) all.add(end.account);
  const row = await callBatch(sql, END_AND_AUTHORIZE, [
    list([...all].sort()),
    ...endArguments(ends),
    ...authorizeArguments(asked, gateway),
  ]);
  return {
    ended: readEndAnswers(row, row.end_decisions),
    authorized: readAuthorizeAnswers(row, asked),
  };
}

type Row = Record<string, string | null>;

/** One prepared statement with all its parameters as text: what the driver does least with. */
async function callBatch(sql: Sql, statement: string, parameters: (string | null)[]): Promise<Row> {
  return only(await sql.unsafe<Row[]>(statement, parameters, { prepare: true }));
}

interface Asked {
  items: readonly HoldRequest[];
  accounts: Id[];
  children: Id[];
  /** Where each distinct child finds its account, and each item its child (1-based). */
  accountOfChild: number[];
  childOf: number[];
}

function index(items: readonly HoldRequest[]): Asked {
  // By account as well: a child that is asked for under a foreign one is refused there, and only there
  const children = indexed(items.map((item) => item.account + item.child));
  const accounts = indexed(items.map((item) => item.account));
  const accountOfChild: number[] = new Array(children.distinct.length).fill(0);
  children.indexes.forEach((child, i) => {
    accountOfChild[child - 1] = accounts.indexes[i] ?? 0;
  });
  return {
    items,
    accounts: accounts.distinct,
    children: children.distinct.map((pair) => pair.slice(ID_LENGTH)),
    accountOfChild,
    childOf: children.indexes,
  };
}

const authorizeArguments = (asked: Asked, gateway: Id | null): (string | null)[] => {
  const { items } = asked;
  const some = (matters: (item: HoldRequest) => boolean, text: () => string) =>
    items.some(matters) ? text() : null;
  return [
    list(asked.accounts),
    list(asked.children),
    list(asked.accountOfChild),
    column(items, (item) => item.id),
    some(
      (item) => item.part > 0,
      () => column(items, (item) => item.part),
    ),
    list(asked.childOf),
    column(items, (item) => item.amount),
    some(
      (item) => item.floor > 0n,
      () => column(items, (item) => item.floor),
    ),
    column(items, (item) => item.secretVersion),
    column(items, (item) => item.seconds),
    column(items, (item) => item.fingerprint),
    column(items, (item) => quoted(item.model)),
    column(items, (item) => item.priceVersion),
    some(
      (item) => item.own,
      () => column(items, (item) => item.own),
    ),
    gateway,
  ];
};

function endArguments(items: readonly EndItem[]): string[] {
  const accounts = indexed(items.map((item) => item.account));
  return [
    list(accounts.distinct),
    column(items, (item) => item.id),
    list(accounts.indexes),
    column(items, (item) => item.kind),
    column(items, (item) => item.cost),
    column(items, (item) => item.inputTokens),
    column(items, (item) => item.outputTokens),
    column(items, (item) => item.estimated),
    column(items, (item) => item.fingerprint),
  ];
}

const readAuthorizeAnswers = (row: Row, { accountOfChild, childOf }: Asked): AuthorizeAnswers => ({
  decisions: splitOrNull(row.decisions),
  granted: splitOrNull(row.granted),
  authorizedAt: split(row.authorized_at),
  daily: split(row.daily),
  monthly: split(row.monthly),
  total: split(row.total),
  accountOfChild,
  childOf,
});

const readEndAnswers = (row: Row, decisions: string | null | undefined): EndAnswers => ({
  decisions: splitOrNull(decisions),
  costs: splitOrNull(row.costs),
  usageSeqs: split(row.usage_seqs),
  endedAt: split(row.ended_at),
  held: split(row.held),
});

/** @returns new deadlines in epoch microseconds, "" where the hold is not open */
export async function extendHolds(sql: Sql, items: readonly Extension[]): Promise<string[]> {
  const accounts = indexed(items.map((item) => item.account));
  const [row] = await sql`
    select extend_holds(
      ${list(accounts.distinct)}::uuid[], ${column(items, (item) => item.id)}::uuid[],
      ${list(accounts.indexes)}::int[], ${column(items, (item) => item.seconds)}::int[],
      ${column(items, (item) => item.checkpoint?.cost ?? null)}::bigint[],
      ${column(items, (item) => item.checkpoint?.inputTokens ?? null)}::bigint[],
      ${column(items, (item) => item.checkpoint?.outputTokens ?? null)}::bigint[]) as deadlines`;
  return split(row?.deadlines);
}

function split(text: unknown): string[] {
  if (typeof text !== "string") throw new Error("the database did not answer a batch");
  return text.split(",");
}

const splitOrNull = (text: string | null | undefined): string[] | null =>
  text === null ? null : split(text);
