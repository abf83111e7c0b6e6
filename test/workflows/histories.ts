import { mkdir, writeFile } from "node:fs/promises";
import type { Client } from "@temporalio/client";
import { ScheduleOverlapPolicy } from "@temporalio/client";
import { historyToJSON } from "@temporalio/common/lib/proto-utils.js";
import { expect, test } from "vitest";
import { HOUR, now } from "../../src/base/time.js";
import { settleNow } from "../../src/temporal/jobs.js";
import { enqueue } from "../../src/temporal/outbox.js";
import { RESET_SCHEDULES } from "../../src/temporal/schedules.js";
import { startWorker } from "../../src/worker.js";
import { QUEUES, workflowIds } from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  detailsOf,
  quietLog,
  temporalClient,
  use,
  within,
} from "./world.js";

// Run by record.ts: lets every workflow go its ways once and keeps the histories for
// replay.test.ts.

const FOLDER = new URL("./histories/", import.meta.url);

test("record a history of each workflow", async () => {
  const world = await aWorld();
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  const client = await temporalClient(temporal);
  const options = { config: configFor(temporal), sql: world.sql, log: quietLog };
  const worker = await startWorker(options);
  await mkdir(FOLDER, { recursive: true });

  for (const [name, workflowId] of await play(world, client)) await keep(client, name, workflowId);
  await worker.stop();
  await client.connection.close();
  await world.close();
}, 120_000);

async function keep(client: Client, name: string, workflowId: string): Promise<void> {
  const history = await client.workflow.getHandle(workflowId).fetchHistory();
  const text = historyToJSON(history).replace(/("identity": ")[^"]*/g, "$1recorder");
  await writeFile(new URL(`${name}.json`, FOLDER), `${text}\n`);
}

/** @returns names of the histories and the workflows that they are of */
async function play(world: World, client: Client): Promise<[string, string][]> {
  return [
    ...(await expiries(world, client)),
    ...(await resets(client)),
    ...(await byHand(client)),
    ["settlement", await settle(world, client)],
  ];
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

async function resets(client: Client): Promise<[string, string][]> {
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
    ["limit-reset", workflowIds.limitReset({ kind: "day", period: today })],
    ["limit-reset-done-before", again],
    ["limit-reset-scheduled", found.find((id) => id.startsWith(RESET_SCHEDULES.day)) ?? "none"],
  ];
}

async function byHand(client: Client): Promise<[string, string][]> {
  const kept: [string, string][] = [];
  for (const type of ["expirySweep", "holdRecovery", "partitions"]) {
    await client.workflow.execute(type, { workflowId: type, taskQueue: QUEUES.jobs });
    const name = type.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    kept.push([name, type]);
  }
  return kept;
}

async function settle({ sql, holds }: World, client: Client): Promise<string> {
  const workflowId = workflowIds.settlement(2);
  const key = await aChild(sql, await anAccount(sql, { shard: 2 }));
  for (const total of [3, 6]) {
    await use(holds, key, 3);
    await settleNow(client);
    await within(15_000, async () =>
      expect(await detailsOf(client.workflow.getHandle(workflowId))).toContain(`${total} records`),
    );
  }
  return workflowId;
}
