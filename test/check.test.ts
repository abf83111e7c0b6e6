import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { newId } from "../src/base/ids.js";
import { inLines, proveBooks, type Verdict } from "../src/check/check.js";
import { connect, type Sql } from "../src/db/sql.js";
import { createHolds } from "../src/holds/engine.js";
import type { Holds } from "../src/holds/holds.js";
import { freshDatabase, type TestDatabase } from "./support/database.js";

let database: TestDatabase;
let sql: Sql;
let application: Sql;
let holds: Holds;
const [account, manager, child, hold, open] = [newId(), newId(), newId(), newId(), newId()];

const ASKED = { floor: 0n, secretVersion: 0, seconds: 600, fingerprint: 1n, own: false };
const USED = { inputTokens: 1n, outputTokens: 2n, estimated: false, own: false, fingerprint: 2n };

async function request(id: string, amount: bigint, cost: bigint): Promise<void> {
  await authorize(id, amount);
  await holds.capture({ account, id, cost, ...USED });
}

const authorize = (id: string, amount: bigint) =>
  holds.authorize({
    ...{ account, child, id, part: 0, amount, ...ASKED },
    ...{ model: null, priceVersion: null },
  });

/**
 * One owner, one child with a limit; one paid and settled request of 5 ngonka that a checkpoint
 * covers, then one of 600, and an open hold.
 */
beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { name: "check", max: 4 });
  application = connect(database.applicationUrl, { name: "check money", max: 4 });
  holds = createHolds(application, { gateway: null });
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
  await request(newId(), 10n, 5n);
  await application`select * from settle_account(${account}, 100)`;
  await proveBooks(sql, { whole: false, note: true });
  await request(hold, 900n, 600n);
  await authorize(open, 100n);
  await application`select * from settle_account(${account}, 100)`;
});

afterAll(async () => {
  await holds?.close();
  await Promise.all([sql?.end(), application?.end()]);
  await database?.drop();
});

const MODES = [
  { mode: "from the first row", whole: true },
  { mode: "from the checkpoint", whole: false },
];

const failing = ({ findings }: Verdict) =>
  findings.filter((finding) => finding.violations.length > 0);

const problems = (verdict: Verdict) => failing(verdict).flatMap(inLines).join("\n");

