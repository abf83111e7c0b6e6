import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { newId } from "../src/base/ids.js";
import { checkBooks } from "../src/check/check.js";
import { connect, type Sql } from "../src/db/sql.js";
import { freshDatabase, type TestDatabase } from "./support/database.js";
import type { RaceOrder, RaceReport } from "./support/racer.js";

const RACER = fileURLToPath(new URL("./support/racer.ts", import.meta.url));
const PROCESSES = 4;
const REQUESTS = 1_000;
const FIT = 50;
const COST = 1_000n;

let database: TestDatabase;
let sql: Sql;
let racers: ChildProcess[];
let account: string;
let child: string;

beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { name: "races", max: 4 });
  racers = Array.from({ length: PROCESSES }, () =>
    fork(RACER, [database.url], { execArgv: ["--import", "tsx"] }),
  );
  await Promise.all(
    racers.map((racer) => new Promise((resolve) => racer.once("message", resolve))),
  );
});

afterAll(async () => {
  for (const racer of racers ?? []) racer.disconnect();
  await sql?.end();
  await database?.drop();
});

beforeEach(async () => {
  [account, child] = [newId(), newId()];
});

afterEach(async () => {
  const findings = await checkBooks(sql);
  expect(findings.flatMap((finding) => finding.violations)).toEqual([]);
});

interface Limits {
  balance?: bigint;
  daily?: bigint;
  monthly?: bigint;
  total?: bigint;
}

async function openBooks({ balance = 10n ** 12n, daily, monthly, total }: Limits): Promise<void> {
  const manager = newId();
  await sql`insert into account (id, posted, last_at) values (${account}, ${balance}, keytoll_clock())`;
  await sql`
    insert into transfer values (${newId()}, '00000000-0000-0000-0000-000000000001', ${account},
      ${balance},
      'credit', ${newId()}, keytoll_clock())`;
  await sql`
    insert into management_key (id, account_id, name, hint, created_at, updated_at)
    values (${manager}, ${account}, 'm', 'gm-', now(), now())`;
  await sql`
    insert into child_key (id, account_id, management_key_id, name, hint, day, month, limit_daily,
      limit_monthly,
                           limit_total, created_at, updated_at)
    values (${child}, ${account}, ${manager}, 'c', 'gc-', (now() at time zone 'UTC')::date,
            date_trunc('month', now() at time zone 'UTC')::date, ${daily ?? null},
              ${monthly ?? null},
            ${total ?? null}, now(), now())`;
  await sql`
    insert into child_limit values (${child}, 'epoch', ${daily ?? null}, ${monthly ?? null},
      ${total ?? null})`;
}

function run(racer: ChildProcess, order: RaceOrder): Promise<RaceReport> {
  return new Promise((resolve) => {
    racer.once("message", (report) => resolve(report as RaceReport));
    racer.send(order);
  });
}

/** All processes ask at once. @returns how often each answer was given */
async function race(ids: string[][]): Promise<Record<string, number>> {
  const orders = ids.map((list) => ({ account, child, ids: list, amount: COST.toString() }));
  const reports = await Promise.all(
    orders.map((order, i) => run(racers[i] as ChildProcess, order)),
  );
  const all: Record<string, number> = {};
  for (const { answers } of reports) {
    for (const [answer, times] of Object.entries(answers)) all[answer] = (all[answer] ?? 0) + times;
  }
  return all;
}

const freshIds = (): string[][] =>
  Array.from({ length: PROCESSES }, () => Array.from({ length: REQUESTS / PROCESSES }, newId));

const fitting = COST * BigInt(FIT);
const LIMITS: [string, Limits, string][] = [
  ["a daily limit", { daily: fitting }, "child_key_limit_exceeded"],
  ["a monthly limit", { monthly: fitting }, "child_key_limit_exceeded"],
  ["a total limit", { total: fitting }, "child_key_limit_exceeded"],
  ["a balance", { balance: fitting }, "insufficient_balance"],
];

test.each(LIMITS)(
  "%s that fits 50 admits exactly 50 of 1,000 at once, from four processes",
  async (_, limits, reason) => {
    await openBooks(limits);
    expect(await race(freshIds())).toEqual({ held: FIT, [reason]: REQUESTS - FIT });
  },
);

test("all limits and the balance at 50 admit exactly 50 of 1,000 at once, from four processes", async () => {
  await openBooks({ balance: fitting, daily: fitting, monthly: fitting, total: fitting });
  expect(await race(freshIds())).toEqual({ held: FIT, child_key_limit_exceeded: REQUESTS - FIT });
});

test("at rest, a refused request really does not fit and one that fits is never refused", async () => {
  await openBooks({ daily: fitting + 999n });
  await race(freshIds());
  const answers = await race([[newId()], [], [], []]);
  expect(answers).toEqual({ child_key_limit_exceeded: 1 });
  const orders = { account, child, ids: [newId()], amount: "999" };
  expect((await run(racers[0] as ChildProcess, orders)).answers).toEqual({ held: 1 });
});

test("the same ids from four processes are each held once", async () => {
  await openBooks({});
  const ids = Array.from({ length: 200 }, newId);
  const answers = await race([ids, ids, ids, ids]);
  expect(answers).toEqual({ held: 200, repeated: 600 });
  const [row] = await sql`select held from account where id = ${account}`;
  expect(row?.held).toBe(200n * COST);
});
