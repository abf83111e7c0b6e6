import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { creditAccount, suspendAccount } from "../../src/accounts/accounts.js";
import { newId } from "../../src/base/ids.js";
import type { Sql } from "../../src/db/sql.js";
import { type ChildPatch, changeChildKey, deleteChildKey } from "../../src/keys/child-keys.js";
import { changeManagementKey, deleteManagementKey } from "../../src/keys/management-keys.js";
import { type Books, expectBooksAreRight, openBooks, openDatabase } from "../support/books.js";
import { type Racers, startRacers } from "../support/racers.js";

const COST = 1_000n;
const PATIENCE = { timeout: 20_000, interval: 20 };

let sql: Sql;
let close: () => Promise<void>;
let racers: Racers;

beforeAll(async () => {
  const database = await openDatabase(4);
  ({ sql, close } = database);
  racers = await startRacers(database.url);
});
afterAll(async () => {
  await racers?.stop();
  await close?.();
});
afterEach(() => expectBooksAreRight(sql));

async function heldIn({ account }: Books): Promise<number> {
  const [row] = await sql<{ n: number }[]>`
    select count(*)::int as n from open_hold where account_id = ${account}`;
  return row?.n ?? -1;
}

/** Waits until so many are held, while ever more are asked for. */
const untilHeld = (books: Books, count: (held: number) => boolean): Promise<unknown> =>
  vi.waitFor(async () => expect(count(await heldIn(books))).toBe(true), PATIENCE);

const change = (books: Books, patch: ChildPatch) =>
  changeChildKey(sql, books.owner, books.ref, patch);

const pour = ({ account, child }: Books) => racers.pour({ account, child, amount: COST });

test("a limit that is lowered while requests pour in admits nothing more, and raised exactly the difference", async () => {
  const books = await openBooks(sql);
  const pouring = pour(books);
  await untilHeld(books, (held) => held > 100);
  await change(books, { limitDaily: 50n * COST });
  const before = await heldIn(books);
  await change(books, { limitDaily: (BigInt(before) + 50n) * COST });
  await untilHeld(books, (held) => held >= before + 50);
  await change(books, { limitDaily: null, limitTotal: (BigInt(before) + 70n) * COST });
  await untilHeld(books, (held) => held >= before + 70);
  const { held, child_key_limit_exceeded: refused, ...others } = await pouring.stop();
  expect({ held, others }).toEqual({ held: before + 70, others: {} });
  expect(refused).toBeGreaterThan(0);
  const changes = await sql<{ since: string }[]>`
    select since::text from child_limit where child_key_id = ${books.child} order by since`;
  const [, lowered = "", raised = ""] = changes.map(({ since }) => since);
  const [between] = await sql<{ n: number }[]>`
    select count(*)::int as n from open_hold
     where account_id = ${books.account} and authorized_at > ${lowered}::text::timestamptz
       and authorized_at < ${raised}::text::timestamptz`;
  expect(between?.n).toBe(0);
});

test("a top-up while requests pour in admits exactly what it pays for", async () => {
  const books = await openBooks(sql, { balance: 50n * COST });
  const pouring = pour(books);
  await untilHeld(books, (held) => held === 50);
  for (const [amount, held] of [
    [30n * COST, 80],
    [COST - 1n, 80],
    [1n, 81],
  ] as const) {
    await creditAccount(sql, { account: books.account, amount, reference: newId() });
    await untilHeld(books, (all) => all >= held);
  }
  const { held, insufficient_balance: refused, ...others } = await pouring.stop();
  expect({ held, others }).toEqual({ held: 81, others: {} });
  expect(refused).toBeGreaterThan(0);
});

const endings: [name: string, end: (books: Books) => Promise<unknown>, reason: string][] = [
  ["a child is disabled", (it) => change(it, { status: "disabled" }), "child_key_inactive"],
  ["a child is deleted", (it) => deleteChildKey(sql, it.owner, it.ref), "child_key_inactive"],
  [
    "a management key is disabled",
    (it) => changeManagementKey(sql, it.owner, it.managementKey, { status: "disabled" }),
    "child_key_inactive",
  ],
  [
    "a management key is deleted",
    (it) => deleteManagementKey(sql, it.owner, it.managementKey),
    "child_key_inactive",
  ],
  ["an account is suspended", (it) => suspendAccount(sql, it.account, ""), "account_suspended"],
];
test.each(endings)(
  "once %s, nothing more is admitted, however much is under way",
  async (_, end, reason) => {
    const books = await openBooks(sql);
    const pouring = pour(books);
    await untilHeld(books, (held) => held > 100);
    await end(books);
    const acknowledged = await heldIn(books);
    const { account, child } = books;
    const { held, ...refused } = await pouring.stop();
    expect(Object.keys(refused)).toEqual([reason]);
    expect([held, await heldIn(books)]).toEqual([acknowledged, acknowledged]);
    const [again] = await racers.race([
      { kind: "authorize", account, child, ids: [newId()], amount: "1" },
    ]);
    expect(Object.keys(again ?? {})).toEqual([reason]);
  },
);