test("all twelve invariants hold for a paid and settled request, each with what was counted", async () => {
  const { ok, findings } = await proveBooks(sql, { whole: true, note: false });
  expect(findings.map((finding) => finding.no)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  expect([ok, findings.flatMap((finding) => finding.violations)]).toEqual([true, []]);
  expect(findings.map((finding) => finding.counted).join()).toContain("2 posts of 2 records");
});

test("a pass from the checkpoint reads only what came after it", async () => {
  const { ok, whole, from, findings } = await proveBooks(sql, { whole: false, note: false });
  expect({ ok, whole, from: from?.no }).toEqual({ ok: true, whole: false, from: 1n });
  expect(findings.map((finding) => finding.counted).join()).toContain("1 posts of 1 records");
});

/** What somebody with the database's own password could do, what names it, and how it is undone. */
const TAMPERINGS: [string, string, string, number[], () => string][] = [
  [
    "a transfer from an account that is not there",
    "update transfer set debit_account = '00000000-0000-0000-0000-0000000000ff' where reference = 'x'",
    "update transfer set debit_account = '00000000-0000-0000-0000-000000000001' where reference = 'x'",
    [1],
    () => "00000000-0000-0000-0000-0000000000ff",
  ],
  [
    "a balance raised",
    "update account set posted = posted + 1",
    "update account set posted = posted - 1",
    [2],
    () => account,
  ],
  [
    "an open hold made smaller",
    "update open_hold set amount = 99",
    "update open_hold set amount = 100",
    [2, 3],
    () => child,
  ],
  [
    "a usage record made cheaper",
    `update ended_hold set request_cost = 1, cost = 1 where id = '${hold}'`,
    `update ended_hold set request_cost = 600, cost = 600 where id = '${hold}'`,
    [3, 8],
    () => account,
  ],
  [
    "a counter lowered",
    "update child_key set used_daily = 0",
    "update child_key set used_daily = 705",
    [3],
    () => child,
  ],
  [
    "a limit lowered behind the back of an authorization",
    "update child_limit set limit_daily = 800",
    "update child_limit set limit_daily = 1000",
    [3],
    () => hold,
  ],
  [
    "a hold captured above what it held",
    `update ended_hold set amount = 599 where id = '${hold}'`,
    `update ended_hold set amount = 900 where id = '${hold}'`,
    [4],
    () => hold,
  ],
  [
    "a request whose parts do not add up",
    `update ended_hold set request_cost = 601 where id = '${hold}'`,
    `update ended_hold set request_cost = 600 where id = '${hold}'`,
    [4, 8],
    () => hold,
  ],
  [
    "a hold that is ended and yet open",
    `update open_hold set id = '${hold}'`,
    `update open_hold set id = '${open}'`,
    [4],
    () => hold,
  ],
  [
    "the same reference posted twice",
    `alter table transfer drop constraint transfer_kind_reference_key;
     insert into transfer select gen_random_uuid(), '00000000-0000-0000-0000-000000000003',
       '00000000-0000-0000-0000-000000000004', 1, 'loss', 'twice', now() from generate_series(1, 2)`,
    `delete from transfer where reference = 'twice';
     alter table transfer add unique (kind, reference)`,
    [5],
    () => "loss twice was posted 2 times",
  ],
  [
    "a usage record with other tokens",
    `update ended_hold set output_tokens = 3 where id = '${hold}'`,
    `update ended_hold set output_tokens = 2 where id = '${hold}'`,
    [8],
    () => `account ${account}, post 2: records 2 to 2`,
  ],
  [
    "a usage record removed",
    `create table kept as select * from ended_hold where id = '${hold}';
     delete from ended_hold where id = '${hold}'`,
    "insert into ended_hold select * from kept; drop table kept",
    [3, 8, 10],
    () => `account ${account}, post 2: records 2 to 2`,
  ],
  [
    "a link of a chain written anew",
    "update settlement_post set hash = sha256(hash) where no = 1",
    `update settlement_post set hash = (select previous_hash from settlement_post where no = 2)
      where no = 1`,
    [8],
    () => `account ${account}, post 2: does not continue the one before`,
  ],
  [
    "a trigger switched off",
    "alter table settlement_post disable trigger append_only",
    "alter table settlement_post enable trigger append_only",
    [8],
    () => "settlement_post has lost its append-only trigger",
  ],
  [
    "a grant too many",
    "grant update on transfer to keytoll_app",
    "revoke update on transfer from keytoll_app",
    [8],
    () => "the role keytoll_app may change transfer",
  ],
  [
    "a hold moved to another day",
    `update ended_hold set day = day - 1 where id = '${hold}'`,
    `update ended_hold set day = day + 1 where id = '${hold}'`,
    [3, 8, 9],
    () => hold,
  ],
  [
    "an account's time set back",
    "update account set last_at = last_at - interval '1 hour'",
    "update account set last_at = last_at + interval '1 hour'",
    [9],
    () => hold,
  ],
  [
    "a request counted that nobody made",
    "update child_key set requests_total = 3",
    "update child_key set requests_total = 2",
    [10],
    () => child,
  ],
  [
    "a transfer changed",
    "update transfer set amount = 599 where amount = 600",
    "update transfer set amount = 600 where amount = 599",
    [2, 11],
    () => `account ${account}, post 2 of 600`,
  ],
  [
    "a roll-up that the usage does not make",
    `insert into usage_rollup select day, child_key_id, '', account_id, 1, 0, 0, 7
       from ended_hold where id = '${hold}'`,
    "delete from usage_rollup",
    [11],
    () => `roll-up of child key ${child}`,
  ],
  [
    "a key disabled before it spent",
    "update child_key set status = 'disabled'",
    "update child_key set status = 'active'",
    [12],
    () => hold,
  ],
];

const behindTheTriggers = (text: string) =>
  sql.begin(async (tx) => {
    await tx`set local session_replication_role = replica`;
    await tx.unsafe(text);
  });

describe.each(MODES)("$mode", ({ whole }) => {
  const check = () => proveBooks(sql, { whole, note: false });

  test.each(TAMPERINGS)(
    "%s is found and named by its row",
    async (_, tamper, undo, broken, row) => {
      await behindTheTriggers(tamper);
      const verdict = await check();
      await behindTheTriggers(undo);
      expect(failing(verdict).map((finding) => finding.no)).toEqual(broken);
      expect(problems(verdict)).toContain(row());
      expect(problems(await check())).toBe("");
    },
  );

  test("a setting that lets acknowledged work be lost is named", async () => {
    const name = new URL(database.url).pathname.slice(1);
    await sql.unsafe(`alter database ${name} set synchronous_commit = off`);
    const careless = connect(database.url, { name: "careless", max: 2 });
    const verdict = await proveBooks(careless, { whole, note: false });
    await careless.end();
    await sql.unsafe(`alter database ${name} reset synchronous_commit`);
    expect(problems(verdict)).toContain("synchronous_commit is off");
  });

  test("a hold that stays open past its deadline is named", async () => {
    await sql`update open_hold set deadline = 'epoch'`;
    // a server that started within the last minute leaves its gateways time first
    await vi.waitFor(async () => expect(problems(await check())).toContain(`hold ${open}`), {
      timeout: 75_000,
      interval: 500,
    });
    await sql`update open_hold set deadline = keytoll_clock() + interval '10 minutes'`;
  }, 90_000);
});

test("a pass that finds something notes no checkpoint", async () => {
  await sql`update account set posted = posted + 1`;
  const { noted } = await proveBooks(sql, { whole: false, note: true });
  await sql`update account set posted = posted - 1`;
  expect(noted).toBeNull();
  expect(await sql`select from proof`).toHaveLength(1);
});

test("a record that a checkpoint covers is proved again from the first row on, and named", async () => {
  const spoil = (tokens: number) =>
    behindTheTriggers(`update ended_hold set output_tokens = ${tokens} where usage_seq = 1`);
  await spoil(3);
  const recent = await proveBooks(sql, { whole: false, note: false });
  const whole = await proveBooks(sql, { whole: true, note: false });
  await spoil(2);
  expect(recent.ok).toBe(true);
  expect(problems(whole)).toContain(`account ${account}, post 1: records 1 to 1`);
  expect(problems(whole)).toMatch(/do not recompute: record 1 \(hold [0-9a-f-]{36}\) was changed/);
});

test("books written anew as a whole do not fit the checkpoint, nor does a checkpoint that was changed", async () => {
  await behindTheTriggers("update proof_account set chain = sha256(chain)");
  const rewritten = problems(await proveBooks(sql, { whole: false, note: false }));
  await behindTheTriggers(
    "update proof_account set chain = (select hash from settlement_post where no = 1)",
  );
  expect(rewritten).toContain(`account ${account}, post 1: another hash than at the checkpoint`);
  expect(rewritten).toContain("checkpoint 1 was changed after it was noted");
});

test("passes from checkpoint to checkpoint add up to the same as one from the first row", async () => {
  for (let round = 0; round < 3; round++) {
    await request(newId(), 20n, 10n);
    if (round === 1) await application`select * from settle_account(${account}, 100)`;
    const { ok, noted } = await proveBooks(sql, { whole: false, note: true });
    expect({ ok, noted: noted?.no }).toEqual({ ok: true, noted: BigInt(round + 2) });
  }
  expect((await proveBooks(sql, { whole: true, note: false })).ok).toBe(true);
  expect(await sql`select usage_seq::int, settled_seq::int from proof_account`).toEqual([
    { usage_seq: 5, settled_seq: 4 },
  ]);
});
