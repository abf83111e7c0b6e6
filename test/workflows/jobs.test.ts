import { type Client, ScheduleOverlapPolicy } from "@temporalio/client";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { settleNow } from "../../src/temporal/jobs.js";
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
  openHold,
  quietLog,
  temporalClient,
  use,
  within,
} from "./world.js";

let world: World;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;
const temporal = { address: temporalAddress(), namespace: "" };

beforeAll(async () => {
  world = await aWorld();
  temporal.namespace = await freshNamespace();
  client = await temporalClient(temporal);
  worker = await startWorker({ config: configFor(temporal), sql: world.sql, log: quietLog });
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await world?.close();
});

test("settlement runs by itself and tells an operator what it has posted", async () => {
  const key = await aChild(world.sql, await anAccount(world.sql, { shard: 3 }));
  await use(world.holds, key, 5);
  await vi.waitFor(async () => {
    const [account] = await world.sql`
      select settled_seq::int, accrued::int from account where id = ${key.account}`;
    expect(account).toEqual({ settled_seq: 5, accrued: 0 });
  }, 15_000);
  await settleNow(client);

  const handle = client.workflow.getHandle(workflowIds.settlement(3));
  await within(15_000, async () =>
    expect(await detailsOf(handle)).toMatch(
      /^accounts of shard 3, .* UTC: posted \d records? \(.* GNK\) of 1 account; 0 behind\n\nin all 5 records, 0\.000000035 GNK; code /,
    ),
  );
  const described = await handle.describe();
  expect(await described.staticSummary()).toBe(
    "posts captured usage to the journal, accounts of shard 3",
  );
  expect(described.searchAttributes).toMatchObject({ KeytollJob: ["settlement"] });
});

test("a second worker makes no second Schedule and no second settlement", async () => {
  const second = await startWorker({ config: configFor(temporal), sql: world.sql, log: quietLog });
  await second.stop();
  await vi.waitFor(async () => {
    const ids: string[] = [];
    for await (const it of client.schedule.list()) ids.push(it.scheduleId);
    expect(ids.sort()).toEqual([
      ...["expiry-sweep", "hold-recovery", "key-reannounce", "limit-reset-day"],
      ...["limit-reset-month", "partitions", "reconcile"],
    ]);
    const running = await client.workflow.count(
      "KeytollJob = 'settlement' and ExecutionStatus = 'Running'",
    );
    expect(running.count).toBe(4);
  }, 10_000);
});

test("starting a limit reset by hand, twice, leaves one reset of today and changes nothing more", async () => {
  const schedule = client.schedule.getHandle(RESET_SCHEDULES.day);
  const done = () =>
    client.workflow.count("WorkflowType = 'scheduledLimitReset' and ExecutionStatus = 'Completed'");
  const trigger = async (times: number) => {
    await schedule.trigger(ScheduleOverlapPolicy.BUFFER_ALL);
    await within(15_000, async () => expect((await done()).count).toBe(times));
    return await world.sql`select * from period_reset where kind = 'day'`;
  };
  const first = await trigger(1);
  expect(first).toMatchObject([{ kind: "day", keys_rolled: 0n, requests: 0n, cost: 0n }]);
  expect(await trigger(2)).toEqual(first);
});

test("holds past their deadline end by themselves: charged for what was streamed, or given back", async () => {
  const { sql, holds } = world;
  // Sweeping waits a while after a start of Postgres, and the one of the tests has just been
  // started
  await sql.unsafe(`
    create function public.pg_postmaster_start_time() returns timestamptz language sql
      as $$ select '2026-01-01T00:00:00Z'::timestamptz $$;
    alter function sweep_holds(int, interval) set search_path = public, pg_catalog`);
  const key = await aChild(sql, await anAccount(sql));
  const [stream, unary, alive] = [
    await openHold(holds, key, 1),
    await openHold(holds, key, 1),
    await openHold(holds, key, 60),
  ];
  const checkpoint = { cost: 4n, inputTokens: 3n, outputTokens: 2n };
  await holds.extend({ account: key.account, id: stream, seconds: 1, checkpoint });
  await within(5_000, async () => {
    const due = await sql`select from open_hold where deadline <= clock_timestamp()`;
    const left = await sql`select from open_hold`;
    expect(due.length + 3 - left.length).toBe(2);
  });

  const workflowId = "hold recovery by hand";
  await client.workflow.execute("holdRecovery", { workflowId, taskQueue: QUEUES.jobs });
  const ended =
    await sql`select id, outcome, cost::int from ended_hold where child_key_id = ${key.child}`;
  expect(ended).toHaveLength(2);
  expect(ended).toContainEqual({ id: stream, outcome: "captured", cost: 4 });
  expect(ended).toContainEqual({ id: unary, outcome: "swept", cost: 0 });
  expect(await sql`select id from open_hold`).toEqual([{ id: alive }]);
  expect(await detailsOf(client.workflow.getHandle(workflowId))).toMatch(
    /^(ended 2 holds: 1 charged for what was streamed, 1 given back|no hold was left behind)$/,
  );
});

test("the months ahead have their partitions", async () => {
  await within(10_000, async () => {
    const query = "WorkflowType = 'partitions' and ExecutionStatus = 'Completed'";
    expect((await client.workflow.count(query)).count).toBe(1);
  });
  await world.sql`drop table ${world.sql(await newestPartition())}`;
  const made = await client.workflow.execute("partitions", {
    ...{ workflowId: "partitions by hand", taskQueue: QUEUES.jobs },
  });
  expect(made).toBe(1);
});

async function newestPartition(): Promise<string> {
  const [row] = await world.sql<{ name: string }[]>`
    select relname as name from pg_class
     where relispartition and relkind = 'r' and relname like 'ended_hold_2%'
       order by 1 desc limit 1`;
  return row?.name ?? "";
}
