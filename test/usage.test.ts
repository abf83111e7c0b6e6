import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DAY, HOUR, MINUTE, now, SECOND } from "../src/base/time.js";
import { proveBooks } from "../src/check/check.js";
import { createHolds } from "../src/holds/engine.js";
import { archiveMonths } from "../src/holds/partitions.js";
import { closePeriod, openPeriod, readPeriod, rollCounters } from "../src/holds/periods.js";
import type { Manager } from "../src/keys/caller.js";
import { createManagementKey } from "../src/keys/management-keys.js";
import { listUsageRecords, summarizeUsage, type Wanted } from "../src/usage/usage.js";
import { fillHistory } from "./bench/history.js";
import {
  type Books,
  captureOf,
  holdOf,
  openBooks,
  openChild,
  openDatabase,
  PEPPER,
  setClock,
} from "./support/books.js";
import { refusalOf } from "./support/doors.js";

type Database = Awaited<ReturnType<typeof openDatabase>>;
type Sql = Database["sql"];
type Group = "day" | "model" | "child";

const FIRST = Math.floor(now() / DAY) * DAY - 4 * DAY;
const MODELS = ["demo/fast", "demo/slow", null];

interface Raw {
  child: string;
  model: string | null;
  inputTokens: bigint | null;
  outputTokens: bigint | null;
  cost: bigint;
  at: Date;
}

const rawOf = async (sql: Sql, account: string): Promise<Raw[]> => [
  ...(await sql<Raw[]>`
    select child_key_id as child, model, input_tokens as "inputTokens",
           output_tokens as "outputTokens", cost, captured_at as at
      from usage_record where account_id = ${account} order by usage_seq desc`),
];

/** The same sums, made from the records one by one. */
function summed(raw: Raw[], { from, to, child }: Wanted, children: readonly string[], by?: Group) {
  const lines = new Map<string, [bigint, bigint, bigint, bigint]>();
  for (const it of raw) {
    const within = (!from || it.at >= from) && (!to || it.at < to);
    if (!within || !children.includes(it.child) || (child && it.child !== child)) continue;
    const keys = { day: it.at.toISOString().slice(0, 10), model: it.model ?? "", child: it.child };
    const key = by ? keys[by] : "";
    const [n, input, output, cost] = lines.get(key) ?? [0n, 0n, 0n, 0n];
    const tokens = [input + (it.inputTokens ?? 0n), output + (it.outputTokens ?? 0n)] as const;
    lines.set(key, [n + 1n, ...tokens, cost + it.cost]);
  }
  return [...lines].sort(([a], [b]) => (a < b ? -1 : 1));
}

async function asked(sql: Sql, manager: Manager, wanted: Wanted, group: Group | null, limit = 2) {
  const lines: [string, [bigint, bigint, bigint, bigint]][] = [];
  let totals: bigint[] = [];
  for (let cursor: string | undefined, more = true; more; ) {
    const page = await summarizeUsage(sql, manager, { ...wanted, group, cursor, limit });
    for (const it of page.lines) {
      lines.push([it.key, [it.requests, it.inputTokens, it.outputTokens, it.cost]]);
    }
    const { requests, inputTokens, outputTokens, cost } = page.totals;
    totals = [requests, inputTokens, outputTokens, cost];
    cursor = page.nextCursor;
    more = cursor !== undefined;
  }
  return { lines, totals };
}

/** Sums up the day that has just begun, as the reset does. */
async function sumUpUntil(sql: Sql, at: number): Promise<void> {
  const period = readPeriod("day", new Date(at).toISOString().slice(0, 10));
  if ((await openPeriod(sql, period)).kind !== "open") return;
  await rollCounters(sql, period);
  await closePeriod(sql, period);
}

const steps = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: fc.record({ use: fc.nat(2), model: fc.nat(2), cost: fc.nat(900) }) },
    { weight: 3, arbitrary: fc.record({ wait: fc.integer({ min: 1, max: 20 * HOUR }) }) },
    { weight: 2, arbitrary: fc.constant({ rollUp: true }) },
    { weight: 1, arbitrary: fc.record({ back: fc.integer({ min: 1, max: 6 * HOUR }) }) },
  ),
  { minLength: 15, maxLength: 30 },
);
const moment = fc.oneof(
  fc.constant(null),
  fc.nat(7).map((day) => new Date(FIRST + (day - 1) * DAY)),
  fc.nat(7 * DAY).map((ms) => new Date(FIRST - DAY + ms)),
);
const query = fc
  .record({
    from: moment,
    to: moment,
    group: fc.constantFrom("day", "model", "child", null) as fc.Arbitrary<Group | null>,
    child: fc.option(fc.nat(2), { nil: undefined }),
    asManager: fc.boolean(),
  })
  .filter(({ from, to }) => !from || !to || from < to);
