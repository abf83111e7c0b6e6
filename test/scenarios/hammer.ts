import { creditAccount } from "../../src/accounts/accounts.js";
import { Refusal } from "../../src/base/errors.js";
import { newId } from "../../src/base/ids.js";
import { elapsed } from "../../src/base/time.js";
import { connect } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { readPeriod, rollCounters } from "../../src/holds/periods.js";
import { changeChildKey, rotateChildKey } from "../../src/keys/child-keys.js";
import { settleShard } from "../../src/ledger/ledger.js";
import { captureOf, holdOf } from "../support/asking.js";
import type { Books } from "../support/books.js";

/** What a hammering process is told, and what it then did. */
export interface HammerOrder {
  books: Books[];
  seconds: number;
}
export interface HammerReport {
  /** How often each thing was done. */
  done: Record<string, number>;
  /** Errors that are no refusals, by their text. */
  errors: string[];
}

const LANES = 24;
const [url = ""] = process.argv.slice(2);
const sql = connect(url, { name: "hammer", max: 14 });
// Two engines, as two gateways have them: each puts several accounts into a batch
const engines = [1, 2].map(() => createHolds(sql, { gateway: null, lanes: 1 }));

const pick = <T>(list: readonly T[]): T => {
  const item = list[Math.floor(Math.random() * list.length)];
  if (item === undefined) throw new Error("nothing to pick from");
  return item;
};

/** Everything that locks accounts. */
const DEEDS: Record<string, (books: Books) => Promise<unknown>> = {
  settlement: () => settleShard(sql, Math.floor(Math.random() * 4), { maxPerPost: 50 }),
  "limit change": ({ owner, ref }) =>
    changeChildKey(sql, owner, ref, { limitDaily: 10n ** 9n + BigInt(Math.floor(elapsed())) }),
  "top-up": ({ account }) => creditAccount(sql, { account, amount: 1_000n, reference: newId() }),
  sweep: () => sql`select sweep_holds(20, interval '0')`,
  rotation: ({ owner, ref }) =>
    rotateChildKey(sql, owner, ref, {
      graceSeconds: 0,
      pepper: "a pepper of the hammer, 32 bytes or more",
    }),
  "roll of counters": async () => {
    const today = new Date().toISOString().slice(0, 10);
    await rollCounters(sql, readPeriod("day", today));
  },
};

async function request(books: Books): Promise<void> {
  const holds = pick(engines);
  const asked = holdOf(books, 10n, { seconds: Math.random() < 0.1 ? 1 : 600 });
  await holds.authorize(asked);
  const { account, id } = asked;
  if (Math.random() < 0.3) {
    const checkpoint = { cost: 1n, inputTokens: 1n, outputTokens: 1n };
    await holds.extend({ account, id, seconds: 600, checkpoint });
  }
  if (Math.random() < 0.1) return void (await holds.void({ account, id }));
  // Some are left to the sweep
  if (Math.random() < 0.9) await holds.capture(captureOf(account, id, 7n));
}

async function hammer({ books, seconds }: HammerOrder): Promise<HammerReport> {
  const end = elapsed() + seconds * 1_000;
  const done: Record<string, number> = {};
  const errors = new Set<string>();
  const attempt = async (name: string, act: (books: Books) => Promise<unknown>) => {
    try {
      await act(pick(books));
      done[name] = (done[name] ?? 0) + 1;
    } catch (error) {
      // What a sweep ended first is no mistake
      if (!(error instanceof Refusal)) errors.add(`${name}: ${error}`);
    }
  };
  const lanes = Array.from({ length: LANES }, async () => {
    while (elapsed() < end) await attempt("request", request);
  });
  const deeds = Object.entries(DEEDS).map(async ([name, act]) => {
    while (elapsed() < end) await attempt(name, act);
  });
  await Promise.all([...lanes, ...deeds]);
  return { done, errors: [...errors] };
}

process.on("message", async (order: HammerOrder) => {
  process.send?.(await hammer(order));
  await sql.end({ timeout: 5 });
  process.disconnect();
});
await sql`select 1`;
process.send?.("ready");
