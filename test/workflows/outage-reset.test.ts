import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DAY, now } from "../../src/base/time.js";
import { checkBooks } from "../../src/check/check.js";
import { end, killAll } from "../../src/dev/endings.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { startTemporal, type Temporal } from "../../src/dev/temporal.js";
import { startWorker } from "../../src/worker.js";
import { QUEUES, workflowIds } from "../../workflows/contract.js";
import type { limitReset } from "../../workflows/limit-reset.js";
import type { TestChild, World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  openHold,
  quietLog,
  setClock,
  temporalClient,
  use,
  within,
} from "./world.js";

let world: World;
let key: TestChild;
let temporal: Temporal;
let worker: Awaited<ReturnType<typeof startWorker>> | undefined;
const namespace = "default";
const dataDir = mkdtempSync(join(tmpdir(), "keytoll-outage-reset-"));
const dateOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);
const yesterday = dateOf(now() - DAY);
const today = { kind: "day", period: dateOf(now()) } as const;

async function temporalServer(): Promise<Temporal> {
  const binary = await findTemporal(() => {});
  const where = { binary, dataDir, namespace, port: 0, uiPort: 0, say: () => {} };
  return await startTemporal({ ...where, keep: true });
}

const kill = () => killAll([{ process: temporal.process, kind: "temporal" }]);

beforeAll(async () => {
  world = await aWorld();
  await setClock(world.sql, `${yesterday}T23:00:00Z`);
  key = await aChild(world.sql, await anAccount(world.sql));
  await use(world.holds, key, 6);
  await setClock(world.sql, `${today.period}T00:00:02Z`);
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

test("Temporal killed in the middle of a reset: once it is back all is done once", async () => {
  const { sql } = world;
  let client = await temporalClient({ address: temporal.address, namespace });
  const workflowId = workflowIds.limitReset(today);
  await sql.begin(async (tx) => {
    await tx`select from child_key where id = ${key.child} for update`;
    await client.workflow.start<typeof limitReset>("limitReset", {
      ...{ workflowId, taskQueue: QUEUES.jobs, args: [today] },
    });
    await within(60_000, async () => {
      const waiting = await sql`
        select from pg_stat_activity where datname = current_database()
           and wait_event_type = 'Lock' and query like '%keys_rolled%'`;
      expect(waiting.length).toBeGreaterThan(0);
    });
    await kill();
  });
  await client.connection.close();
  // The activity ends meanwhile, and nobody is there to be told
  await within(60_000, async () => {
    const [row] = await sql`select keys_rolled::int as rolled from period_reset`;
    expect(row?.rolled).toBe(1);
  });
  temporal = await temporalServer();
  client = await temporalClient({ address: temporal.address, namespace });
  const handle = client.workflow.getHandle<typeof limitReset>(workflowId);
  const totals = { ended: yesterday, keysRolled: 1, requests: 6, costNgonka: "42" };
  expect(await handle.result()).toEqual(totals);
  await client.connection.close();
  const rollups = await sql`select day, requests::int, cost::int from usage_rollup`;
  expect([...rollups]).toEqual([{ day: yesterday, requests: 6, cost: 42 }]);
}, 180_000);

test("with Temporal down no request fails, and a limit that fits 20 admits exactly 20", async () => {
  const { sql, holds } = world;
  await kill();
  await setClock(sql, `${dateOf(now() + DAY)}T00:00:00Z`);
  // A new day has begun, though nobody has reset anything
  await use(holds, key, 200);
  const limited = await aChild(sql, key.account);
  await sql`update child_key set limit_daily = 200 where id = ${limited.child}`;
  const asked = Array.from({ length: 100 }, () => openHold(holds, limited));
  const answers = await Promise.allSettled(asked);
  expect(answers.filter(({ status }) => status === "fulfilled")).toHaveLength(20);
  const [row] = await sql`select day, used_daily::int from child_key where id = ${key.child}`;
  expect(row).toEqual({ day: dateOf(now() + DAY), used_daily: 1_400 });
  temporal = await temporalServer();
  await within(60_000, async () => {
    const [account] = await sql`
      select settled_seq::int as settled from account where id = ${key.account}`;
    expect(account?.settled).toBe(206);
  });
  const findings = await checkBooks(sql);
  expect(findings.flatMap(({ violations }) => violations)).toEqual([]);
}, 180_000);
