import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { Id } from "../../src/base/ids.js";
import type { Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { holdOf } from "../support/asking.js";
import {
  type Books,
  expectBooksAreRight,
  openBooks,
  openDatabase,
  setClock,
} from "../support/books.js";
import type { RaceOrder, RaceReport } from "../support/racer.js";
import { type Racers, startRacers } from "../support/racers.js";

const HOLDS = 400;
const AMOUNT = 10n;

let sql: Sql;
let close: () => Promise<void>;
let racers: Racers;
let holds: Holds;

beforeAll(async () => {
  const database = await openDatabase(4);
  ({ sql, close } = database);
  holds = createHolds(sql, { gateway: null });
  racers = await startRacers(database.url);
});
afterAll(async () => {
  await racers?.stop();
  await holds?.close();
  await close?.();
});
afterEach(() => expectBooksAreRight(sql));

/** Opens holds whose deadline has passed. */
async function openOverdue(books: Books): Promise<Id[]> {
  const requests = Array.from({ length: HOLDS }, () => holdOf(books, AMOUNT, { seconds: 1 }));
  await Promise.all(requests.map((request) => holds.authorize(request)));
  await setClock(sql, new Date(Date.now() + 60_000).toISOString(), { runs: true });
  return requests.map(({ id }) => id);
}

/** Each id with the answer that it got. */
const answersOf = (report: RaceReport | undefined): Map<Id, string> =>
  new Map(Object.entries(report ?? {}).flatMap(([answer, ids]) => ids.map((id) => [id, answer])));

test("a hold that captures, voids and sweeps of four processes fight for ends exactly once, and each is told so", async () => {
  const books = await openBooks(sql);
  const { account } = books;
  const ids = await openOverdue(books);
  const backwards = [...ids].reverse();
  const orders: RaceOrder[] = [
    { kind: "end", account, ids, how: "capture", cost: "3" },
    { kind: "end", account, ids: backwards, how: "capture", cost: "4" },
    {
      kind: "end",
      account,
      ids: [...ids.slice(200), ...ids.slice(0, 200)],
      how: "void",
      cost: "0",
    },
    { kind: "sweep" },
  ];
  const [three, four, voided] = (await racers.race(orders)).map(answersOf);

  const rows = await sql<{ id: Id; outcome: string; cost: bigint }[]>`
    select id, outcome, cost from ended_hold where account_id = ${account} order by id`;
  expect(rows.map(({ id }) => id)).toEqual([...ids].sort());
  for (const { id, outcome, cost } of rows) {
    const told = [three?.get(id), four?.get(id), voided?.get(id)];
    const conflict = "idempotency_conflict";
    if (outcome !== "captured") expect(told).toEqual(["hold_ended", "hold_ended", "voided"]);
    else if (cost === 3n) expect(told).toEqual(["captured", conflict, "hold_ended"]);
    else expect(told).toEqual([conflict, "captured", "hold_ended"]);
  }
  const [row] = await sql`select held, accrued from account where id = ${account}`;
  expect(row).toEqual({ held: 0n, accrued: rows.reduce((sum, { cost }) => sum + cost, 0n) });
});

test("the same capture from four processes at once is one usage record, and each is told the same", async () => {
  const books = await openBooks(sql);
  const { account } = books;
  const ids = await openOverdue(books);
  const order = { kind: "end", account, how: "capture", cost: "3" } as const;
  const orders = [ids, [...ids].reverse(), ids, [...ids].reverse()];
  const reports = await racers.race(orders.map((own) => ({ ...order, ids: own })));
  for (const report of reports) expect(report.captured?.toSorted()).toEqual([...ids].sort());
  const [row] = await sql`
    select count(*)::int as records, sum(cost)::int as cost, max(usage_seq)::int as last
      from usage_record where account_id = ${account}`;
  expect(row).toEqual({ records: HOLDS, cost: 3 * HOLDS, last: HOLDS });
});
