import { mkdir, readdir, writeFile } from "node:fs/promises";
import type { Client } from "@temporalio/client";
import { ScheduleOverlapPolicy } from "@temporalio/client";
import { historyToJSON } from "@temporalio/common/lib/proto-utils.js";
import { expect, inject, test } from "vitest";
import type { Id } from "../../src/base/ids.js";
import { HOUR, now } from "../../src/base/time.js";
import { captureEnding } from "../../src/holds/delivery/ending.js";
import { createHandover } from "../../src/holds/delivery/handover.js";
import { settleNow } from "../../src/temporal/jobs.js";
import { enqueue } from "../../src/temporal/outbox.js";
import { RESET_SCHEDULES } from "../../src/temporal/schedules.js";
import { startWorker } from "../../src/worker.js";
import { QUEUES, UPDATES, workflowIds } from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import { tellAReceiver } from "./webhook-scene.js";
import type { World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  breakUsage,
  configFor,
  detailsOf,
  mendUsage,
  openHold,
  quietLog,
  temporalClient,
  use,
  within,
} from "./world.js";

// Run by record.ts: lets workflows go their ways once and keeps the histories for replay.test.ts.

const FOLDER = new URL("./histories/", import.meta.url);

declare module "vitest" {
  interface ProvidedContext {
    /** Names of the histories to record; empty: those that are missing. */
    record: string[];
  }
}

interface Scene {
  /** What it can record, by name. */
  names: string[];
  /** @returns the workflow of each name */
  play: (world: World, client: Client) => Promise<[string, string][]>;
}

const SCENES: Scene[] = [
  { names: ["key-expiry-recorded", "key-expiry-cleared"], play: expiries },
  { names: ["key-grace"], play: aGrace },
  { names: ["key-reannounce"], play: reannounced },
  { names: ["expiry-sweep-graces"], play: sweepGraces },
  {
    names: ["limit-reset-told", "limit-reset-done-before", "limit-reset-scheduled"],
    play: resets,
  },
  { names: ["expiry-sweep", "hold-recovery", "partitions"], play: byHand },
  { names: ["settlement"], play: settle },
  { names: ["settlement-orders"], play: settleOnOrder },
  { names: ["settle-hold"], play: handOver },
  { names: ["settle-hold-given-up"], play: giveUp },
  { names: ["reconcile", "reconcile-done-before"], play: compare },
  { names: ["webhook-endpoint", "webhook"], play: tellAReceiver },
];

test("record the histories that were asked for", async () => {
  await mkdir(FOLDER, { recursive: true });
  const names = SCENES.flatMap((it) => it.names);
  const asked = inject("record");
  expect(names).toEqual(expect.arrayContaining(asked));
  const there = await readdir(FOLDER);
  const missing = names.filter((name) => !there.includes(`${name}.json`));
  const wanted = asked.length > 0 ? asked : missing;
  const scenes = SCENES.filter((scene) => scene.names.some((name) => wanted.includes(name)));
  console.log(`recording: ${wanted.join(", ") || "nothing is missing"}`);
  if (scenes.length === 0) return;

  const world = await aWorld();
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  const client = await temporalClient(temporal);
  const config = configFor(temporal, world.databaseUrl);
  const worker = await startWorker({ config, sql: world.sql, log: quietLog });
  for (const scene of scenes) {
    for (const [name, workflowId] of await scene.play(world, client)) {
      if (wanted.includes(name)) await keep(client, name, workflowId);
    }
  }
  await worker.stop();
  await client.connection.close();
  await world.close();
}, 120_000);

async function keep(client: Client, name: string, workflowId: string): Promise<void> {
  const history = await client.workflow.getHandle(workflowId).fetchHistory();
  const text = historyToJSON(history).replace(/("identity": ")[^"]*/g, "$1recorder");
  await writeFile(new URL(`${name}.json`, FOLDER), `${text}\n`);
}

