import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import { elapsed, HOUR, now, SECOND } from "../../src/base/time.js";
import { announceExpiry } from "../../src/keys/expiry.js";
import { reannounceKeys } from "../../src/keys/reannounce.js";
import { workflowIds } from "../../workflows/contract.js";
import type { KeyMoment } from "../../workflows/key-contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { World } from "./world.js";
import { aChild, anAccount, aWorld, temporalClient } from "./world.js";

let world: World;
let client: Client;

beforeAll(async () => {
  world = await aWorld();
  client = await temporalClient({ address: temporalAddress(), namespace: await freshNamespace() });
});
afterAll(async () => {
  await client?.connection.close();
  await world?.close();
});

const eventsOf = async (workflowId: string) =>
  (await client.workflow.getHandle(workflowId).fetchHistory()).events?.map((it) => it.eventType);
const STARTED = 1;
const SIGNALED = 26;

test("pages start each key's workflows once, soonest first, and disturb none that waits already", async () => {
  const { sql } = world;
  const account = await anAccount(sql);
  const keys: string[] = [];
  for (let i = 0; i < 12; i++) {
    // Two of the same instant, over the end of a page
    const expiresAt = new Date(now() + HOUR + Math.floor(i / 2) * SECOND);
    keys.push((await aChild(sql, account, { expiresAt })).child);
  }
  const [graced = "", known = "", deleted = "", recorded = ""] = keys;
  await sql`
    update child_key set previous_secret_until = now() + interval '1 minute' where id = ${graced}`;
  await sql`update child_key set status = 'deleted' where id = ${deleted}`;
  await sql`update child_key set expiry_recorded = expires_at where id = ${recorded}`;
  const { managementKey } = await aChild(sql, account);
  await sql`
    update management_key set expires_at = now() + interval '2 hours'
     where id = ${managementKey}`;
  const past = await aChild(sql, account, { expiresAt: new Date(now() - SECOND) });
  await announceExpiry(sql, client, known);

  const pace = { page: 5, lanes: 2, perSecond: 10_000 };
  const counts: number[] = [];
  const reached: string[] = [];
  for (let after: KeyMoment | null = null; counts.length < 9; ) {
    const page = await reannounceKeys(sql, client, after, { pace });
    counts.push(page.announced);
    after = page.last;
    if (!after) break;
    reached.push(after.at);
  }
  expect(counts).toEqual([5, 5, 2]);
  expect(reached).toEqual([...reached].sort());

  const waiting = keys.filter((key) => ![deleted, recorded].includes(key));
  for (const key of waiting) {
    const events = key === known ? [STARTED, SIGNALED] : [STARTED];
    expect(await eventsOf(workflowIds.keyExpiry(key))).toEqual(events);
  }
  expect(await eventsOf(workflowIds.keyExpiry(managementKey))).toEqual([STARTED]);
  expect(await eventsOf(workflowIds.keyGrace(graced))).toEqual([STARTED]);
  for (const key of [deleted, recorded, past.child]) {
    await expect(eventsOf(workflowIds.keyExpiry(key))).rejects.toThrow(/not found/);
  }
});

test("what is due within the hour is not held back, the rest goes at a bounded rate", async () => {
  const other = await aWorld();
  const account = await anAccount(other.sql);
  const takes = async (wait: number) => {
    for (let i = 0; i < 10; i++) {
      await aChild(other.sql, account, { expiresAt: new Date(now() + wait) });
    }
    const steps: number[] = [];
    const began = elapsed();
    const pace = { page: 10, lanes: 5, perSecond: 5 };
    await reannounceKeys(other.sql, client, null, { pace, onStep: () => steps.push(1) });
    await other.sql`update child_key set expires_at = null`;
    expect(steps).toHaveLength(2);
    return elapsed() - began;
  };
  expect(await takes(HOUR / 2)).toBeLessThan(1.9 * SECOND);
  expect(await takes(2 * HOUR)).toBeGreaterThan(1.9 * SECOND);
  await other.close();
});
