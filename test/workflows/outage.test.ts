import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { end } from "../../src/dev/endings.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { startTemporal, type Temporal } from "../../src/dev/temporal.js";
import { startWorker } from "../../src/worker.js";
import { workflowIds } from "../../workflows/contract.js";
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
let key: TestChild;
let temporal: Temporal;
let worker: Awaited<ReturnType<typeof startWorker>> | undefined;
const namespace = "default";
const dataDir = mkdtempSync(join(tmpdir(), "keytoll-outage-"));

async function temporalServer(): Promise<Temporal> {
  const binary = await findTemporal(() => {});
  const where = { binary, dataDir, namespace, port: 0, uiPort: 0, say: () => {} };
  return await startTemporal({ ...where, keep: true });
}

const stop = () => end({ process: temporal.process, kind: "temporal" });

beforeAll(async () => {
  world = await aWorld();
  key = await aChild(world.sql, await anAccount(world.sql, { shard: 1 }));
  temporal = await temporalServer();
});
afterAll(async () => {
  await worker?.stop();
  if (temporal) await stop();
  await world?.close();
  rmSync(dataDir, { recursive: true, force: true });
});

const start = () =>
  startWorker({
    config: configFor({ address: temporal.address, namespace }),
    sql: world.sql,
    log: quietLog,
  });

const isSettled = (records: number) =>
  within(40_000, async () => {
    const [row] = await world.sql`
      select settled_seq::int, accrued::int from account where id = ${key.account}`;
    expect(row).toEqual({ settled_seq: records, accrued: 0 });
  });

test("a worker that starts while Temporal is away waits, and works once it is there", async () => {
  await stop();
  worker = await start();
  await use(world.holds, key, 10);
  temporal = await temporalServer();
  await isSettled(10);
}, 60_000);

test("usage captured while Temporal is stopped is settled once it is back", async () => {
  await stop();
  await use(world.holds, key, 20);
  const [row] = await world.sql`select accrued::int from account where id = ${key.account}`;
  expect(row).toEqual({ accrued: 20 * 7 });
  temporal = await temporalServer();
  await isSettled(30);
}, 60_000);

test("a Temporal that is killed while a settlement is under way posts its usage once", async () => {
  await use(world.holds, key, 10);
  await world.sql.begin(async (tx) => {
    await tx`select 1 from account where id = ${key.account} for update`;
    await within(20_000, async () =>
      expect(
        await world.sql`
          select from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock'`,
      ).not.toEqual([]),
    );
    process.kill(temporal.process.pid, "SIGKILL");
    await temporal.ended;
  });
  temporal = await temporalServer();
  await isSettled(40);
  const [posted] = await world.sql`
    select sum(amount)::int as amount from transfer where kind = 'settlement'`;
  expect(posted?.amount).toBe(40 * 7);
}, 60_000);

test("a Temporal that lost its database is set up anew, and settlement goes on", async () => {
  await stop();
  for (const suffix of ["", "-wal", "-shm"]) {
    rmSync(join(dataDir, `temporal.db${suffix}`), { force: true });
  }
  await use(world.holds, key, 5);
  await world.sql`
    insert into period_reset (kind, period, finished_at)
    values ('day', (now() at time zone 'UTC')::date - 2, now())`;
  temporal = await temporalServer();
  await isSettled(45);

  await within(20_000, async () => {
    const made = await world.sql`
      select (now() at time zone 'UTC')::date - period as ago from period_reset
       where finished_at is not null order by 1`;
    expect(made.map((it) => it.ago)).toEqual([0, 1, 2]);
  });
  const client = await temporalClient({ address: temporal.address, namespace });
  expect((await client.workflow.getHandle(workflowIds.settlement(1)).describe()).status.name).toBe(
    "RUNNING",
  );
  await client.connection.close();
}, 60_000);
