import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { createHolds } from "../../src/holds/engine.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import { createDice } from "../chaos/dice.js";
import { type Line, startLine, type Trap } from "../chaos/proxy.js";
import { expectBooksAreRight } from "../support/books.js";
import { freshDatabase, type TestDatabase } from "../support/database.js";
import { DEMO_PRICE } from "../support/gateway.js";
import { type Serving, startServing } from "../support/serving.js";
import {
  begin,
  booksOf,
  DONE,
  expectPaid,
  finish,
  streamed,
  text,
  usage,
} from "../support/streaming.js";
import { startUpstream, type TestUpstream, type Visit } from "../support/upstreams.js";

const STEP = 100;
const PATIENCE = { timeout: 30_000, interval: 20 };
/** What a stream that grows to its end writes: three steps, and half of the fourth. */
const PIECES = Array.from({ length: 7 }, (_, i) => String(i).repeat(50));

let database: TestDatabase;
let sql: Sql;
let upstream: TestUpstream;
let line: Line;
let serving: Serving;
let child: { id: string; secret: string };

beforeAll(async () => {
  [database, upstream] = await Promise.all([freshDatabase(), startUpstream(() => {})]);
  sql = connect(database.url, { name: "test", max: 4 });
  const terms = { ...DEMO_PRICE, contextTokens: null, maxOutputTokens: 8_192, enabled: true };
  await setModelPrice(sql, { model: "demo/fast", ...terms, holdStepTokens: STEP });
  line = await startLine(database.url, createDice(1));
  serving = await startServing(line.url, upstream.url);
  const { token } = await serving.anOwner("owner@example.com", "1000000000");
  const manager = await serving.aManagementKey(token);
  child = await serving.aChild(manager.secret, manager.id);
}, 60_000);
afterAll(async () => {
  await serving?.stop("SIGKILL");
  await line?.close();
  await upstream?.close();
  await sql?.end({ timeout: 5 });
  await database?.drop();
});

/** A stream that a test writes by hand. */
async function aStream() {
  const asked = new Promise<Visit>((resolve) => {
    upstream.behave((visit) => {
      begin(visit.response);
      resolve(visit);
    });
  });
  const answer = streamed({ url: serving.http }, child.secret, { max_tokens: 400 });
  return { answer, response: (await asked).response };
}

const BAD_MOMENTS: Record<string, Pick<Trap, "at" | "cut">> = {
  "before it is asked for a further part": { at: "asked", cut: "before" },
  "in the middle of the question": { at: "asked", cut: "inside" },
  "with a further part granted, and nobody told": { at: "answered", cut: "before" },
};

for (const [moment, trap] of Object.entries(BAD_MOMENTS)) {
  test(`a stream whose database goes away ${moment} waits for it, is whole, and is paid once`, {
    timeout: 60_000,
  }, async () => {
    const before = (await booksOf({ sql }, child.id)).paid;
    const { answer, response } = await aStream();
    const away = new Promise<void>((resolve) => {
      const spring = () => {
        line.blackHole();
        resolve();
      };
      line.set({ ...trap, statement: /authorize_hold|end_and_authorize/, spring });
    });
    for (const piece of PIECES) response.write(text(piece));
    await away;
    line.clear("lose");
    response.end(`${finish()}${usage(11, 222)}${DONE}`);

    const read = await answer;
    expect([read.error, read.done, read.finishes]).toEqual([undefined, true, ["stop"]]);
    expect(read.text).toBe(PIECES.join(""));
    const cost = priceOf(DEMO_PRICE, 11n, 222n);
    await expectPaid({ sql }, child.id, ...before, { cost, output_tokens: 222n, estimated: false });
    await expectBooksAreRight(sql);
  });
}

/** As a minute without the gateway, and then a sweep. */
async function letTimePass(): Promise<void> {
  await sql`update gateway set seen_at = seen_at - interval '1 hour'`;
  await sql`select sweep_holds(500, interval '0')`;
}

test("of a gateway killed under a stream of several parts each part is given back, but what its checkpoint says was produced", {
  timeout: 60_000,
}, async () => {
  const before = await booksOf({ sql }, child.id);
  const streams = [await aStream(), await aStream()];
  const read = streams.map(({ answer }) => answer.catch(() => "cut"));
  for (const { response } of streams) for (const piece of PIECES) response.write(text(piece));
  const open = async () => (await booksOf({ sql }, child.id)).open;
  await vi.waitFor(async () => expect(await open()).toHaveLength(8), PATIENCE);

  const [first] = await sql<{ account_id: string; id: string }[]>`
    select account_id, id from open_hold where part = 0 order by id limit 1`;
  if (first === undefined) throw new Error("no hold");
  const cost = priceOf(DEMO_PRICE, 7n, 150n);
  const holds = createHolds(sql, { gateway: null });
  const checkpoint = { cost, inputTokens: 7n, outputTokens: 150n };
  await holds.extend({ account: first.account_id, id: first.id, seconds: 120, checkpoint });
  await serving.stop("SIGKILL");
  expect(await Promise.all(read)).toEqual(["cut", "cut"]);
  await letTimePass();

  const { ended, paid, open: left } = await booksOf({ sql }, child.id);
  expect(left).toEqual([]);
  expect(ended).toHaveLength(before.ended.length + 8);
  const charged = { cost, input_tokens: 7n, output_tokens: 150n, estimated: true };
  expect(paid).toEqual([...before.paid, charged]);
  const [key] = await sql`select held, used_total from child_key where id = ${child.id}`;
  expect(key).toEqual({ held: 0n, used_total: paid.reduce((sum, it) => sum + it.cost, 0n) });
  await expectBooksAreRight(sql);
});
