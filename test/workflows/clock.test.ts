import postgres from "postgres";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { DAY, HOUR, now } from "../../src/base/time.js";
import type { Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { keepLease } from "../../src/holds/lease.js";
import { openPeriod, readPeriod } from "../../src/holds/periods.js";
import { expectBooksAreRight, requests, reset, usage } from "./clock-world.js";
import type { TestChild, World } from "./world.js";
import { aChild, anAccount, aWorld, quietLog, setClock, use } from "./world.js";

let world: World;
let sql: Sql;
let a: TestChild;
let b: TestChild;

beforeEach(async () => {
  world = await aWorld();
  sql = world.sql;
});
afterEach(() => world.close());

async function twoKeysAt(at: string): Promise<void> {
  await setClock(sql, at);
  a = await aChild(sql, await anAccount(sql));
  b = await aChild(sql, await anAccount(sql));
}

const counters = async () => [
  ...(await sql`select day, used_daily::int as daily, month, used_monthly::int as monthly
    from child_key order by created_at, id`),
];

const EDGES = [
  ["29 February", "2028-02-28", "2028-02-29", null],
  ["the day after 29 February", "2028-02-29", "2028-03-01", "2028-03"],
  ["the end of a February of 28 days", "2027-02-28", "2027-03-01", "2027-03"],
  ["the end of a month of 31 days", "2027-01-31", "2027-02-01", "2027-02"],
  ["the end of a month of 30 days", "2027-04-30", "2027-05-01", "2027-05"],
  ["the end of a year", "2026-12-31", "2027-01-01", "2027-01"],
  [
    "28 February of a year that 100 divides and 400 does not",
    "2100-02-28",
    "2100-03-01",
    "2100-03",
  ],
] as const;

test.each(EDGES)(
  "%s: what is captured in the last second is of the old day, in the first of the new",
  async (_, evening, morning, month) => {
    await twoKeysAt(`${evening}T23:59:59.999Z`);
    await use(world.holds, a, 2);
    await use(world.holds, b, 1);
    await setClock(sql, `${morning}T00:00:00Z`);
    await use(world.holds, a, 3);
    expect(await reset(sql, "day", morning)).toEqual(requests(3));
    if (month) expect(await reset(sql, "month", month)).toEqual(requests(3));
    expect(await reset(sql, "day", morning)).toBe("finished");
    const carried = month ? 0 : 7;
    const first = month ? `${month}-01` : `${evening.slice(0, 7)}-01`;
    const today = { day: morning, month: first };
    expect(await counters()).toEqual(
      expect.arrayContaining([
        { ...today, daily: 21, monthly: 21 + 2 * carried },
        { ...today, daily: 0, monthly: carried },
      ]),
    );
    await setClock(sql, new Date(Date.parse(morning) + DAY).toISOString());
    const next = new Date(Date.parse(morning) + DAY).toISOString().slice(0, 10);
    expect(await reset(sql, "day", next)).toEqual(requests(3));
    expect(await usage(sql)).toEqual([
      { day: evening, ...requests(3) },
      { day: morning, ...requests(3) },
    ]);
    await expectBooksAreRight(sql);
  },
);

test("a leap second is no second: a day has 86,400 of them, and 23:59:60 is the next day", async () => {
  const { begins, ended } = readPeriod("day", "2017-01-01");
  expect(begins.getTime() - ended.begins.getTime()).toBe(DAY);
  await twoKeysAt("2016-12-31T23:59:59Z");
  await use(world.holds, a, 1);
  await setClock(sql, "2016-12-31T23:59:60Z");
  await use(world.holds, a, 2);
  expect((await counters())[0]).toMatchObject({ day: "2017-01-01", daily: 14 });
  expect(await reset(sql, "day", "2017-01-01")).toEqual(requests(1));
});

const NIGHTS = [
  ["America/New_York", "into summer time", "2026-03-08", "2026-03-09"],
  ["America/New_York", "out of summer time", "2026-11-01", "2026-11-02"],
  ["Europe/Berlin", "into summer time", "2026-03-29", "2026-03-30"],
  ["Europe/Berlin", "out of summer time", "2026-10-25", "2026-10-26"],
] as const;

describe.each(NIGHTS)(
  "with host and database sessions in %s, the night %s",
  (zone, _, day, next) => {
    const { TZ } = process.env;
    let local: Sql;
    beforeEach(() => {
      process.env.TZ = zone;
      const types = { bigint: postgres.BigInt, date: plainDates };
      const connection = { TimeZone: zone, DateStyle: "ISO" };
      local = postgres(world.databaseUrl, { max: 2, types, connection }) as Sql;
    });
    afterEach(async () => {
      await local.end();
      process.env.TZ = TZ;
    });

    test("all days have 24 hours and begin at midnight UTC", async () => {
      const [session] = await local`select current_setting('TimeZone') as zone`;
      expect(session?.zone).toBe(zone);
      expect(readPeriod("day", next).ended.begins.toISOString()).toBe(`${day}T00:00:00.000Z`);
      const holds = createHolds(local, { gateway: null });
      await twoKeysAt(`${day}T00:00:00Z`);
      for (let hour = 0; hour < 24; hour++) {
        await setClock(sql, new Date(Date.parse(day) + hour * HOUR).toISOString());
        await use(holds, a, 1);
      }
      expect((await counters())[0]).toMatchObject({ day, daily: 24 * 7 });
      await setClock(sql, `${next}T00:00:00Z`);
      await use(holds, a, 1);
      expect(await reset(local, "day", next)).toEqual(requests(24));
      expect((await counters())[0]).toMatchObject({ day: next, daily: 7 });
      expect(await usage(sql)).toEqual([{ day, ...requests(24) }]);
      await holds.close();
      await expectBooksAreRight(sql);
    });
  },
);

const plainDates = { to: 1082, from: [1082], serialize: String, parse: String };

test.each([
  ["ahead of", HOUR],
  ["behind", -HOUR],
])("a gateway whose clock is an hour %s the database's is not ready", async (_, ahead) => {
  await setClock(sql, new Date(now() - ahead).toISOString());
  const lease = await keepLease(sql, newId(), quietLog);
  expect(lease.problem()).toMatch(
    /^the clocks of this machine and of Postgres are -?3\d{3} s apart$/,
  );
  await lease.stop();
  await setClock(sql, new Date(now() - 30_000).toISOString());
  const ready = await keepLease(sql, newId(), quietLog);
  expect(ready.problem()).toBeUndefined();
  await ready.stop();
});

test("a reset goes by the database's clock, an hour behind the worker's, to the millisecond", async () => {
  await setClock(sql, "2026-03-10T23:59:59.999Z");
  const period = readPeriod("day", "2026-03-11");
  expect(await openPeriod(sql, period)).toEqual({ kind: "early", waitMs: 1 });
  await setClock(sql, "2026-03-11T00:00:00Z");
  expect(await openPeriod(sql, period)).toEqual({ kind: "open" });
});
