import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import type { AuthorizeAnswers, EndAnswers, EndItem } from "./batch-store.js";
import type { HoldRequest } from "./holds.js";

/** What is asked of one item of a lane. */
export type Item = { authorize: HoldRequest } | { end: EndItem };
/** What a function for one item answers: as those for batches do, of that item alone. */
export type ItemAnswers = { authorized: AuthorizeAnswers } | { ended: EndAnswers };

/** Text, but for what the driver makes of a boolean by itself. */
type Parameter = string | boolean | null;
type Row = Record<"decisions" | "second" | "third" | "fourth" | "fifth" | "sixth", string | null>;

/**
 * Ends and authorizes a few items in one transaction, a call for each. Accounts are locked in the
 * one order that everybody keeps, and ends come first within each, as in a batch.
 *
 * @returns an answer for each, in the order of the items
 */
export async function moveFew(
  sql: Sql,
  items: readonly Item[],
  gateway: Id | null,
): Promise<ItemAnswers[]> {
  const ordered = items.map((item, place) => ({ item, place })).sort(inOrder);
  const parameters: Parameter[] = [];
  const calls = ordered.map(({ item }, n) => {
    const own =
      "end" in item ? endArguments(item.end) : authorizeArguments(item.authorize, gateway);
    const from = parameters.length + 1;
    parameters.push(...own);
    const places = own.map((_, i) => `$${from + i}`).join(",");
    return `select ${n} as n, ${"end" in item ? endCall(places) : authorizeCall(places)}`;
  });
  // Sorted, so that no row leaves before all are made: where a statement fails after its first rows,
  // the driver counts them with the rows of the next one
  const statement = `${calls.join(" union all ")} order by n`;
  const rows = await sql.unsafe<Row[]>(statement, parameters, { prepare: true });
  const answers: ItemAnswers[] = [];
  for (const [i, { item, place }] of ordered.entries()) {
    const row = rows[i];
    if (row === undefined) throw new Error("the database left an item unanswered");
    answers[place] = "end" in item ? { ended: toEnded(row) } : { authorized: toAuthorized(row) };
  }
  return answers;
}

interface Placed {
  item: Item;
  place: number;
}

function inOrder({ item: one }: Placed, { item: other }: Placed): number {
  const [first, second] = [accountOf(one), accountOf(other)];
  if (first !== second) return first < second ? -1 : 1;
  return Number("authorize" in one) - Number("authorize" in other);
}

const accountOf = (item: Item): Id => ("end" in item ? item.end : item.authorize).account;

const authorizeCall = (places: string) =>
  `decisions, granted as second, authorized_at as third, daily as fourth, monthly as fifth,
     total as sixth from authorize_hold(${places})`;

const endCall = (places: string) =>
  `decisions, costs as second, usage_seqs as third, ended_at as fourth, held as fifth,
     null as sixth from end_hold(${places})`;

const authorizeArguments = (item: HoldRequest, gateway: Id | null): Parameter[] => [
  item.account,
  item.child,
  item.id,
  `${item.part}`,
  `${item.amount}`,
  `${item.floor}`,
  `${item.secretVersion}`,
  `${item.seconds}`,
  `${item.fingerprint}`,
  item.model,
  textOf(item.priceVersion),
  item.own,
  gateway,
];

const endArguments = (item: EndItem): Parameter[] => [
  item.account,
  item.id,
  `${item.kind}`,
  `${item.cost}`,
  textOf(item.inputTokens),
  textOf(item.outputTokens),
  item.estimated,
  `${item.fingerprint}`,
];

const textOf = (value: bigint | number | null): string | null =>
  value === null ? null : `${value}`;

const toAuthorized = (row: Row): AuthorizeAnswers => ({
  decisions: listOrNull(row.decisions),
  granted: listOrNull(row.second),
  authorizedAt: [row.third ?? ""],
  daily: [row.fourth ?? ""],
  monthly: [row.fifth ?? ""],
  total: [row.sixth ?? ""],
  accountOfChild: [1],
  childOf: [1],
});

const toEnded = (row: Row): EndAnswers => ({
  decisions: listOrNull(row.decisions),
  costs: listOrNull(row.second),
  usageSeqs: [row.third ?? ""],
  endedAt: [row.fourth ?? ""],
  held: [row.fifth ?? ""],
});

const listOrNull = (text: string | null): string[] | null => (text === null ? null : [text]);
