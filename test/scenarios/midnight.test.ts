import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { closePeriod, openPeriod, readPeriod, rollCounters } from "../../src/holds/periods.js";
import { captureOf, holdOf } from "../support/asking.js";
import {
  type Books,
  expectBooksAreRight,
  openBooks,
  openDatabase,
  setClock,
} from "../support/books.js";

let sql: Sql;
let close: () => Promise<void>;
let holds: Holds;

// A database for each: time only goes on in it
beforeEach(async () => {
  ({ sql, close } = await openDatabase());
  holds = createHolds(sql, { gateway: null });
});
afterEach(async () => {
  await expectBooksAreRight(sql);
  await holds.close();
  await close();
});

const TURNS = [
  { turn: "midnight", kind: "day", evening: "2026-03-10", morning: "2026-03-11" },
  { turn: "the month's end", kind: "month", evening: "2026-03-31", morning: "2026-04-01" },
  { turn: "the year's end", kind: "month", evening: "2026-12-31", morning: "2027-01-01" },
] as const;

const counters = async ({ child }: Books) => {
  const [row] = await sql`
    select day, used_daily::int as daily, month, used_monthly::int as monthly,
           used_total::int as total, held::int from child_key where id = ${child}`;
  return row;
};

const monthOf = (day: string): string => `${day.slice(0, 8)}01`;
const hold = (books: Books, amount: bigint) => {
  const request = holdOf(books, amount);
  return holds.authorize(request).then(() => request.id);
};

describe.each(TURNS)("over $turn", ({ kind, evening, morning }) => {
  const sameMonth = monthOf(evening) === monthOf(morning);
  /** What the month's counter keeps of the evening's amount. */
  const carried = (amount: number): number => (sameMonth ? amount : 0);

  test("a stream that is held at 23:59 and extended at 00:05 counts each part in its own day", async () => {
    await setClock(sql, `${evening}T23:59:00Z`);
    const books = await openBooks(sql, { limitDaily: 100n });
    const { account } = books;
    const id = await hold(books, 100n);
    await setClock(sql, `${morning}T00:05:00Z`);
    const extend = (part: number, amount: bigint) =>
      holds.authorize(holdOf(books, amount, { id, part }));
    // The whole of today is there, whatever was held yesterday
    expect((await extend(1, 60n)).remaining.daily).toBe(40n);
    await expect(extend(2, 41n)).rejects.toMatchObject({ reason: "child_key_limit_exceeded" });
    await extend(2, 40n);
    const today = { day: morning, daily: 100, month: monthOf(morning) };
    const open = { ...today, monthly: 100 + carried(100), total: 200, held: 200 };
    expect(await counters(books)).toEqual(open);

    await holds.capture(captureOf(account, id, 130n));
    const ended = { daily: 30, monthly: 30 + carried(100), total: 130, held: 0 };
    expect(await counters(books)).toEqual({ ...today, ...ended });
    const parts = await sql`
      select day, sum(cost)::int as cost from ended_hold where account_id = ${account}
       group by day order by day`;
    expect([...parts]).toEqual([
      { day: evening, cost: 100 },
      { day: morning, cost: 30 },
    ]);
    expect((await holds.authorize(holdOf(books, 70n))).remaining.daily).toBe(0n);
  });

  test("what is captured after it stands in the new day's usage, what was captured before in the old one's", async () => {
    await setClock(sql, `${evening}T23:59:00Z`);
    const books = await openBooks(sql);
    const { account, child } = books;
    await holds.capture(captureOf(account, await hold(books, 10n), 7n));
    const late = await hold(books, 100n);
    await setClock(sql, `${morning}T00:05:00Z`);
    await holds.authorize(holdOf(books, 50n, { id: late, part: 1 }));
    await holds.capture(captureOf(account, late, 120n));
    for (const days of [1, 2]) {
      const begins = Date.parse(`${evening}T00:00:00Z`) + days * 86_400_000;
      await setClock(sql, new Date(begins + 60_000).toISOString());
      const period = readPeriod("day", new Date(begins).toISOString().slice(0, 10));
      await openPeriod(sql, period);
      await closePeriod(sql, period);
    }
    const rollups = await sql`
      select day, requests::int, cost::int from usage_rollup
       where child_key_id = ${child} order by day`;
    expect([...rollups]).toEqual([
      { day: evening, requests: 1, cost: 7 },
      { day: morning, requests: 1, cost: 120 },
    ]);
  });

  const endings = [
    ["captured at less", 40n],
    ["captured in full", 100n],
    ["voided", 0n],
  ] as const;
  test.each(endings)(
    "counters that are rolled while a hold of yesterday is open stay right when it is %s",
    async (_, cost) => {
      await setClock(sql, `${evening}T23:59:00Z`);
      const books = await openBooks(sql, { limitDaily: 150n, limitMonthly: 250n });
      const { account } = books;
      const id = await hold(books, 100n);
      await setClock(sql, `${morning}T00:00:01Z`);
      for (const each of kind === "month" ? (["day", "month"] as const) : (["day"] as const)) {
        const name = each === "day" ? morning : morning.slice(0, 7);
        await openPeriod(sql, readPeriod(each, name));
        await rollCounters(sql, readPeriod(each, name));
      }
      const month = sameMonth ? monthOf(evening) : monthOf(morning);
      const rolled = { day: morning, daily: 0, month, monthly: carried(100) };
      expect(await counters(books)).toEqual({ ...rolled, total: 100, held: 100 });

      await holds.authorize(holdOf(books, 20n));
      if (cost > 0n) await holds.capture(captureOf(account, id, cost));
      else await holds.void({ account, id });
      const kept = Number(cost);
      const after = { daily: 20, monthly: 20 + carried(kept), total: 20 + kept, held: 20 };
      expect(await counters(books)).toEqual({ ...rolled, ...after });
      expect((await holds.authorize(holdOf(books, 130n))).remaining.daily).toBe(0n);
    },
  );
});

