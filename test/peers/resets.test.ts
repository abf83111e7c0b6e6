import { afterEach, beforeEach, expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Holds } from "../../src/holds/holds.js";
import { closePeriod, openPeriod, readPeriod, rollCounters } from "../../src/holds/periods.js";
import { getChildKey } from "../../src/keys/child-keys.js";
import { captureOf, holdOf } from "../support/asking.js";
import {
  type Books,
  expectBooksAreRight,
  openBooks,
  openDatabase,
  setClock,
} from "../support/books.js";

let sql: Sql;
let url: string;
let close: () => Promise<void>;
let holds: Holds;

// A database for each: time only goes on in it
beforeEach(async () => {
  ({ sql, url, close } = await openDatabase());
  holds = createHolds(sql, { gateway: null });
});
afterEach(async () => {
  await expectBooksAreRight(sql);
  await holds.close();
  await close();
});

/** The refusal of a hold, as a caller gets it; undefined where it was admitted. */
const refusalOf = async (
  books: Books,
  amount = 1n,
  on = holds,
): Promise<{ reason: string; resetsAt: string | undefined } | undefined> => {
  try {
    await on.authorize(holdOf(books, amount));
    return undefined;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { reason: error.reason, resetsAt: error.details.facts?.resets_at };
  }
};

// No worker and no Temporal run in any test of this file.

// LiteLLM #29576: resets hung in a queue for three days of the new month
test.each([
  ["day", "2026-11-23T23:59:58Z", "2026-11-24T00:00:00Z", "2026-11-24T00:00:00.000Z"],
  ["month", "2026-11-30T23:59:58Z", "2026-12-01T00:00:00Z", "2026-12-01T00:00:00.000Z"],
  ["month", "2026-12-31T23:59:58Z", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00.000Z"],
] as const)(
  "a %s's limit is there anew in the first instant of the next, with nothing running but the clock",
  async (kind, last, first, resetsAt) => {
    await setClock(sql, last);
    const books = await openBooks(sql, kind === "day" ? { limitDaily: 9n } : { limitMonthly: 9n });
    expect(await refusalOf(books, 9n)).toBeUndefined();
    const full = { reason: "child_key_limit_exceeded" };
    expect(await refusalOf(books)).toEqual({ ...full, resetsAt });
    await setClock(sql, first);
    const { usedDaily, usedMonthly } = await getChildKey(sql, books.owner, books.ref);
    expect(kind === "day" ? usedDaily : usedMonthly).toBe(0n);
    expect(await refusalOf(books, 9n)).toBeUndefined();
    expect(await refusalOf(books)).toMatchObject(full);
  },
);

// LiteLLM #34896: resets came late by the server's time zone
test("limits reset at midnight UTC, whatever time zone the host, the database and the session have", async () => {
  const { TZ } = process.env;
  process.env.TZ = "America/New_York";
  await sql.unsafe(
    `alter database ${new URL(url).pathname.slice(1)} set timezone to 'America/New_York'`,
  );
  const local = connect(url, { name: "new york", max: 1 });
  await local`set time zone 'America/New_York'`;
  const there = createHolds(local, { gateway: null, lanes: 1 });
  try {
    expect(new Date("2026-11-24T00:00:00Z").getHours()).toBe(19);
    await setClock(sql, "2026-11-23T23:59:58Z");
    const books = await openBooks(sql, { limitDaily: 9n });
    const full = { reason: "child_key_limit_exceeded", resetsAt: "2026-11-24T00:00:00.000Z" };
    const ask = (amount: bigint) => refusalOf(books, amount, there);
    expect(await ask(9n)).toBeUndefined();
    expect(await ask(1n)).toEqual(full);
    // 19:00 of the same day over there
    await setClock(sql, "2026-11-24T00:00:00Z");
    expect(await ask(9n)).toBeUndefined();
    const next = { ...full, resetsAt: "2026-11-25T00:00:00.000Z" };
    expect(await ask(1n)).toEqual(next);
    // Midnight over there changes nothing
    await setClock(sql, "2026-11-24T05:00:01Z");
    expect(await ask(1n)).toEqual(next);
    const [zone] = await local`select current_setting('TimeZone') as zone`;
    expect(zone?.zone).toBe("America/New_York");
    const { dailyResetsAt } = await getChildKey(local, books.owner, books.ref);
    expect(dailyResetsAt.toISOString()).toBe("2026-11-25T00:00:00.000Z");
  } finally {
    process.env.TZ = TZ;
    await there.close();
    await local.end();
  }
});

// LiteLLM #22013: a reset that ran late set what had been spent since to zero
test("resets that run late, again and again, zero nothing of what is spent meanwhile", async () => {
  await setClock(sql, "2026-11-30T23:59:59Z", { runs: true });
  const all = await Promise.all(Array.from({ length: 4 }, () => openBooks(sql)));
  let resetting = true;
  const reset = async (): Promise<void> => {
    for (const kind of ["day", "month"] as const) {
      const period = readPeriod(kind, kind === "day" ? "2026-12-01" : "2026-12");
      const { kind: state } = await openPeriod(sql, period);
      if (state === "early") continue;
      await rollCounters(sql, period);
      await closePeriod(sql, period);
    }
  };
  const resets = Array.from({ length: 2 }, async () => {
    while (resetting) await reset();
  });
  const spent = await Promise.all(
    all.map(async (books) => {
      let after = 0n;
      while (after < 300n) {
        const asked = holdOf(books, 10n);
        const { authorizedAt } = await holds.authorize(asked);
        await holds.capture(captureOf(books.account, asked.id, 9n));
        if (authorizedAt >= new Date("2026-12-01T00:00:00Z")) after += 9n;
      }
      return after;
    }),
  );
  resetting = false;
  await Promise.all(resets);
  for (const [i, books] of all.entries()) {
    const { usedDaily, usedMonthly } = await getChildKey(sql, books.owner, books.ref);
    expect([usedDaily, usedMonthly]).toEqual([spent[i], spent[i]]);
  }
  const [row] = await sql`
    select count(*)::int as n from period_reset where finished_at is not null`;
  expect(row?.n).toBe(2);
}, 60_000);
