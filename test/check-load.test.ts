import { afterEach, beforeEach, expect, test } from "vitest";
import { inLines, proveBooks, type Verdict } from "../src/check/check.js";
import { settleShard } from "../src/ledger/ledger.js";
import { fillHistory } from "./bench/history.js";
import {
  aChild,
  anAccount,
  aWorld,
  openHold,
  type TestChild,
  type World,
} from "./workflows/world.js";

let world: World;
beforeEach(async () => {
  world = await aWorld();
});
afterEach(() => world.close());

const problems = ({ findings }: Verdict) =>
  findings.filter((finding) => finding.violations.length > 0).flatMap(inLines);

/** Holds, extensions, captures and voids of a key, one after the other, until told to stop. */
async function keepUsing({ holds }: World, key: TestChild, stop: AbortSignal): Promise<number> {
  const { account } = key;
  let done = 0;
  for (; !stop.aborted; done++) {
    const id = await openHold(holds, key);
    if (done % 7 === 0) {
      await holds.void({ account, id });
      continue;
    }
    await holds.capture({
      ...{ account, id, cost: BigInt(done % 10), inputTokens: 3n, outputTokens: 4n },
      ...{ estimated: false, fingerprint: 2n, own: false },
    });
  }
  return done;
}

test("a check beside holds, captures, voids and settlement is always right", async () => {
  const { sql } = world;
  const keys: TestChild[] = [];
  for (let i = 0; i < 12; i++) {
    const key = await aChild(sql, await anAccount(sql, { shard: i % 4 }));
    await sql`update child_key set limit_daily = 900000 where id = ${key.child}`;
    await sql`insert into child_limit values (${key.child}, 'epoch', 900000, null, null)`;
    keys.push(key);
  }
  const stop = new AbortController();
  const using = keys.flatMap((key) => [1, 2, 3].map(() => keepUsing(world, key, stop.signal)));
  const settling = [0, 1, 2, 3].map(async (shard) => {
    while (!stop.signal.aborted) await settleShard(sql, shard, { maxPerPost: 50 });
  });
  const wrong: string[] = [];
  const checkpoints: bigint[] = [];
  for (let pass = 0; pass < 12; pass++) {
    const verdict = await proveBooks(sql, { whole: pass % 4 === 3, note: true });
    wrong.push(...problems(verdict));
    if (verdict.noted) checkpoints.push(verdict.noted.no);
  }
  stop.abort();
  await Promise.all(settling);
  const requests = (await Promise.all(using)).reduce((sum, it) => sum + it, 0);

  expect(wrong).toEqual([]);
  expect(checkpoints).toHaveLength(12);
  expect(requests).toBeGreaterThan(500);
  expect(problems(await proveBooks(sql, { whole: false, note: false }))).toEqual([]);
  expect(problems(await proveBooks(sql, { whole: true, note: false }))).toEqual([]);
}, 120_000);

test("two checks at once are both right, and one checkpoint follows the other", async () => {
  const { sql } = world;
  const key = await aChild(sql, await anAccount(sql));
  await openHold(world.holds, key);
  const verdicts = await Promise.all(
    [1, 2, 3].map(() => proveBooks(sql, { whole: false, note: true })),
  );
  expect(verdicts.flatMap(problems)).toEqual([]);
  expect(problems(await proveBooks(sql, { whole: false, note: true }))).toEqual([]);
});

test("what was taken off with its partition stays proved, and what is left as well", async () => {
  const { sql, databaseUrl } = world;
  const past = { records: 6_000, children: 20, accounts: 4, months: 4, settled: true };
  await fillHistory(databaseUrl, past);
  const parts = await sql<{ name: string }[]>`
    select inhrelid::regclass::text as name from pg_inherits
     where inhparent = 'ended_hold'::regclass order by 1`;
  const [oldest = "", next = ""] = parts.map((part) => part.name);
  const takeOff = (name: string) =>
    sql.begin(async (tx) => {
      await tx`select record_detached_holds(${name}::text::regclass)`;
      await tx.unsafe(`alter table ended_hold detach partition ${name}`);
    });

  await expect(takeOff(oldest)).rejects.toThrow("run keytoll check first");
  expect(problems(await proveBooks(sql, { whole: false, note: true }))).toEqual([]);
  const [held] = await sql`select count(*)::int as holds from ended_hold`;
  await takeOff(oldest);
  await takeOff(next);
  await expect(takeOff(oldest)).rejects.toThrow();
  const [left] = await sql`select count(*)::int as holds from ended_hold`;
  expect(left?.holds).toBeLessThan(held?.holds);

  const both = async () => [
    problems(await proveBooks(sql, { whole: true, note: false })),
    problems(await proveBooks(sql, { whole: false, note: false })),
  ];
  expect(await both()).toEqual([[], []]);

  await sql.unsafe("alter table ended_hold disable trigger append_only");
  const [gone] = await sql<{ account: string; seq: bigint }[]>`
    delete from ended_hold where (account_id, usage_seq) in (
      select account_id, usage_seq from ended_hold order by id limit 1)
    returning account_id as account, usage_seq as seq`;
  const [whole = []] = await both();
  expect(whole.join("\n")).toContain(`account ${gone?.account}: `);
}, 120_000);

test("a history that is proved once is not read again", async () => {
  const { sql, holds, databaseUrl } = world;
  const past = { records: 5_000, children: 10, accounts: 2, months: 3, settled: true };
  await fillHistory(databaseUrl, past);
  await proveBooks(sql, { whole: false, note: true });
  const key = await aChild(sql, await anAccount(sql));
  const id = await openHold(holds, key);
  await holds.void({ account: key.account, id });

  const { findings, noted } = await proveBooks(sql, { whole: false, note: true });
  const counted = findings.map((finding) => finding.counted);
  expect(counted[3]).toContain("1 ended holds");
  expect(counted[7]).toContain("0 posts of 0 records recomputed");
  expect(noted?.holds).toBe(5_001n);
});