const queries = fc.array(query, { minLength: 12, maxLength: 12 });

test("sums from roll-ups equal the sums of all records, whenever they were rolled up", {
  timeout: 120_000,
}, async () => {
  const property = fc.asyncProperty(steps, queries, async (all, questions) => {
    const database = await openDatabase(3);
    const { sql } = database;
    try {
      const { books, manager, children } = await threeChildren(sql);
      await play(sql, books, children, all);
      const raw = await rawOf(sql, books.account);
      for (const { from, to, group, child, asManager } of questions) {
        const mine = asManager ? children.slice(0, 2) : children;
        const wanted = { from, to, child: child === undefined ? undefined : mine[child] };
        const { lines, totals } = await asked(
          sql,
          asManager ? manager : books.owner,
          wanted,
          group,
        );
        expect(lines).toEqual(group === null ? [] : summed(raw, wanted, mine, group));
        const [[, sum] = ["", [0n, 0n, 0n, 0n]]] = summed(raw, wanted, mine);
        expect(totals).toEqual(sum);
      }
    } finally {
      await database.close();
    }
  });
  await fc.assert(property, { numRuns: 6, endOnFailure: true });
});

/** Two children of one management key, and one of another. */
async function threeChildren(sql: Sql) {
  await setClock(sql, new Date(FIRST).toISOString());
  const books = await openBooks(sql);
  const { owner, managementKey, account } = books;
  const fields = { name: "Other", access: "read_write", expiresAt: null } as const;
  const other = await createManagementKey(sql, owner, fields, PEPPER);
  const second = await openChild(sql, owner, managementKey, { name: "=cmd()" });
  const third = await openChild(sql, owner, other.key.id);
  const manager: Manager = {
    ...{ kind: "management", account, managementKey, secretVersion: 1, access: "read_only" },
  };
  return { books, manager, children: [books.child, second, third] };
}

type Step = Partial<Record<"use" | "model" | "cost" | "wait" | "back", number>> & {
  rollUp?: boolean;
};

async function play(sql: Sql, books: Books, children: string[], all: Step[]): Promise<void> {
  const holds = createHolds(sql, { gateway: null });
  let at = FIRST + HOUR;
  for (const step of all) {
    at += step.wait ?? -(step.back ?? 0);
    await setClock(sql, new Date(at).toISOString());
    if (step.use === undefined) {
      if (step.rollUp) await sumUpUntil(sql, at);
      continue;
    }
    const child = children[step.use] ?? "";
    const hold = holdOf({ account: books.account, child }, 1_000n);
    const model = MODELS[step.model ?? 0] ?? null;
    await holds.authorize({ ...hold, model, priceVersion: null });
    await holds.capture(captureOf(books.account, hold.id, BigInt(step.cost ?? 0)));
  }
  await holds.close();
}

