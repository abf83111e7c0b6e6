import { afterAll, beforeAll, expect, test } from "vitest";
import { newId } from "../src/base/ids.js";
import { checkBooks, inLines } from "../src/check/check.js";
import { connect, type Sql } from "../src/db/sql.js";
import { createHolds } from "../src/holds/engine.js";
import { freshDatabase, type TestDatabase } from "./support/database.js";

let database: TestDatabase;
let sql: Sql;
const [account, manager, child, hold] = [newId(), newId(), newId(), newId()];

/** One owner, one child with a limit, one paid and settled request of 600 ngonka. */
beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { name: "check", max: 4 });
  await sql`insert into account (id, posted, last_at) values (${account}, 5000, keytoll_clock())`;
  await sql`
    insert into transfer values (${newId()}, '00000000-0000-0000-0000-000000000001', ${account},
      5000, 'credit', 'x', keytoll_clock())`;
  await sql`
    insert into management_key (id, account_id, name, hint, created_at, updated_at)
    values (${manager}, ${account}, 'm', 'gm-', 'epoch', 'epoch')`;
  await sql`
    insert into child_key (id, account_id, management_key_id, name, hint, day, month, limit_daily,
      created_at, updated_at)
    select ${child}, ${account}, ${manager}, 'c', 'gc-', (last_at at time zone 'UTC')::date,
           date_trunc('month', last_at at time zone 'UTC')::date, 1000, 'epoch', 'epoch'
      from account where id = ${account}`;
  await sql`insert into child_limit values (${child}, 'epoch', 1000, null, null)`;
  const holds = createHolds(sql, { gateway: null });
  const asked = { floor: 0n, secretVersion: 0, seconds: 60, fingerprint: 1n, own: false };
  const model = { model: null, priceVersion: null };
  await holds.authorize({ account, child, id: hold, part: 0, amount: 900n, ...asked, ...model });
  const usage = { inputTokens: 1n, outputTokens: 2n, estimated: false, own: false };
  await holds.capture({ account, id: hold, cost: 600n, fingerprint: 2n, ...usage });
  await sql`select * from settle_account(${account}, 100)`;
});

afterAll(async () => {
  await sql?.end();
  await database?.drop();
});

const failing = async () =>
  (await checkBooks(sql)).filter((finding) => finding.violations.length > 0);

test("all twelve invariants hold for a paid and settled request, each with what was counted", async () => {
  const findings = await checkBooks(sql);
  expect(findings.map((finding) => finding.no)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  expect(findings.flatMap((finding) => finding.violations)).toEqual([]);
  expect(findings.map((finding) => finding.counted).join()).toContain("1 usage records");
});

/** What somebody with the database's own password could do, what names it, and how it is undone. */
const TAMPERINGS: [string, string, string, number[], () => string][] = [
  [
    "a usage record made cheaper",
    "update ended_hold set request_cost = 1, cost = 1",
    "update ended_hold set request_cost = 600, cost = 600",
    [3, 8],
    () => account,
  ],
  [
    "a balance raised",
    "update account set posted = posted + 1",
    "update account set posted = posted - 1",
    [2],
    () => account,
  ],
  [
    "a counter lowered",
    "update child_key set used_daily = 0",
    "update child_key set used_daily = 600",
    [3],
    () => child,
  ],
  [
    "a limit lowered behind the back of an authorization",
    "update child_limit set limit_daily = 800",
    "update child_limit set limit_daily = 1000",
    [3],
    () => child,
  ],
  [
    "a transfer changed",
    "update transfer set amount = 599 where kind = 'settlement'",
    "update transfer set amount = 600 where kind = 'settlement'",
    [2, 11],
    () => account,
  ],
];

test.each(TAMPERINGS)("%s is found and named by its row", async (_, tamper, undo, broken, row) => {
  const behindTheTriggers = (text: string) =>
    sql.begin(async (tx) => {
      await tx`set local session_replication_role = replica`;
      await tx.unsafe(text);
    });
  await behindTheTriggers(tamper);
  const findings = await failing();
  await behindTheTriggers(undo);
  expect(findings.map((finding) => finding.no)).toEqual(broken);
  expect(findings.flatMap(inLines).join("\n")).toContain(row());
  expect(await failing()).toEqual([]);
});
