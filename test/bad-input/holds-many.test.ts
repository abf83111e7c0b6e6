import { afterAll, beforeAll, expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { newId } from "../../src/base/ids.js";
import { checkBooks } from "../../src/check/check.js";
import { HoldService } from "../../src/gen/keytoll/v1/hold_pb.js";
import { createHolds } from "../../src/holds/engine.js";
import type { Capture, HoldRequest, Holds } from "../../src/holds/holds.js";
import { inRpc, type Outcome, overConnect, overGrpc } from "./wires.js";
import { buildWorld, type World } from "./world.js";

const COUNT = 1_000;
const BAD = 500;
const { authorize, capture, getHold } = HoldService.method;

let world: World;
let holds: Holds;
beforeAll(async () => {
  world = await buildWorld();
  holds = createHolds(world.sql, { gateway: null });
});
afterAll(async () => {
  await holds?.close();
  await world?.close();
});

/** What would be accepted by the engine. */
const asking = (changes: Partial<HoldRequest> = {}): HoldRequest => ({
  account: world.account,
  child: world.children.active.id,
  id: newId(),
  part: 0,
  amount: 1_000n,
  floor: 0n,
  secretVersion: 0,
  seconds: 600,
  fingerprint: 1n,
  own: false,
  model: null,
  priceVersion: null,
  ...changes,
});

const ending = (id: string, cost: bigint, own = false): Capture => ({
  account: world.account,
  id,
  cost,
  inputTokens: null,
  outputTokens: null,
  estimated: false,
  fingerprint: cost,
  own,
});

const reasonOf = (error: unknown) => (error instanceof Refusal ? error.reason : String(error));

/** Reasons of those that were refused, by their place. */
async function refusalsOf(calls: Promise<unknown>[]): Promise<Record<number, string>> {
  const answers = await Promise.allSettled(calls);
  const refused = answers.flatMap((answer, i): [number, string][] =>
    answer.status === "rejected" ? [[i, reasonOf(answer.reason)]] : [],
  );
  return Object.fromEntries(refused);
}

const bads: [string, string, () => Partial<HoldRequest>][] = [
  ["of an unknown child", "child_key_inactive", () => ({ child: newId() })],
  ["of a foreign child", "child_key_inactive", () => ({ child: world.strangerChild.id })],
  ["of an unknown account", "child_key_inactive", () => ({ account: newId(), child: newId() })],
  ["of a disabled child", "child_key_inactive", () => ({ child: world.children.disabled.id })],
  ["above its limit", "child_key_limit_exceeded", () => ({ amount: 2n ** 63n - 1n })],
  ["of an id with another body", "idempotency_conflict", () => ({ id: world.holds.open })],
];

test.each(bads)(
  "of a thousand holds in one batch one is %s: 999 are held",
  async (_, reason, bad) => {
    const asked = Array.from({ length: COUNT }, (_, i) => asking(i === BAD ? bad() : {}));
    expect(await refusalsOf(asked.map((each) => holds.authorize(each)))).toEqual({ [BAD]: reason });
    const good = asked.filter((_, i) => i !== BAD).map(({ id }) => id);
    const [row] = await world.sql`
    select count(*)::int as held, count(distinct authorized_at)::int as batches
      from open_hold where id = any(${good})`;
    expect(row).toEqual({ held: COUNT - 1, batches: 1 });

    const ends = [...good, newId()].map((id, i) => ending(id, i === BAD ? 1_001n : 1n));
    expect(await refusalsOf(ends.map((each) => holds.capture(each)))).toEqual({
      [BAD]: "capture_exceeds_hold",
      [COUNT - 1]: "not_found",
    });
    await holds.void({ account: world.account, id: good[BAD] ?? "" });
  },
);

test("of a thousand calls over gRPC one is bad: 999 are held and captured", async () => {
  const call = overGrpc("grpc");
  const gm = world.credentials.gm;
  const ids = Array.from({ length: COUNT }, newId);
  const held = await Promise.all(
    ids.map((holdId, i) => {
      const amountNgonka = i === BAD ? "0" : "1000";
      const message = { holdId, childKeyId: world.children.active.id, amountNgonka };
      return call(world, authorize, message, gm);
    }),
  );
  const captured = await Promise.all(
    ids.map((holdId) => call(world, capture, { holdId, costNgonka: "1" }, gm)),
  );
  const accepted: Outcome = { status: 0, reason: "accepted", param: undefined };
  const expected = ids.map(() => accepted);
  expect(held).toEqual(expected.with(BAD, inRpc("invalid_request_error", "amount_ngonka")));
  expect(captured).toEqual(expected.with(BAD, inRpc("not_found", "hold_id")));
}, 120_000);

test("an id in capitals is the id that it spells", async () => {
  const holdId = newId();
  const gm = world.credentials.gm;
  const call = (...args: [typeof authorize | typeof capture | typeof getHold, object]) =>
    overConnect(world, args[0], { ...args[1] }, gm);
  const asked = { childKeyId: world.children.active.id.toUpperCase(), amountNgonka: "1000" };
  const accepted = { status: 0, reason: "accepted", param: undefined };
  expect(await call(authorize, { holdId: holdId.toUpperCase(), ...asked })).toEqual(accepted);
  expect(await call(authorize, { holdId, ...asked })).toEqual(accepted);
  expect(await call(capture, { holdId, costNgonka: "1" })).toEqual(accepted);
  expect(await call(capture, { holdId: holdId.toUpperCase(), costNgonka: "1" })).toEqual(accepted);
  const rows = await world.sql`select id from ended_hold where id = ${holdId}`;
  expect(rows).toHaveLength(1);
});

test("what our own gateway captures above its hold is the house's loss, never the customer's", async () => {
  const asked = asking();
  await holds.authorize(asked);
  const lost = async () =>
    (
      await world.sql`
      select coalesce(sum(amount), 0)::bigint as lost from transfer where kind = 'loss'`
    )[0]?.lost;
  const before = await lost();
  expect(await holds.capture(ending(asked.id, 1_700n, true))).toMatchObject({ cost: 1_000n });
  expect(await holds.capture(ending(asked.id, 1_700n, true))).toMatchObject({ cost: 1_000n });
  expect((await lost()) - before).toBe(700n);
});

test("after all of that the books are right", async () => {
  const findings = await checkBooks(world.sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
});
