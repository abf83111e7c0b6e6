import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { DAY, now } from "../src/base/time.js";
import { announceExpiry } from "../src/keys/expiry.js";
import { openClient } from "../src/temporal/client.js";
import { claim, enqueue, outboxState } from "../src/temporal/outbox.js";
import { dropGivenUp, listGivenUp, retryGivenUp } from "../src/temporal/outbox-care.js";
import { type RelayOptions, startRelay } from "../src/temporal/relay.js";
import { workflowIds } from "../workflows/contract.js";
import { freshNamespace, temporalAddress } from "./support/services.js";
import type { World } from "./workflows/world.js";
import { aChild, anAccount, aWorld, quietLog, temporalClient, within } from "./workflows/world.js";

let world: World;
let client: Client;

beforeAll(async () => {
  world = await aWorld();
  client = await temporalClient({ address: temporalAddress(), namespace: await freshNamespace() });
});
beforeEach(() => world.sql`delete from outbox`);
afterAll(async () => {
  await client?.connection.close();
  await world?.close();
});

const relay = (options: Partial<RelayOptions>) =>
  startRelay({ sql: world.sql, log: quietLog, deliver: {}, ...options });

const isEmpty = () =>
  within(15_000, async () => expect(await world.sql`select id from outbox`).toEqual([]));

test("two relays start each key's workflow exactly once", async () => {
  const { sql } = world;
  const account = await anAccount(sql);
  const keys: string[] = [];
  for (let i = 0; i < 120; i++) {
    keys.push((await aChild(sql, account, { expiresAt: new Date(now() + DAY) })).child);
  }
  await sql.begin(async (tx) => {
    for (const key of keys) await enqueue(tx, { kind: "key_expiry", key });
  });
  const told: string[] = [];
  const deliver = {
    key_expiry: async (key: string) => {
      told.push(key);
      await announceExpiry(sql, client, key);
    },
  };
  const relays = [relay({ deliver }), relay({ deliver })];
  await isEmpty();
  await Promise.all(relays.map((it) => it.stop()));

  expect(told.sort()).toEqual([...keys].sort());
  for (const key of keys.slice(0, 20)) {
    const { events } = await client.workflow.getHandle(workflowIds.keyExpiry(key)).fetchHistory();
    // Started, and told once: EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, ..._SIGNALED
    expect(events?.map((event) => event.eventType)).toEqual([1, 26]);
  }
});

test("an entry written in a transaction that is rolled back is never told", async () => {
  const told: string[] = [];
  const deliver = { note: async (key: string) => void told.push(key) };
  const undone = world.sql.begin(async (tx) => {
    await enqueue(tx, { kind: "note", key: "undone" });
    throw new Error("rolled back");
  });
  await expect(undone).rejects.toThrow("rolled back");
  await enqueue(world.sql, { kind: "note", key: "done" });
  const running = relay({ deliver });
  await isEmpty();
  await running.stop();
  expect(told).toEqual(["done"]);
});

test("poison entries are set aside with their error and block no other", async () => {
  const { sql } = world;
  const told: string[] = [];
  const deliver = {
    note: async (key: string) => void told.push(key),
    broken: () => Promise.reject(new Error("no such thing")),
  };
  for (let i = 0; i < 120; i++) await enqueue(sql, { kind: "broken", key: `poison ${i}` });
  await enqueue(sql, { kind: "unheard-of", key: "poison" });
  for (let i = 0; i < 5; i++) await enqueue(sql, { kind: "note", key: `good ${i}` });
  const running = relay({ deliver, maxAttempts: 3, backOff: () => 0 });
  await within(15_000, async () =>
    expect(await outboxState(sql)).toMatchObject({ waiting: 0, setAside: 121 }),
  );
  await running.stop();

  expect(told).toHaveLength(5);
  const why = await sql`
    select distinct attempts, last_error from outbox order by last_error`;
  expect(why).toEqual([
    { attempts: 3, last_error: "no such thing" },
    { attempts: 3, last_error: 'nothing here knows the kind "unheard-of"' },
  ]);
});

test("while only Temporal is away, an entry waits without being counted against", async () => {
  const { sql } = world;
  const { child } = await aChild(sql, await anAccount(sql), { expiresAt: new Date(now() + DAY) });
  const away = openClient({ address: "127.0.0.1:1", namespace: "default" });
  let tries = 0;
  const deliver = {
    key_expiry: async (key: string) => {
      tries += 1;
      await away.client.withDeadline(now() + 300, () => announceExpiry(sql, away.client, key));
    },
  };
  await enqueue(sql, { kind: "key_expiry", key: child });
  const running = relay({ deliver, maxAttempts: 1 });
  await within(15_000, async () => expect(tries).toBeGreaterThan(1));
  await running.stop();
  await away.close();
  expect(await sql`select attempts, set_aside from outbox`).toEqual([
    { attempts: 0, set_aside: false },
  ]);
});

test("an entry that a relay took and never finished is taken over by another", async () => {
  const { sql } = world;
  await enqueue(sql, { kind: "note", key: "left behind" });
  expect(await claim(sql, 50, 1)).toMatchObject([{ key: "left behind" }]);
  expect(await claim(sql, 50, 1)).toEqual([]);
  const told: string[] = [];
  const running = relay({ deliver: { note: async (key) => void told.push(key) } });
  await isEmpty();
  await running.stop();
  expect(told).toEqual(["left behind"]);
});

test("an operator has an entry told anew, or drops it for good, and the audit trail says why", async () => {
  const { sql } = world;
  for (const key of ["mended", "hopeless"]) await enqueue(sql, { kind: "note", key });
  await sql`update outbox set set_aside = true, attempts = 20, last_error = 'no such thing'`;
  const [mended, hopeless] = await listGivenUp(sql, 9);
  if (!mended || !hopeless) throw new Error("two were given up");
  const order = { by: "Ada", reason: "looked at it" };
  const told: string[] = [];
  const running = relay({ deliver: { note: async (key) => void told.push(key) } });

  expect(await dropGivenUp(sql, hopeless.id, order)).toMatchObject({ key: "hopeless" });
  expect(await dropGivenUp(sql, hopeless.id, order)).toBeUndefined();
  expect(await retryGivenUp(sql, null, order)).toMatchObject([{ key: "mended" }]);
  expect(await retryGivenUp(sql, mended.id, order)).toEqual([]);
  await isEmpty();
  await running.stop();
  expect(told).toEqual(["mended"]);
  const audited = await sql`
    select action, subject, change from audit_event where action like 'outbox.%' order by id`;
  expect(audited).toMatchObject([
    { action: "outbox.dropped", subject: `${hopeless.id}`, change: { ...order, key: "hopeless" } },
    { action: "outbox.retried", subject: `${mended.id}`, change: { ...order, key: "mended" } },
  ]);
});