describe("records", () => {
  let database: Database;
  let sql: Sql;
  let books: Books;
  let manager: Manager;
  let children: string[];
  beforeAll(async () => {
    database = await openDatabase();
    ({ sql } = database);
    ({ books, manager, children } = await threeChildren(sql));
    const day = Array.from({ length: 60 }, (_, i): Step[] => [
      { use: i % 3, model: i % 3, cost: i },
      { wait: HOUR },
    ]).flat();
    await play(sql, books, children, day);
  });
  afterAll(() => database?.close());

  async function all(caller: Manager, wanted: Wanted) {
    const records = [];
    for (let cursor: string | undefined, more = true; more; ) {
      const page = await listUsageRecords(sql, caller, { ...wanted, cursor });
      records.push(...page.records);
      cursor = page.nextCursor;
      more = cursor !== undefined;
    }
    return records;
  }

  test("are listed newest first, each once, by pages of any length", async () => {
    for (const limit of [1, 7, 60, 1_000]) {
      const numbers = (await all(books.owner, { from: null, to: null, limit })).map(
        (it) => it.number,
      );
      expect(numbers).toEqual(Array.from({ length: 60 }, (_, i) => BigInt(60 - i)));
    }
  });

  test("are those of the time asked for, half-open, and of the caller's own children", async () => {
    const raw = await rawOf(sql, books.account);
    const [from, to] = [raw[40]?.at ?? null, raw[9]?.at ?? null];
    const costs = async (caller: Manager, child?: string) =>
      (await all(caller, { from, to, child, limit: 4 })).map((it) => it.cost);
    const within = raw.slice(10, 41);
    expect(await costs(books.owner)).toEqual(within.map((it) => it.cost));
    const mine = within.filter((it) => it.child !== children[2]);
    expect(await costs(manager)).toEqual(mine.map((it) => it.cost));
    const first = within.filter((it) => it.child === children[0]);
    expect(await costs(manager, children[0])).toEqual(first.map((it) => it.cost));
    const foreign = all(manager, { from, to, child: children[2] });
    expect(await refusalOf(foreign)).toMatchObject({ reason: "not_found", param: "child_id" });
  });

  test("of another account are nobody's business", async () => {
    const stranger = await openBooks(sql);
    const nothing = { from: null, to: null };
    expect(await all(stranger.owner, nothing)).toEqual([]);
    const { totals } = await asked(sql, stranger.owner, nothing, "child");
    expect(totals).toEqual([0n, 0n, 0n, 0n]);
    const foreign = summarizeUsage(sql, stranger.owner, {
      ...{ from: null, to: null, child: children[0], group: null },
    });
    expect((await refusalOf(foreign)).reason).toBe("not_found");
  });

  const wrong: [string, Partial<Wanted>, string][] = [
    ["an end before its beginning", { from: new Date(2), to: new Date(1) }, "from"],
    ["an end at its beginning", { from: new Date(2), to: new Date(2) }, "from"],
    ["a page of nothing", { limit: 0 }, "limit"],
    ["a page of too much", { limit: 1_001 }, "limit"],
    ["a cursor of another list", { cursor: "bm9uZQ" }, "cursor"],
    ["no id at all", { child: "" }, "child_id"],
  ];
  test.each(wrong)("%s is refused by name", async (_what, part, param) => {
    const wanted = { from: null, to: null, ...part };
    for (const call of [
      listUsageRecords(sql, books.owner, wanted),
      summarizeUsage(sql, books.owner, { ...wanted, group: "day" }),
    ]) {
      expect(await refusalOf(call)).toMatchObject({ reason: "invalid_request_error", param });
    }
  });
});

test("of archived months whole days are still summed up exactly, and parts of days are refused by name", {
  timeout: 120_000,
}, async () => {
  const database = await openDatabase();
  const { sql } = database;
  const past = { records: 30_000, children: 50, accounts: 2, months: 3, settled: true };
  const [account = ""] = (await fillHistory(database.url.replace(/\?.*/, ""), past)).accounts;
  const owner = { kind: "owner", account } as const;
  const everything = { from: null, to: null };
  const raw = await rawOf(sql, account);
  const children = [...new Set(raw.map((it) => it.child))];
  const months = [0, 1, 2, 3].map((back) => {
    const at = new Date(now());
    at.setUTCDate(1);
    at.setUTCMonth(at.getUTCMonth() - back);
    return at.toISOString().slice(0, 7);
  });
  for (const name of months.toReversed()) {
    const period = readPeriod("month", name);
    await openPeriod(sql, period);
    await closePeriod(sql, period);
  }
  await sumUpUntil(sql, now());
  const before = await asked(sql, owner, everything, "day", 1_000);
  expect(before.lines).toEqual(summed(raw, everything, children, "day"));

  expect((await proveBooks(sql, { whole: true, note: true })).ok).toBe(true);
  const [newest = ""] = months;
  const archived = [];
  for await (const it of archiveMonths(sql, readPeriod("month", newest))) archived.push(it.kind);
  expect(archived).toContain("archived");
  expect(await asked(sql, owner, everything, "day", 1_000)).toEqual(before);
  const days = { from: new Date(FIRST - 80 * DAY), to: new Date(FIRST - 40 * DAY) };
  expect((await asked(sql, owner, days, "model", 1_000)).lines).toEqual(
    summed(raw, days, children, "model"),
  );
  for (const param of ["from", "to"] as const) {
    const noon = new Date(days[param].getTime() + 12 * HOUR + MINUTE + SECOND);
    const cut = { ...days, [param]: noon, group: null };
    expect(await refusalOf(summarizeUsage(sql, owner, cut))).toMatchObject({ param });
  }
  await database.close();
});
