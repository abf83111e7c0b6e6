import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY, now, SECOND } from "../../src/base/time.js";
import { end, killAll } from "../../src/dev/endings.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { startTemporal, type Temporal } from "../../src/dev/temporal.js";
import { enqueue } from "../../src/temporal/outbox.js";
import { startWorker } from "../../src/worker.js";
import { SHARDS, workflowIds } from "../../workflows/contract.js";
import type { TestChild, World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  quietLog,
  temporalClient,
  use,
  within,
} from "./world.js";

let world: World;
let temporal: Temporal;
let worker: Awaited<ReturnType<typeof startWorker>> | undefined;
const namespace = "default";
const dataDir = mkdtempSync(join(tmpdir(), "keytoll-wipe-"));

async function temporalServer(): Promise<Temporal> {
  const binary = await findTemporal(() => {});
  const where = { binary, dataDir, namespace, port: 0, uiPort: 0, say: () => {} };
  return await startTemporal({ ...where, keep: true });
}

beforeAll(async () => {
  world = await aWorld();
  temporal = await temporalServer();
  const config = configFor({ address: temporal.address, namespace });
  worker = await startWorker({ config, sql: world.sql, log: quietLog });
});
afterAll(async () => {
  await worker?.stop();
  if (temporal) await end({ process: temporal.process, kind: "temporal" });
  await world?.close();
  rmSync(dataDir, { recursive: true, force: true });
});

const keyWorkflows = async (client: Client) => {
  const ids: string[] = [];
  const query = "KeytollJob = 'key-expiry' or KeytollJob = 'key-grace'";
  for await (const { workflowId } of client.workflow.list({ query })) ids.push(workflowId);
  return ids.sort();
};

async function expiring(count: number, inMs: number): Promise<TestChild[]> {
  const account = await anAccount(world.sql);
  const keys: TestChild[] = [];
  for (let i = 0; i < count; i++) {
    const key = await aChild(world.sql, account, { expiresAt: new Date(now() + inMs) });
    await enqueue(world.sql, { kind: "key_expiry", key: key.child });
    keys.push(key);
  }
  return keys;
}

const timesRecorded = async (keys: TestChild[]): Promise<number[]> => {
  const rows = await world.sql<{ times: number }[]>`
    select count(*)::int as times from audit_event
     where action = 'child_key.expired' and subject = any(${keys.map((key) => key.child)})
     group by subject`;
  return rows.map((row) => row.times);
};

test("a Temporal whose database was wiped has its keys, settlement and Schedules back by itself, and nothing happens twice", async () => {
  const { sql, holds } = world;
  const before = await expiring(10, SECOND);
  const later = await expiring(20, DAY);
  const [graced] = later;
  await sql`
    update child_key set previous_secret_until = now() + interval '1 day', secret_version = 2
     where id = ${graced?.child ?? ""}`;
  const wanted = [
    ...later.map((key) => workflowIds.keyExpiry(key.child)),
    workflowIds.keyGrace(graced?.child ?? ""),
  ].sort();
  await within(30_000, async () => {
    expect(await timesRecorded(before)).toEqual(before.map(() => 1));
    expect(await sql`select from outbox`).toHaveLength(0);
  });
  const soon = await expiring(10, 20 * SECOND);
  await within(20_000, async () => expect(await sql`select from outbox`).toHaveLength(0));

  await killAll([{ process: temporal.process, kind: "temporal" }]);
  for (const suffix of ["", "-wal", "-shm"]) {
    rmSync(join(dataDir, `temporal.db${suffix}`), { force: true });
  }
  const key = await aChild(sql, await anAccount(sql, { shard: 1 }));
  await use(holds, key, 5);
  temporal = await temporalServer();
  const client = await temporalClient({ address: temporal.address, namespace });

  await within(60_000, async () => {
    expect(await keyWorkflows(client)).toEqual(expect.arrayContaining(wanted));
    expect(await timesRecorded(soon)).toEqual(soon.map(() => 1));
    const [account] = await sql`
      select settled_seq::int, accrued::int from account where id = ${key.account}`;
    expect(account).toEqual({ settled_seq: 5, accrued: 0 });
  });
  const schedules: string[] = [];
  for await (const { scheduleId } of client.schedule.list()) schedules.push(scheduleId);
  expect(schedules).toEqual(
    expect.arrayContaining(["expiry-sweep", "key-reannounce", "limit-reset-day"]),
  );
  const settling = await client.workflow.count(
    "KeytollJob = 'settlement' and ExecutionStatus = 'Running'",
  );
  expect(settling.count).toBe(SHARDS.length);
  expect(await timesRecorded([...before, ...soon])).toEqual([...before, ...soon].map(() => 1));
  expect(await timesRecorded(later)).toEqual([]);
  const ids = await keyWorkflows(client);
  expect(new Set(ids).size).toBe(ids.length);
  await client.connection.close();
}, 180_000);
