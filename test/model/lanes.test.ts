import { afterAll, beforeAll, expect, test } from "vitest";
import { creditAccount } from "../../src/accounts/accounts.js";
import { Refusal } from "../../src/base/errors.js";
import { type Id, newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import type { HoldRequest, Holds } from "../../src/holds/holds.js";
import { changeChildKey } from "../../src/keys/child-keys.js";
import { settleAccount } from "../../src/ledger/store.js";
import { type Books, captureOf, holdOf, openBooks } from "../support/books.js";
import { freshDatabase, type TestDatabase } from "../support/database.js";
import { replay } from "./replay.js";

/** Callers side by side, each with what it does next decided by its own dice. */
const CALLERS = 24;
const ENGINES = 3;
const ACCOUNTS = 3;
const ROUNDS = Math.max(40, Math.floor(Number(process.env.KT_STEPS ?? 20_000) / 200));
const SEED = Number(process.env.KT_SEED ?? Math.floor(Math.random() * 2 ** 31));

let database: TestDatabase;
let sql: Sql;
let engines: { sql: Sql; holds: Holds }[];
let books: Books[];

beforeAll(async () => {
  database = await freshDatabase();
  sql = connect(database.url, { name: "lanes", max: 6 });
  engines = Array.from({ length: ENGINES }, (_, i) => {
    const pool = connect(database.url, { name: `engine ${i}`, max: 4 });
    return { sql: pool, holds: createHolds(pool, { gateway: null }) };
  });
  const opening = { balance: 1_000n, limitDaily: 1_500n };
  books = await Promise.all(Array.from({ length: ACCOUNTS }, () => openBooks(sql, opening)));
});
afterAll(async () => {
  await Promise.all((engines ?? []).map(({ holds }) => holds.close()));
  await Promise.all((engines ?? []).map((engine) => engine.sql.end()));
  await sql?.end();
  await database?.drop();
});

/** What a caller was told, to be found again in the database's own record. */
interface Told {
  held: Map<Id, bigint>;
  refused: Set<Id>;
  captured: Map<Id, bigint>;
  /** At no cost: voided, or swept before it could be captured. */
  ended: Set<Id>;
}

const mulberry = (seed: number) => {
  let state = seed >>> 0;
  return (below: number): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
};

const reasonOf = (error: unknown): string => {
  if (error instanceof Refusal) return error.reason;
  throw error;
};

async function caller(no: number, told: Told): Promise<void> {
  const dice = mulberry(SEED + no);
  const open: { id: Id; at: Books; amount: bigint }[] = [];
  const one = <T>(list: readonly T[]): T => list[dice(list.length)] as T;
  for (let round = 0; round < ROUNDS; round++) {
    const { holds } = one(engines);
    const at = one(books);
    const next = open[dice(open.length || 1)];
    const what = dice(20);
    if (what < 9 || !next) {
      const seconds = dice(6) === 0 ? 1 : 600;
      await hold(holds, holdOf(at, BigInt(1 + dice(60)), { seconds }), at, open, told);
    } else if (what < 15) await capture(holds, next, BigInt(dice(Number(next.amount) + 1)), told);
    else if (what < 17) await giveBack(holds, next, told);
    else await upkeep(at, what, dice);
    if (what >= 9 && what < 17 && next) open.splice(open.indexOf(next), 1);
  }
}

async function hold(
  holds: Holds,
  request: HoldRequest,
  at: Books,
  open: { id: Id; at: Books; amount: bigint }[],
  told: Told,
): Promise<void> {
  const { id, amount } = request;
  try {
    await holds.authorize(request);
    told.held.set(id, amount);
    open.push({ id, at, amount });
  } catch (error) {
    expect(["child_key_limit_exceeded", "insufficient_balance", "child_key_inactive"]).toContain(
      reasonOf(error),
    );
    told.refused.add(id);
  }
}

/** Twice at once through whichever engines, as a caller does that heard nothing. */
async function capture(
  holds: Holds,
  { id, at }: { id: Id; at: Books },
  cost: bigint,
  told: Told,
): Promise<void> {
  const again = engines[0]?.holds ?? holds;
  const both = await Promise.allSettled(
    [holds, again].map((it) => it.capture(captureOf(at.account, id, cost))),
  );
  const outcomes = both.map((it) =>
    it.status === "fulfilled" ? `as ${it.value.usageSeq}` : reasonOf(it.reason),
  );
  expect(outcomes[0]).toBe(outcomes[1]);
  if (outcomes[0] === "hold_ended") told.ended.add(id);
  else told.captured.set(id, cost);
}

/** A hold that was swept is voided already. */
async function giveBack(holds: Holds, { id, at }: { id: Id; at: Books }, told: Told) {
  await holds.void({ account: at.account, id });
  told.ended.add(id);
}

async function upkeep(at: Books, what: number, dice: (below: number) => number): Promise<void> {
  const { account, owner, ref } = at;
  if (what === 17) {
    await creditAccount(sql, { account, amount: BigInt(1 + dice(900)), reference: newId() });
    return;
  }
  if (what === 18) {
    await settleAccount(sql, account, 1 + dice(50));
    return;
  }
  const pick = dice(6);
  if (pick < 2) await sql`select * from sweep_holds(1000, '0 seconds')`;
  else if (pick === 2) await changeChildKey(sql, owner, ref, { status: "disabled" });
  else {
    await changeChildKey(sql, owner, ref, {
      status: "active",
      limitDaily: BigInt(200 + dice(15_000)),
    });
  }
}

/** All books, again and again until `done`: each time a snapshot in the middle of it all. */
async function checkMeanwhile(done: () => boolean): Promise<number> {
  let checks = 0;
  while (!done()) {
    await expectBooks();
    checks += 1;
  }
  return checks;
}

async function expectBooks(): Promise<void> {
  const findings = await checkBooks(sql);
  expect(findings.flatMap((finding) => finding.violations)).toEqual([]);
}

test(`callers of several engines at once: every invariant holds in any snapshot, and the record replays in the model (seed ${SEED})`, async () => {
  const told: Told = {
    held: new Map(),
    refused: new Set(),
    captured: new Map(),
    ended: new Set(),
  };
  let done = false;
  const calling = Promise.all(Array.from({ length: CALLERS }, (_, no) => caller(no, told))).finally(
    () => {
      done = true;
    },
  );
  const [checks] = await Promise.all([checkMeanwhile(() => done), calling]);
  await expectBooks();

  const record = await replay(sql, books);
  expect(record.problems).toEqual([]);
  for (const [id, amount] of told.held) expect(record.held.get(id)).toBe(amount);
  for (const id of told.refused) expect(record.held.has(id)).toBe(false);
  for (const [id, cost] of told.captured) expect(record.captured.get(id)).toBe(cost);
  for (const id of told.ended) expect(record.ended.has(id)).toBe(true);
  expect(record.held.size).toBe(told.held.size);
  console.log(
    `lanes: seed ${SEED}, ${record.events} events replayed, ${told.refused.size} refused, all books checked ${checks + 1} times`,
  );
}, 600_000);