test("one account whose clock is ahead moves no other account of its batch", async () => {
  await setClock(sql, "2026-05-10T12:00:00Z");
  const all = await Promise.all([openBooks(sql), openBooks(sql), openBooks(sql)]);
  const [before, ahead, after] = all;
  await sql`
    update account set last_at = '2026-05-11T00:30:00Z' where id = ${ahead?.account ?? ""}`;
  // One connection and one lane: all three travel together
  const lane = createHolds(sql, { gateway: null, lanes: 1 });
  const first = lane.authorize(holdOf(before ?? all[0], 1n));
  const batch = all.map((books) => holdOf(books, 10n));
  await Promise.all([first, ...batch.map((request) => lane.authorize(request))]);
  await Promise.all(batch.map(({ account, id }) => lane.capture(captureOf(account, id, 4n))));
  await lane.close();

  const rows = await sql`
    select h.account_id as account, h.day, h.authorized_at, h.ended_at, c.day as counted, a.last_at
      from ended_hold h join child_key c on c.id = h.child_key_id
      join account a on a.id = h.account_id where h.amount = 10
       and h.account_id in ${sql(all.map(({ account }) => account))}`;
  const seen = new Map(rows.map((row) => [row.account, row]));
  const noon = new Date("2026-05-10T12:00:00Z");
  for (const books of [before, after]) {
    const row = seen.get(books?.account);
    expect(row).toMatchObject({ day: "2026-05-10", counted: "2026-05-10" });
    for (const at of [row?.authorized_at, row?.ended_at, row?.last_at]) {
      expect(Math.abs(at - noon.getTime())).toBeLessThan(1_000);
    }
  }
  const moved = seen.get(ahead?.account);
  expect(moved).toMatchObject({ day: "2026-05-11", counted: "2026-05-11" });
  expect(moved?.ended_at.getTime()).toBeGreaterThanOrEqual(Date.parse("2026-05-11T00:30:00Z"));
});
