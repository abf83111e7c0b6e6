import type { Client } from "@temporalio/client";
import { NativeConnection, Worker } from "@temporalio/worker";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Id } from "../../src/base/ids.js";
import { HOUR, now } from "../../src/base/time.js";
import { listen } from "../../src/db/listen.js";
import { announceExpiry, recordExpiryIfDue, sweepExpiredKeys } from "../../src/keys/expiry.js";
import { workflowBundle } from "../../src/temporal/bundle.js";
import { enqueue } from "../../src/temporal/outbox.js";
import { startWorker } from "../../src/worker.js";
import { QUEUES, SIGNALS, workflowIds } from "../../workflows/contract.js";
import type { ExpiryState, KeyRef } from "../../workflows/key-contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { TestChild, World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  DATA_DIR,
  detailsOf,
  everyHistory,
  quietLog,
  temporalClient,
  within,
} from "./world.js";

let world: World;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;

beforeAll(async () => {
  world = await aWorld();
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(temporal);
  worker = await startWorker({ config: configFor(temporal), sql: world.sql, log: quietLog });
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await world?.close();
});

const inMs = (ms: number) => new Date(now() + ms);
const workflowOf = (id: Id) => client.workflow.getHandle(workflowIds.keyExpiry(id));

/** As an owner's change does it: the row and its outbox entry in one transaction. */
async function setExpiry({ child }: TestChild, expiresAt: Date | null): Promise<void> {
  await world.sql.begin(async (tx) => {
    await tx`update child_key set expires_at = ${expiresAt} where id = ${child}`;
    await enqueue(tx, { kind: "key_expiry", key: child });
  });
}

const made: TestChild[] = [];
const aKey = async (expiresAt: Date | null = null) => {
  const key = await aChild(world.sql, await anAccount(world.sql), { expiresAt });
  made.push(key);
  if (expiresAt) await setExpiry(key, expiresAt);
  return key;
};

const recordsOf = async ({ child }: TestChild): Promise<number> => {
  const rows = await world.sql`
    select from audit_event
     where subject = ${child} and action = 'child_key.expired' and actor = 'system'`;
  return rows.length;
};

test("a key's expiry is recorded once when it comes, and every gateway is told", async () => {
  const told: string[] = [];
  const ear = listen(world.sql, "key_changed", {
    heard: (id) => told.push(id),
    connected: () => told.push("connected"),
  });
  await vi.waitFor(() => expect(told).toContain("connected"));
  const key = await aKey(inMs(600));
  await within(10_000, async () => expect(await recordsOf(key)).toBe(1));
  await within(5_000, async () => expect(told).toContain(key.child));
  await ear.stop();

  await workflowOf(key.child).result();
  expect(await detailsOf(workflowOf(key.child))).toMatch(
    new RegExp(`^key "Client A" \\(${key.hint}\\) expired at .* UTC; recorded$`),
  );
  expect(await recordExpiryIfDue(world.sql, key.child)).toMatchObject({ kind: "recorded" });
  await sweepExpiredKeys(world.sql);
  await announceExpiry(world.sql, client, key.child);
  expect(await recordsOf(key)).toBe(1);
});

test("moving expires_at re-times the record, to earlier and to later", async () => {
  const earlier = await aKey(inMs(24 * HOUR));
  const later = await aKey(inMs(1_500));
  for (const key of [earlier, later]) {
    await within(5_000, async () => {
      expect((await workflowOf(key.child).describe()).status.name).toBe("RUNNING");
    });
  }
  const tomorrow = inMs(24 * HOUR);
  await setExpiry(later, tomorrow);
  await setExpiry(earlier, inMs(300));

  await within(10_000, async () => expect(await recordsOf(earlier)).toBe(1));
  const when = tomorrow.toISOString().slice(0, 19).replace("T", " ");
  await within(5_000, async () =>
    expect(await detailsOf(workflowOf(later.child))).toBe(
      `key "Client A" (${later.hint}) expires at ${when} UTC`,
    ),
  );
  expect(await recordsOf(later)).toBe(0);
  expect((await workflowOf(later.child).describe()).status.name).toBe("RUNNING");
});

test("a cleared expiry and a deleted key record nothing, and their workflows end", async () => {
  const [cleared, deleted] = [await aKey(inMs(24 * HOUR)), await aKey(inMs(24 * HOUR))];
  for (const { child } of [cleared, deleted]) {
    await within(5_000, async () => {
      expect((await workflowOf(child).describe()).status.name).toBe("RUNNING");
    });
  }
  await setExpiry(cleared, null);
  await world.sql`update child_key set status = 'deleted' where id = ${deleted.child}`;
  await setExpiry(deleted, inMs(24 * HOUR));
  for (const key of [cleared, deleted]) {
    await within(10_000, async () => {
      expect((await workflowOf(key.child).describe()).status.name).toBe("COMPLETED");
    });
    expect(await recordsOf(key)).toBe(0);
  }
});

