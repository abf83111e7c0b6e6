import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { type Client, ScheduleOverlapPolicy, type WorkflowHandle } from "@temporalio/client";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DAY, now } from "../../src/base/time.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { newestReset } from "../../src/holds/periods.js";
import { ensureSchedules, RESET_SCHEDULES } from "../../src/temporal/schedules.js";
import { startWorker } from "../../src/worker.js";
import { type PeriodRef, QUEUES, workflowIds } from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { TestChild, World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  detailsOf,
  quietLog,
  setClock,
  temporalClient,
  use,
  within,
} from "./world.js";

let world: World;
let client: Client;
let place: { address: string; namespace: string };
let worker: Awaited<ReturnType<typeof startWorker>> | undefined;
let key: TestChild;

beforeEach(async () => {
  world = await aWorld();
  place = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(place);
  await start();
  await within(20_000, async () => {
    for (const id of Object.values(RESET_SCHEDULES)) await schedule(id).describe();
  });
});
afterEach(async () => {
  await worker?.stop();
  await client?.connection.close();
  await world?.close();
});

async function start(): Promise<void> {
  worker = await startWorker({ config: configFor(place), sql: world.sql, log: quietLog });
}

async function stop(): Promise<void> {
  await worker?.stop();
  worker = undefined;
}

const schedule = (id: string) => client.schedule.getHandle(id);
const run = (kind: PeriodRef["kind"], period: string): WorkflowHandle =>
  client.workflow.getHandle(workflowIds.limitReset({ kind, period }));

/** What Temporal does by itself when a Schedule's time was missed, oldest first. */
const missed = (kind: PeriodRef["kind"], from: string, to: string) =>
  schedule(RESET_SCHEDULES[kind]).backfill({
    ...{ start: new Date(`${from}T12:00:00Z`), end: new Date(`${to}T12:00:00Z`) },
    overlap: ScheduleOverlapPolicy.BUFFER_ALL,
  });

const resets = async () => [
  ...(await world.sql`
    select kind, period, requests::int, cost::int from period_reset
     where finished_at is not null order by kind, period`),
];
const line = (kind: string, period: string, requests: number) => ({
  ...{ kind, period, requests },
  cost: 7 * requests,
});

test("off for three days over a month's end, then on: each missed day and the month in order, once", async () => {
  await setClock(world.sql, "2026-04-29T12:00:00Z");
  key = await aChild(world.sql, await anAccount(world.sql));
  await use(world.holds, key, 1);
  await stop();
  // Gateways go on without workers
  for (const [at, count] of [
    ["2026-04-30T12:00:00Z", 2],
    ["2026-05-01T12:00:00Z", 3],
    ["2026-05-02T08:00:00Z", 4],
  ] as const) {
    await setClock(world.sql, at);
    await use(world.holds, key, count);
  }
  await missed("day", "2026-04-29", "2026-05-02");
  await missed("month", "2026-04-29", "2026-05-02");
  expect(await resets()).toEqual([]);

  await start();
  const all = [
    line("day", "2026-04-30", 1),
    line("day", "2026-05-01", 2),
    line("day", "2026-05-02", 3),
    line("month", "2026-05-01", 3),
  ];
  await within(30_000, async () => expect(await resets()).toEqual(all));
  const days = [run("day", "2026-04-30"), run("day", "2026-05-01"), run("day", "2026-05-02")];
  let before = 0;
  for (const day of days) {
    await day.result();
    const { startTime, closeTime } = await day.describe();
    expect(startTime.getTime()).toBeGreaterThanOrEqual(before);
    before = closeTime?.getTime() ?? Number.NaN;
  }

  const everything = () => world.sql`
    select (select json_agg(r order by kind, period) from period_reset r) as resets,
           (select json_agg(u order by day) from usage_rollup u) as rollups,
           (select json_agg(c) from child_key c) as keys`;
  const once = await everything();
  await missed("day", "2026-04-29", "2026-05-02");
  await missed("month", "2026-04-29", "2026-05-02");
  await within(20_000, async () => {
    const { count } = await client.workflow.count(
      "WorkflowType = 'scheduledLimitReset' and ExecutionStatus = 'Completed'",
    );
    expect(count).toBe(8);
  });
  expect(await everything()).toEqual(once);
}, 120_000);