async function expiries({ sql }: World, client: Client): Promise<[string, string][]> {
  const account = await anAccount(sql);
  const expiry = async (child: string, at: Date | null) => {
    await sql`update child_key set expires_at = ${at} where id = ${child}`;
    await enqueue(sql, { kind: "key_expiry", key: child });
  };
  const [recorded, cleared] = [await aChild(sql, account), await aChild(sql, account)];
  const handles = [recorded, cleared].map(({ child }) =>
    client.workflow.getHandle(workflowIds.keyExpiry(child)),
  );
  for (const { child } of [recorded, cleared]) await expiry(child, new Date(now() + HOUR));
  for (const handle of handles) await within(10_000, async () => void (await handle.describe()));
  for (const { child } of [recorded, cleared]) await expiry(child, new Date(now() + 2 * HOUR));
  for (const handle of handles) {
    await within(10_000, async () => expect(await detailsOf(handle)).toContain("expires at"));
  }
  await expiry(recorded.child, new Date(now() + 1_000));
  await expiry(cleared.child, null);
  for (const handle of handles) await handle.result();
  return [
    ["key-expiry-recorded", workflowIds.keyExpiry(recorded.child)],
    ["key-expiry-cleared", workflowIds.keyExpiry(cleared.child)],
  ];
}

async function aGrace({ sql }: World, client: Client): Promise<[string, string][]> {
  const { child } = await aChild(sql, await anAccount(sql));
  const graceFor = async (seconds: number) => {
    await sql`
      update child_key set previous_secret_until = now() + ${seconds} * interval '1 second'
       where id = ${child}`;
    await enqueue(sql, { kind: "key_grace", key: child });
  };
  const handle = client.workflow.getHandle(workflowIds.keyGrace(child));
  await graceFor(3_600);
  await within(10_000, async () => void (await handle.describe()));
  await graceFor(7_200);
  await within(10_000, async () => expect(await detailsOf(handle)).toContain("works until"));
  await graceFor(1);
  await handle.result();
  return [["key-grace", workflowIds.keyGrace(child)]];
}

/** Two pages. */
async function reannounced({ sql }: World, client: Client): Promise<[string, string][]> {
  const { account, managementKey } = await aChild(sql, await anAccount(sql));
  await sql`
    insert into child_key (id, account_id, management_key_id, name, hint, day, month, created_at,
      updated_at, expires_at)
    select gen_random_uuid(), ${account}, ${managementKey}, 'n', 'gc-...last', now(), now(), now(),
      now(), now() + interval '10 minutes' + i * interval '1 second' from generate_series(1, 520) i`;
  const workflowId = "key-reannounce by hand";
  await client.workflow.execute("keyReannounce", { workflowId, taskQueue: QUEUES.jobs });
  return [["key-reannounce", workflowId]];
}

async function sweepGraces(_world: World, client: Client): Promise<[string, string][]> {
  const workflowId = "expiry sweep by hand";
  await client.workflow.execute("expirySweep", { workflowId, taskQueue: QUEUES.jobs });
  return [["expiry-sweep-graces", workflowId]];
}

async function resets(_world: World, client: Client): Promise<[string, string][]> {
  const schedule = client.schedule.getHandle(RESET_SCHEDULES.day);
  await within(10_000, async () => void (await schedule.describe()));
  await schedule.trigger(ScheduleOverlapPolicy.BUFFER_ALL);
  const query = (type: string) => `WorkflowType = '${type}' and ExecutionStatus = 'Completed'`;
  const found: string[] = [];
  await within(20_000, async () => {
    for (const type of ["limitReset", "scheduledLimitReset"]) {
      for await (const { workflowId } of client.workflow.list({ query: query(type) })) {
        found.push(workflowId);
      }
    }
    expect(found.length).toBeGreaterThanOrEqual(2);
  });
  const today = new Date(now()).toISOString().slice(0, 10);
  const again = "limit reset, again";
  await client.workflow.execute("limitReset", {
    ...{ workflowId: again, taskQueue: QUEUES.jobs, args: [{ kind: "day", period: today }] },
  });
  return [
    ["limit-reset-told", workflowIds.limitReset({ kind: "day", period: today })],
    ["limit-reset-done-before", again],
    ["limit-reset-scheduled", found.find((id) => id.startsWith(RESET_SCHEDULES.day)) ?? "none"],
  ];
}