test("a key without an expiry gets no workflow", async () => {
  const key = await aKey();
  await setExpiry(key, null);
  await within(5_000, async () => expect(await world.sql`select from outbox`).toHaveLength(0));
  await expect(workflowOf(key.child).describe()).rejects.toThrow(/not found/);
});

test("a later expires_at revives a recorded key, and its next expiry is recorded again", async () => {
  const key = await aKey(inMs(-1_000));
  await within(10_000, async () => expect(await recordsOf(key)).toBe(1));
  await setExpiry(key, inMs(700));
  await within(10_000, async () => expect(await recordsOf(key)).toBe(2));
});

test("where Temporal is behind, one key that gets through puts all that is due on record, itself recorded or not", async () => {
  const account = await anAccount(world.sql);
  const expired = { expiresAt: inMs(-1_000) };
  const unheardOf = () => aChild(world.sql, account, expired);
  const [through, late] = [await unheardOf(), await unheardOf()];
  expect(await recordExpiryIfDue(world.sql, through.child)).toMatchObject({ kind: "recorded" });
  const later = await unheardOf();
  expect(await recordExpiryIfDue(world.sql, through.child)).toMatchObject({ kind: "recorded" });
  for (const key of [through, late, later]) expect(await recordsOf(key)).toBe(1);
});

test("the sweep records thousands of expiries that no workflow knows, child and management keys", async () => {
  const account = await anAccount(world.sql);
  const { managementKey } = await aChild(world.sql, account);
  const expired = new Date("2026-01-01T00:00:00Z");
  await world.sql`
    insert into child_key
      (id, account_id, management_key_id, name, hint, expires_at, day, month, created_at,
        updated_at)
    select gen_random_uuid(), ${account}, ${managementKey}, 'swept', 'gc-…',
      ${expired}::timestamptz +
           i * interval '1 second', now(), now(), now(), now() from generate_series(1, 1300) i`;
  await world.sql`update management_key set expires_at = ${expired} where id = ${managementKey}`;

  const swept = await Promise.all([sweepExpiredKeys(world.sql), sweepExpiredKeys(world.sql)]);
  const audited = await world.sql<{ action: string; count: number }[]>`
    select action, count(*)::int as count from audit_event
     where account_id = ${account} group by 1 order by 1`;
  expect(audited).toEqual([
    { action: "child_key.expired", count: 1_300 },
    { action: "management_key.expired", count: 1 },
  ]);
  expect(swept.reduce((sum, it) => sum + it, 0)).toBeLessThanOrEqual(1_301);
  expect(await sweepExpiredKeys(world.sql)).toBe(0);
});

test("Temporal keeps a key's name and hint, and no secret and no hash of one", async () => {
  const kept = await everyHistory(client);
  const hashes = await world.sql<{ hash: Buffer }[]>`select hash from key_secret`;
  expect(kept.includes(made[0]?.hint ?? "none")).toBe(true);
  expect(hashes.length).toBeGreaterThan(5);
  for (const { secret } of made) expect(kept.includes(secret.slice(3, -4))).toBe(false);
  for (const { hash } of hashes) {
    for (const form of ["hex", "base64", "base64url"] as const) {
      expect(kept.includes(hash.toString(form))).toBe(false);
    }
  }
});

test("a change that comes while the expiry is being recorded is not lost", async () => {
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  const own = await temporalClient(temporal);
  const connection = await NativeConnection.connect({ address: temporal.address });
  const handle = own.workflow.getHandle("expiry");
  let looks = 0;
  const lookAndChange = async (): Promise<ExpiryState> => {
    looks += 1;
    if (looks > 1) return { kind: "none" };
    await handle.signal(SIGNALS.expiryChanged);
    return { kind: "recorded", expiresAt: "2026-01-01T00:00:00.000Z" };
  };
  const other = await Worker.create({
    ...{ connection, namespace: temporal.namespace, taskQueue: QUEUES.jobs },
    workflowBundle: { codePath: await workflowBundle(DATA_DIR) },
    activities: { recordExpiryIfDue: lookAndChange },
  });
  const key: KeyRef = { keyId: "1", accountId: "2", name: "n", hint: "gc-...last" };
  await other.runUntil(
    own.workflow.execute("keyExpiry", {
      ...{ workflowId: "expiry", taskQueue: QUEUES.jobs, args: [key] },
    }),
  );
  await connection.close();
  await own.connection.close();
  expect(looks).toBe(2);
});