test("a Schedule that an upgrade changes makes up for the days that were missed meanwhile", async () => {
  const today = new Date(now()).toISOString().slice(0, 10);
  const ago = (days: number) => new Date(Date.parse(today) - days * DAY).toISOString().slice(0, 10);
  await world.sql`
    insert into period_reset (kind, period, finished_at) values ('day', ${ago(3)}, now())`;
  await schedule(RESET_SCHEDULES.day).update((before) => {
    if (before.action.type !== "startWorkflow") throw new Error("it starts a workflow");
    return { ...before, action: { ...before.action, memo: { made: "by an older version" } } };
  });
  await ensureSchedules(client, (kind) => newestReset(world.sql, kind));
  await within(30_000, async () =>
    expect((await resets()).map(({ period }) => period)).toEqual([3, 2, 1, 0].map(ago)),
  );
  const { action } = await schedule(RESET_SCHEDULES.day).describe();
  expect(action.memo?.made).not.toBe("by an older version");
}, 120_000);

/** As an operator types it. */
async function temporal(...args: string[]): Promise<string> {
  const binary = await findTemporal(() => {});
  const where = ["--address", place.address, "--namespace", place.namespace];
  const { stdout } = await promisify(execFile)(binary, [...args, ...where]);
  return stdout;
}

test("an operator runs a missed reset by hand, and doing so again changes nothing", async () => {
  await setClock(world.sql, "2026-04-29T12:00:00Z");
  key = await aChild(world.sql, await anAccount(world.sql));
  await use(world.holds, key, 2);
  await setClock(world.sql, "2026-05-01T00:00:01Z");
  const byHand = (kind: "day" | "month", period: string) =>
    temporal(
      ...["workflow", "start", "--type", "limitReset", "--task-queue", QUEUES.jobs],
      ...["--workflow-id", `limit-reset/${kind}/${period}`],
      ...["--id-reuse-policy", "AllowDuplicateFailedOnly"],
      ...["--input", `{"kind":"${kind}","period":"${period}"}`],
    );
  const runId = /RunId +(\S+)/;
  const [, first] = runId.exec(await byHand("day", "2026-04-30")) ?? [];
  await run("day", "2026-04-30").result();
  // Answers with the run that there was
  const [, second] = runId.exec(await byHand("day", "2026-04-30")) ?? [];
  expect([typeof first, second]).toEqual(["string", first]);
  await byHand("month", "2026-05");
  await run("month", "2026-05").result();
  const done = [line("day", "2026-04-30", 2), line("month", "2026-05-01", 2)];
  expect(await resets()).toEqual(done);

  const missedByHand = () =>
    temporal(
      ...["schedule", "backfill", "--schedule-id", RESET_SCHEDULES.day],
      ...["--start-time", "2026-04-29T12:00:00Z", "--end-time", "2026-05-01T12:00:00Z"],
      ...["--overlap-policy", "BufferAll"],
    );
  await missedByHand();
  const all = [done[0], line("day", "2026-05-01", 0), done[1]];
  await within(20_000, async () => expect(await resets()).toEqual(all));
  const handle = run("day", "2026-05-01");
  await handle.result();
  expect(await detailsOf(handle)).toBe("2026-04-30 ended: 0 keys rolled, 0 requests, 0 GNK");
  await missedByHand();
  await within(20_000, async () => {
    const { count } = await client.workflow.count(
      "WorkflowType = 'scheduledLimitReset' and ExecutionStatus = 'Completed'",
    );
    expect(count).toBe(4);
  });
  expect(await resets()).toEqual(all);
}, 120_000);

test("triggered by hand, the Schedule resets the day that it is, which is done once", async () => {
  const today = new Date(now()).toISOString().slice(0, 10);
  for (const times of [1, 2]) {
    await temporal("schedule", "trigger", "--schedule-id", RESET_SCHEDULES.day);
    await within(20_000, async () => {
      const { count } = await client.workflow.count(
        "WorkflowType = 'scheduledLimitReset' and ExecutionStatus = 'Completed'",
      );
      expect(count).toBe(times);
    });
  }
  expect(await resets()).toEqual([line("day", today, 0)]);
}, 120_000);
