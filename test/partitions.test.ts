import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newId } from "../src/base/ids.js";
import { DAY, now } from "../src/base/time.js";
import { proveBooks } from "../src/check/check.js";
import { connect, only, type Sql } from "../src/db/sql.js";
import { createHolds } from "../src/holds/engine.js";
import { type Archived, archiveMonths, makePartitions } from "../src/holds/partitions.js";
import { closePeriod, openPeriod, readPeriod, rollCounters } from "../src/holds/periods.js";
import { checkNewHoldId } from "../src/holds/requests.js";
import { settleShard } from "../src/ledger/ledger.js";
import { fillHistory } from "./bench/history.js";
import {
  type Books,
  captureOf,
  expectBooksAreRight,
  holdOf,
  openBooks,
  openDatabase,
  setClock,
} from "./support/books.js";

const timedId = (at: number): string => {
  const hex = at.toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8)}${newId().slice(13)}`;
};

/** Without the role that gateways take. */
const asOwner = (url: string): string => url.replace(/\?.*/, "");

type Database = Awaited<ReturnType<typeof openDatabase>>;

const monthsOf = async (sql: Sql): Promise<string[]> => {
  const rows = await sql<{ name: string }[]>`
    select name from hold_partitions('infinity') order by begins`;
  return rows.map((row) => row.name);
};

describe("when nobody has made partitions for years", () => {
  let database: Database;
  let books: Books;
  beforeAll(async () => {
    database = await openDatabase();
    books = await openBooks(database.sql);
  });
  afterAll(() => database?.close());

  const idAt = async (): Promise<string> =>
    only(await database.sql<{ id: string }[]>`select new_id(keytoll_clock()) as id`).id;

  test("a hold is authorized, captured, and swept all the same", async () => {
    const { sql } = database;
    const holds = createHolds(sql, { gateway: null });
    await setClock(sql, "2029-02-10T12:00:00Z");
    const [captured, orphan] = [await idAt(), await idAt()];
    for (const id of [captured, orphan]) {
      await holds.authorize(holdOf(books, 900n, { id, seconds: 600 }));
    }
    const answer = await holds.capture(captureOf(books.account, captured, 600n));
    expect(answer.usageSeq).toBe(1n);
    expect(await monthsOf(sql)).toContain("ended_hold_2029_02");
    await holds.close();
    await setClock(sql, "2029-02-10T13:00:00Z");
    expect(await sql`select * from sweep_holds(10, '0 seconds')`).toEqual([
      { captured: 0, voided: 1 },
    ]);
    await expectBooksAreRight(sql);
  });

  test("a hold that outlives its month by far ends in the month of its id", async () => {
    const { sql } = database;
    const holds = createHolds(sql, { gateway: null });
    await setClock(sql, "2031-05-31T23:59:59Z");
    const id = await idAt();
    await holds.authorize(holdOf(books, 900n, { id }));
    await setClock(sql, "2032-01-01T00:00:00Z");
    expect((await holds.capture(captureOf(books.account, id, 600n))).usageSeq).toBe(2n);
    await holds.close();
    const [row] =
      await sql`select tableoid::regclass::text as month from ended_hold where id = ${id}`;
    expect(row?.month).toBe("ended_hold_2031_05");
    await expectBooksAreRight(sql);
  });

  test("the application's role makes them, though no table is its own", async () => {
    const { sql, url } = database;
    await setClock(sql, "2035-01-01T00:00:00Z");
    const application = connect(url, { name: "application", max: 1 });
    expect(await makePartitions(application)).toBeGreaterThan(3);
    expect(await makePartitions(application)).toBe(0);
    await application.end();
  });
});

function aGate(): { open(): void; passed: Promise<void> } {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open: () => open(), passed };
}

test("months are made while a long reader has the table, and no capture waits", async () => {
  const database = await openDatabase();
  const { sql } = database;
  const books = await openBooks(sql);
  const holds = createHolds(sql, { gateway: null });
  const before = await monthsOf(sql);
  const [hasRead, released] = [aGate(), aGate()];
  const reader = sql.begin("isolation level repeatable read read only", async (tx) => {
    await tx`select count(*) from ended_hold`;
    hasRead.open();
    await released.passed;
  });
  await hasRead.passed;

  await sql`select ensure_hold_partitions(6)`;
  const hold = holdOf(books, 900n);
  await holds.authorize(hold);
  await holds.capture(captureOf(books.account, hold.id, 600n));
  expect((await monthsOf(sql)).length).toBe(before.length + 3);

  released.open();
  await reader;
  await holds.close();
  await expectBooksAreRight(sql);
  await database.close();
});

describe("an old month is taken off", () => {
  let database: Database;
  let account = "";
  let child = "";
  const thisMonth = new Date(now()).toISOString().slice(0, 7);
  const before = readPeriod("month", thisMonth);
  const MONTHS = 4;

  /** 600 records, not settled, of 30 child keys over five months. */
  beforeAll(async () => {
    database = await openDatabase();
    const past = { records: 600, children: 30, accounts: 2, months: MONTHS, settled: false };
    const filled = await fillHistory(asOwner(database.url), past);
    account = filled.accounts[0] ?? "";
    child = (await filled.childrenOf(account))[0] ?? "";
  });
  afterAll(() => database?.close());

  const archive = async (): Promise<Archived[]> => {
    const all: Archived[] = [];
    for await (const it of archiveMonths(database.sql, before)) all.push(it);
    return all;
  };
  const reasons = async () => (await archive()).map((it) => "reason" in it && it.reason);
  const rows = async () =>
    Number((await database.sql`select count(*) as n from ended_hold`)[0]?.n ?? 0);

  test("not before it is settled, without an open hold, summed up and proved", async () => {
    const { sql } = database;
    expect(await reasons()).toEqual([expect.stringContaining("is not settled")]);
    for (const shard of [0, 1, 2, 3]) await settleShard(sql, shard);
    const holds = createHolds(sql, { gateway: null });
    const today = new Date(now());
    const id = timedId(Date.UTC(today.getUTCFullYear(), today.getUTCMonth() - MONTHS, 15));
    await holds.authorize(holdOf({ account, child }, 900n, { id }));
    expect(await reasons()).toEqual([`hold ${id} of it is still open`]);
    await holds.void({ account, id });
    await holds.close();
    expect(await reasons()).toEqual([expect.stringContaining("is not summed up yet")]);
    for (let at = now() - 150 * DAY; at <= now(); at += DAY) {
      const day = new Date(at).toISOString().slice(0, 10);
      if (day.endsWith("-01")) await reset("month", day.slice(0, 7));
    }
    await reset("day", new Date(now()).toISOString().slice(0, 10));
    expect(await reasons()).toEqual([expect.stringContaining("run keytoll check first")]);
    expect((await proveBooks(sql, { whole: true, note: true })).ok).toBe(true);
    expect(await rows()).toBe(601);
  });

  async function reset(kind: "day" | "month", name: string): Promise<void> {
    const period = readPeriod(kind, name);
    await openPeriod(database.sql, period);
    await rollCounters(database.sql, period);
    await closePeriod(database.sql, period);
  }

  test("with its sums left behind: the books stay right, from the checkpoint and as a whole", async () => {
    const { sql } = database;
    const done = await archive();
    expect(done.map((it) => it.kind)).toEqual(["archived", "archived", "archived", "archived"]);
    const moved = done.reduce((sum, it) => sum + ("holds" in it ? Number(it.holds) : 0), 0);
    expect([moved > 400, await rows()]).toEqual([true, 601 - moved]);
    expect(await archive()).toEqual([]);
    for (const whole of [true, false]) {
      const verdict = await proveBooks(sql, { whole, note: true });
      expect(verdict.findings.flatMap((finding) => finding.violations)).toEqual([]);
    }
  });

  test("and business goes on: paid, settled, and proved against those sums", async () => {
    const { sql } = database;
    const holds = createHolds(sql, { gateway: null });
    const hold = holdOf({ account, child }, 900n);
    await holds.authorize(hold);
    await holds.capture(captureOf(account, hold.id, 600n));
    await holds.close();
    expect(await sql`select records from settle_account(${account}, 100)`).toEqual([
      { records: 1n },
    ]);
    await expectBooksAreRight(sql);
  });

  test("its rows still refuse changes, and the application's role does not reach them", async () => {
    const { sql, url } = database;
    const [table] = await sql<{ name: string }[]>`
      select format('%I.%I', schemaname, tablename) as name from pg_tables
       where schemaname = 'archive' order by 1`;
    const name = table?.name ?? "";
    await expect(sql.unsafe(`delete from ${name}`)).rejects.toThrow("append-only");
    const application = connect(url, { name: "application", max: 1 });
    await expect(application.unsafe(`select from ${name}`)).rejects.toThrow("permission denied");
    await application.end();
  });

  test("a tampered sum of it is found", async () => {
    const { sql } = database;
    await sql`update detached_child set used_total = used_total + 1 where child_key_id = ${child}`;
    const { findings } = await proveBooks(sql, { whole: true, note: false });
    const named = findings.flatMap((finding) => finding.violations).join();
    expect(named).toContain(child);
    await sql`update detached_child set used_total = used_total - 1 where child_key_id = ${child}`;
  });

  test("an unused id of it is refused, so that none is ever used twice", async () => {
    const [row] = await database.sql`
      select id from archive.${database.sql.unsafe(await anArchived())} limit 1`;
    expect(() => checkNewHoldId(row?.id)).toThrow("more than 24 hours");
    expect(checkNewHoldId(newId())).toBeDefined();
  });

  const anArchived = async (): Promise<string> =>
    (await database.sql`select tablename as name from pg_tables where schemaname = 'archive'`)[0]
      ?.name ?? "";
});
