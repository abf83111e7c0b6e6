import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startRelay } from "../../src/temporal/relay.js";
import type { World } from "./world.js";
import { aWorld, quietLog, within } from "./world.js";

let world: World;

beforeAll(async () => {
  world = await aWorld();
});
afterAll(() => world?.close());

test("ten thousand new keys at once drain from the outbox, each told once and never more than 50 at the same time", async () => {
  const { sql } = world;
  await sql`insert into outbox (kind, key) select 'key_expiry', i::text from generate_series(1, 10000) i`;
  const told = new Set<string>();
  let [calls, running, most] = [0, 0, 0];
  const key_expiry = async (key: string) => {
    calls += 1;
    running += 1;
    most = Math.max(most, running);
    await setImmediate();
    told.add(key);
    running -= 1;
  };
  const relay = startRelay({ sql, log: quietLog, deliver: { key_expiry } });
  await within(90_000, async () => expect(await sql`select from outbox limit 1`).toHaveLength(0));
  await relay.stop();
  expect([calls, told.size]).toEqual([10_000, 10_000]);
  expect(most).toBeLessThanOrEqual(50);
}, 120_000);
