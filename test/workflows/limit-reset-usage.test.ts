import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { connect, type Sql } from "../../src/db/sql.js";
import { childrenReset, closePeriod, readPeriod } from "../../src/holds/periods.js";
import { expectBooksAreRight, requests, reset, usage } from "./clock-world.js";
import type { TestChild, World } from "./world.js";
import { aChild, anAccount, aWorld, openHold, setClock, use } from "./world.js";

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

describe("what is captured into a day that is summed up, since the database's clock stepped back", () => {
  /** `b` was idle all day, so that its account's time has not reached midnight. */
  beforeEach(async () => {
    await twoKeysAt("2026-03-10T12:00:00Z");
    await use(world.holds, a, 2);
    await setClock(sql, "2026-03-31T12:00:00Z");
    await use(world.holds, a, 4);
    await setClock(sql, "2026-04-01T00:00:03Z");
    expect(await reset(sql, "day", "2026-04-01")).toEqual(requests(4));
    expect(await reset(sql, "month", "2026-04")).toEqual(requests(6));
    await setClock(sql, "2026-03-31T23:59:58Z");
    await use(world.holds, b, 5);
    await setClock(sql, "2026-04-01T00:00:10Z");
  });

  const totals = async () => [
    ...(await sql`
      select kind, period, requests::int, cost::int from period_reset order by kind, period`),
  ];

  test("breaks no books and is in no roll-up before the next run", async () => {
    expect(await usage(sql)).toEqual([
      { day: "2026-03-10", ...requests(2) },
      { day: "2026-03-31", ...requests(4) },
    ]);
    await expectBooksAreRight(sql);
  });

  test("is added to its own day and month by the next run, once", async () => {
    await setClock(sql, "2026-04-02T00:00:01Z");
    expect(await reset(sql, "day", "2026-04-02")).toEqual(requests(0));
    const caughtUp = [
      { day: "2026-03-10", ...requests(2) },
      { day: "2026-03-31", ...requests(9) },
    ];
    expect(await usage(sql)).toEqual(caughtUp);
    const right = [
      { kind: "day", period: "2026-04-01", ...requests(9) },
      { kind: "day", period: "2026-04-02", ...requests(0) },
      { kind: "month", period: "2026-04-01", ...requests(11) },
    ];
    expect(await totals()).toEqual(right);
    await closePeriod(sql, readPeriod("day", "2026-04-02"));
    await closePeriod(sql, readPeriod("day", "2026-04-01"));
    await closePeriod(sql, readPeriod("month", "2026-04"));
    expect(await usage(sql)).toEqual(caughtUp);
    expect(await totals()).toEqual(right);
    await expectBooksAreRight(sql);
  });

  test("is caught up without a write to accounts that are idle", async () => {
    const idle = await Promise.all(Array.from({ length: 5 }, () => anAccount(sql)));
    const versions = async () => [
      ...(await sql`select id, xmin::text, last_at from account where id = any(${idle}) order by id`),
    ];
    const before = await versions();
    await setClock(sql, "2026-04-02T00:00:01Z");
    await reset(sql, "day", "2026-04-02");
    expect(await versions()).toEqual(before);
    expect((await usage(sql))[1]).toEqual({ day: "2026-03-31", ...requests(9) });
  });
});

test("days that nobody summed up are, each under its own date, by whichever run comes next", async () => {
  await twoKeysAt("2026-03-09T10:00:00Z");
  for (const [day, count] of [
    ["09", 1],
    ["10", 2],
    ["11", 3],
  ] as const) {
    await setClock(sql, `2026-03-${day}T10:00:00Z`);
    await use(world.holds, a, count);
  }
  await setClock(sql, "2026-03-12T00:00:00Z");
  expect(await reset(sql, "day", "2026-03-12")).toEqual(requests(3));
  expect(await reset(sql, "day", "2026-03-11")).toEqual(requests(2));
  expect(await reset(sql, "day", "2026-03-10")).toEqual(requests(1));
  expect(await usage(sql)).toEqual([
    { day: "2026-03-09", ...requests(1) },
    { day: "2026-03-10", ...requests(2) },
    { day: "2026-03-11", ...requests(3) },
  ]);
  await expectBooksAreRight(sql);
});

test("two runs at once, with captures beside them, count every record once", async () => {
  await twoKeysAt("2026-03-10T23:59:00Z");
  await use(world.holds, a, 40);
  await setClock(sql, "2026-03-11T00:00:00Z");
  const other = connect(world.databaseUrl, { max: 4, name: "other worker" });
  await Promise.all([
    ...[sql, other, sql].map((on) => reset(on, "day", "2026-03-11")),
    use(world.holds, a, 30),
    use(world.holds, b, 30),
  ]);
  await setClock(sql, "2026-03-12T00:00:00Z");
  await Promise.all([sql, other].map((on) => reset(on, "day", "2026-03-12")));
  expect(await usage(sql)).toEqual([
    { day: "2026-03-10", ...requests(40) },
    { day: "2026-03-11", ...requests(60) },
  ]);
  await expectBooksAreRight(sql);
  await other.end();
});

test("those who are told of a reset are the children with a limit that were charged in the ended period", async () => {
  await twoKeysAt("2026-03-30T12:00:00Z");
  const unlimited = await aChild(sql, a.account);
  const idle = await aChild(sql, a.account);
  const limited = [a.child, b.child, idle.child];
  await sql`
    update child_key set limit_daily = 100000, limit_monthly = 200000 where id = any(${limited})`;
  await use(world.holds, b, 2);
  await setClock(sql, "2026-03-31T12:00:00Z");
  await use(world.holds, a, 3);
  await use(world.holds, unlimited, 1);
  await openHold(world.holds, idle);
  await setClock(sql, "2026-04-01T00:00:00Z");
  await reset(sql, "day", "2026-04-01");
  await reset(sql, "month", "2026-04");

  const told = async (kind: "day" | "month", name: string) => {
    const all = [];
    for (let after: string | null = null; ; ) {
      const page = await childrenReset(sql, readPeriod(kind, name), after, 1);
      all.push(...page.children);
      after = page.last;
      if (after === null) return all;
    }
  };
  const of = ({ child, account }: TestChild, limit: bigint, count: bigint) => ({
    ...{ child, account, limit },
    ...{ requests: count, used: 7n * count },
  });
  expect(await told("day", "2026-04-01")).toEqual([of(a, 100_000n, 3n)]);
  expect(await told("month", "2026-04")).toEqual([of(a, 200_000n, 3n), of(b, 200_000n, 2n)]);
});