async function byHand(_world: World, client: Client): Promise<[string, string][]> {
  const kept: [string, string][] = [];
  for (const type of ["expirySweep", "holdRecovery", "partitions"]) {
    await client.workflow.execute(type, { workflowId: type, taskQueue: QUEUES.jobs });
    const name = type.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    kept.push([name, type]);
  }
  return kept;
}

async function settle({ sql, holds }: World, client: Client): Promise<[string, string][]> {
  const workflowId = workflowIds.settlement(2);
  const key = await aChild(sql, await anAccount(sql, { shard: 2 }));
  for (const total of [3, 6]) {
    await use(holds, key, 3);
    await settleNow(client);
    await within(15_000, async () =>
      expect(await detailsOf(client.workflow.getHandle(workflowId))).toContain(`${total} records`),
    );
  }
  return [["settlement", workflowId]];
}

/** Pauses a shard, resumes it, and retries an account that cannot be posted, then one that can. */
async function settleOnOrder({ sql, holds }: World, client: Client): Promise<[string, string][]> {
  const workflowId = workflowIds.settlement(1);
  const handle = client.workflow.getHandle(workflowId);
  const order = { by: "recorder", reason: "to have a record" };
  const update = (name: string, args: object) => handle.executeUpdate(name, { args: [args] });
  await within(10_000, async () => void (await update(UPDATES.pause, order)));
  const key = await aChild(sql, await anAccount(sql, { shard: 1 }));
  await use(holds, key, 3);
  await breakUsage(sql, key.account);
  await update(UPDATES.resume, order);
  await within(10_000, async () => expect(await detailsOf(handle)).toContain("has a gap"));
  await update(UPDATES.retryAccount, { account: key.account, ...order });
  await mendUsage(sql, key.account);
  await update(UPDATES.retryAccount, { account: key.account, ...order });
  return [["settlement-orders", workflowId]];
}

async function handOver({ sql, holds }: World, client: Client): Promise<[string, string][]> {
  const key = await aChild(sql, await anAccount(sql));
  const id = await openHold(holds, key);
  const workflowId = await start(client, key.account, id);
  expect(await client.workflow.getHandle(workflowId).result()).toMatchObject({ kind: "captured" });
  return [["settle-hold", workflowId]];
}

async function giveUp({ sql, holds }: World, client: Client): Promise<[string, string][]> {
  const key = await aChild(sql, await anAccount(sql));
  const id = await openHold(holds, key);
  let workflowId = "";
  await sql.begin(async (tx) => {
    await tx`select 1 from account where id = ${key.account} for update`;
    workflowId = await start(client, key.account, id);
    await client.workflow.getHandle(workflowId).executeUpdate(UPDATES.giveUp, {
      args: [{ by: "recorder", reason: "to have a record" }],
    });
  });
  expect(await client.workflow.getHandle(workflowId).result()).toEqual({ kind: "given_up" });
  return [["settle-hold-given-up", workflowId]];
}

async function start(client: Client, account: Id, id: Id): Promise<string> {
  const ending = captureEnding({
    ...{ account, id, cost: 7n, inputTokens: 3n, outputTokens: 4n },
    ...{ estimated: false, fingerprint: 2n },
  });
  expect(await createHandover(client, quietLog)(ending)).toBe(true);
  return workflowIds.settleHold(id);
}

async function compare(_world: World, client: Client): Promise<[string, string][]> {
  const ids = ["reconcile", "reconcile-done-before"];
  for (const workflowId of ids) {
    await client.workflow.execute("reconcile", {
      ...{ workflowId, taskQueue: QUEUES.jobs, args: [{}] },
    });
  }
  return ids.map((id) => [id, id]);
}
