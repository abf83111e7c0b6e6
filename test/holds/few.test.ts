import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { renewLease } from "../../src/holds/store.js";
import {
  type Books,
  captureOf,
  expectBooksAreRight,
  holdOf,
  openBooks,
  openDatabase,
} from "../support/books.js";

/** Up to four calls at once are calls of one item each; more are a batch. */

let database: Awaited<ReturnType<typeof openDatabase>>;
let sql: Sql;
let holds: Holds;
let books: Books;
const gateway = newId();
const NAME = "test few";

beforeAll(async () => {
  database = await openDatabase();
  sql = connect(database.url, { name: NAME, max: 4 });
  holds = createHolds(sql, { gateway, lanes: 1 });
  books = await openBooks(database.sql);
  await renewLease(database.sql, gateway);
});
afterAll(async () => {
  await expectBooksAreRight(database.sql);
  await holds?.close();
  await sql?.end();
  await database?.close();
});

/** All that is on record of holds that one engine opened and ended, but ids and times. */
async function recordsOf(few: number) {
  const own = await openBooks(database.sql, { limitDaily: 1_000n, limitTotal: 5_000n });
  const engine = createHolds(sql, { gateway, lanes: 1, few });
  const at = { account: own.account, child: own.child };
  const told = { model: "demo/fast", priceVersion: 3, own: true, secretVersion: 1 };
  const requests = [holdOf(at, 70n, told), holdOf(at, 80n), holdOf(at, 90n, { seconds: 5 })];
  const answers = await Promise.all(requests.map((it) => engine.authorize(it)));
  const [first, second, third] = requests.map(({ id }) => id);
  const open = await database.sql`
    select part, amount, day, month, gateway_id, model, price_version, fingerprint,
           deadline - authorized_at as seconds
      from open_hold where account_id = ${own.account} order by amount`;
  const ends = await Promise.all([
    engine.capture({ ...captureOf(own.account, first ?? "", 60n), own: true, estimated: true }),
    engine.capture({ ...captureOf(own.account, second ?? "", 80n), inputTokens: null }),
    engine.void({ account: own.account, id: third ?? "" }),
  ]);
  const ended = await database.sql`
    select part, amount, cost, outcome, day, month, fingerprint, end_fingerprint, model,
           price_version, usage_seq, request_cost, input_tokens, output_tokens, estimated
      from ended_hold where account_id = ${own.account} order by amount`;
  const [account] = await database.sql`
    select posted, held, accrued, usage_seq, settled_seq from account where id = ${own.account}`;
  const [child] = await database.sql`
    select day, used_daily, month, used_monthly, used_total, held, requests_total,
           last_used_at is not null as used from child_key where id = ${own.child}`;
  return {
    answers: answers.map(({ amount, remaining, repeated }) => ({ amount, remaining, repeated })),
    ends: ends.map((it) => ({ ...it, endedAt: it.endedAt instanceof Date })),
    ...{ open: [...open], ended: [...ended], account, child },
  };
}

test("what is called for alone leaves the same on record as in a batch, and is told the same", async () => {
  const alone = await recordsOf(4);
  expect(alone).toEqual(await recordsOf(0));
  expect(alone.open.map((it) => it.gateway_id)).toEqual([gateway, null, null]);
  expect(alone.ended.map((it) => [it.outcome, it.estimated])).toEqual([
    ["captured", true],
    ["captured", false],
    ["voided", null],
  ]);
});

test("four at once are one transaction, and each is answered in its own place", async () => {
  const requests = [1n, 2n, 3n, 4n].map((amount) => holdOf(books, amount));
  const answers = await Promise.all(requests.map((it) => holds.authorize(it)));
  expect(answers.map(({ amount }) => amount)).toEqual([1n, 2n, 3n, 4n]);
  const ids = requests.map(({ id }) => id);
  const made = await database.sql`
    select count(*)::int as holds, count(distinct xmin::text)::int as transactions
      from open_hold where id = any (${ids}::uuid[])`;
  expect([...made]).toEqual([{ holds: 4, transactions: 1 }]);
});

test("of four at once one that makes their transaction fail is refused alone", async () => {
  const tooMuch = 2n ** 70n;
  const requests = [{}, { fingerprint: tooMuch }, {}, {}].map((it) => holdOf(books, 5n, it));
  const said = await Promise.allSettled(requests.map((it) => holds.authorize(it)));
  expect(said.map(({ status }) => status)).toEqual([
    ...["fulfilled", "rejected"],
    ...["fulfilled", "fulfilled"],
  ]);
});

test("one that fails after others were done harms none of them, nor what comes next", async () => {
  await database.sql.unsafe(`
    create function refuse_13() returns trigger language plpgsql
      as $$ begin raise exception 'made up'; end $$;
    create trigger refuse_13 before insert on open_hold
      for each row when (new.amount = 13) execute function refuse_13()`);
  const alone = connect(database.url, { name: NAME, max: 1 });
  const engine = createHolds(alone, { gateway, lanes: 1 });
  const requests = [5n, 13n, 7n].map((amount) => holdOf(books, amount));
  const said = await Promise.allSettled(requests.map((it) => engine.authorize(it)));
  const amounts = said.map((it) => (it.status === "fulfilled" ? it.value.amount : `${it.reason}`));
  expect(amounts).toEqual([5n, expect.stringContaining("made up"), 7n]);
  const [next] = await alone<{ one: number }[]>`select 1 as one`;
  expect(next?.one).toBe(1);
  await engine.close();
  await alone.end();
});

test("a hold and the end of another in one transaction: what the end gives back can be held", async () => {
  const small = await openBooks(database.sql, { balance: 100n });
  const first = holdOf(small, 100n);
  await holds.authorize(first);
  const [opened] = await Promise.all([
    holds.authorize(holdOf(small, 90n)),
    holds.capture(captureOf(small.account, first.id, 10n)),
  ]);
  expect(opened.amount).toBe(90n);
});

test("accounts are locked in ascending order, whatever the order of the calls", async () => {
  const all = [await openBooks(database.sql), await openBooks(database.sql)];
  const [low, high] = all.sort((a, b) => (a.account < b.account ? -1 : 1)) as [Books, Books];
  let calls: Promise<unknown> = Promise.resolve();
  await database.sql.begin(async (tx) => {
    await tx`select from lock_accounts(${[low.account]}::uuid[])`;
    calls = Promise.all([high, low].map((it) => holds.authorize(holdOf(it, 5n))));
    await vi.waitFor(async () => {
      const waiting = await database.sql`
        select from pg_stat_activity
         where datname = current_database() and application_name = ${NAME} and wait_event_type = 'Lock'`;
      expect(waiting).toHaveLength(1);
    });
    // Who waits for the lower one has not got the higher one yet
    await tx`select from account where id = ${high.account} for no key update nowait`;
  });
  await calls;
});
