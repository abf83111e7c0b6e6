import { type Client, ScheduleOverlapPolicy } from "@temporalio/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Period, readPeriod, rollCounters } from "../../src/holds/periods.js";
import { RESET_SCHEDULES } from "../../src/temporal/schedules.js";
import { startWorker } from "../../src/worker.js";
import { QUEUES, workflowIds } from "../../workflows/contract.js";
import type { limitReset } from "../../workflows/limit-reset.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { TestChild, World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  detailsOf,
  openHold,
  quietLog,
  setClock,
  temporalClient,
  use,
  within,
} from "./world.js";

let world: World;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;
let a: TestChild;
let b: TestChild;
let openId: string;

// Three days of use in another year, seen by a clock of our own; the tests below go through them in
// order
beforeAll(async () => {
  world = await aWorld();
  const { sql, holds } = world;
  await setClock(sql, "2026-03-09T10:00:00Z");
  a = await aChild(sql, await anAccount(sql));
  b = await aChild(sql, await anAccount(sql));
  await use(holds, a, 3);
  await setClock(sql, "2026-03-10T23:59:59.9Z");
  await use(holds, a, 2);
  await use(holds, b, 4);
  openId = await openHold(holds, b, 3_600);
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(temporal);
  worker = await startWorker({ config: configFor(temporal), sql, log: quietLog });
  await within(10_000, async () => void (await dayHandle().describe()));
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await world?.close();
});

const dayHandle = () => client.schedule.getHandle(RESET_SCHEDULES.day);
const backfill = (start: string, end: string) =>
  dayHandle().backfill({
    ...{ start: new Date(start), end: new Date(end) },
    overlap: ScheduleOverlapPolicy.BUFFER_ALL,
  });

const resets = () => world.sql`
  select kind, period, keys_rolled::int as rolled, requests::int, cost::int,
         finished_at is not null as finished
    from period_reset order by kind, period`;

const everything = () => world.sql`
  select (select json_agg(r order by kind, period) from period_reset r) as resets,
         (select json_agg(u order by day, child_key_id, model) from usage_rollup u) as rollups,
         (select json_agg(c order by id) from child_key c) as keys`;

const day = (period: string) => ({ kind: "day", period }) as const;

test("a reset before its time waits for the database's clock and resets nothing", async () => {
  await client.workflow.start<typeof limitReset>("limitReset", {
    workflowId: workflowIds.limitReset(day("2026-03-12")),
    taskQueue: QUEUES.jobs,
    args: [day("2026-03-12")],
  });
  const handle = client.workflow.getHandle(workflowIds.limitReset(day("2026-03-12")));
  await within(10_000, async () =>
    expect(await detailsOf(handle)).toBe("2026-03-12 has not begun by the database's clock"),
  );
  expect(await resets()).toEqual([]);
  await handle.terminate();
});

test("missed days are each their own run, in order, with their own sums", async () => {
  await setClock(world.sql, "2026-03-11T00:00:05Z");
  await backfill("2026-03-09T12:00:00Z", "2026-03-11T00:00:05Z");
  await within(20_000, async () =>
    expect(await resets()).toEqual([
      { kind: "day", period: "2026-03-10", rolled: 0, requests: 3, cost: 21, finished: true },
      { kind: "day", period: "2026-03-11", rolled: 2, requests: 6, cost: 42, finished: true },
    ]),
  );
  const first = client.workflow.getHandle(workflowIds.limitReset(day("2026-03-10")));
  const second = client.workflow.getHandle(workflowIds.limitReset(day("2026-03-11")));
  await second.result();
  const [before, after] = [await first.describe(), await second.describe()];
  expect(before.closeTime?.getTime()).toBeLessThanOrEqual(after.startTime.getTime());
  expect(await detailsOf(second)).toBe(
    "2026-03-10 ended: 2 keys rolled, 6 requests, 0.000000042 GNK",
  );
  expect(await after.staticSummary()).toBe("limits per day: 2026-03-11 begins");
  expect(after.searchAttributes).toMatchObject({ KeytollPeriod: ["2026-03-11"] });

  const rollups = await world.sql`
    select day, child_key_id as child, model, requests::int, input_tokens::int as input,
           output_tokens::int as output, cost::int from usage_rollup order by day, cost`;
  const line = { model: "demo/fast" };
  expect(rollups).toEqual([
    { ...line, day: "2026-03-09", child: a.child, requests: 3, input: 9, output: 12, cost: 21 },
    { ...line, day: "2026-03-10", child: a.child, requests: 2, input: 6, output: 8, cost: 14 },
    { ...line, day: "2026-03-10", child: b.child, requests: 4, input: 12, output: 16, cost: 28 },
  ]);
});

test("rolling empties the day's counter only, and a hold from before midnight ends right after it", async () => {
  const counters = () => world.sql`
    select day, used_daily::int as daily, month, used_monthly::int as monthly,
      used_total::int as total,
           held::int from child_key where id in (${a.child}, ${b.child}) order by created_at`;
  const today = { day: "2026-03-11", daily: 0, month: "2026-03-01" };
  expect(await counters()).toEqual([
    { ...today, monthly: 35, total: 35, held: 0 },
    { ...today, monthly: 38, total: 38, held: 10 },
  ]);
  await world.holds.capture({
    ...{ account: b.account, id: openId, cost: 6n, inputTokens: 1n, outputTokens: 1n },
    ...{ estimated: false, fingerprint: 2n, own: false },
  });
  expect((await counters())[1]).toEqual({ ...today, monthly: 34, total: 34, held: 0 });
});

test("a second run, another backfill or a replayed activity changes nothing", async () => {
  const before = await everything();
  await backfill("2026-03-09T12:00:00Z", "2026-03-11T00:00:05Z");
  await within(20_000, async () => {
    const starters = await client.workflow.count(
      "WorkflowType = 'scheduledLimitReset' and ExecutionStatus = 'Completed'",
    );
    expect(starters.count).toBe(4);
  });
  const again = await client.workflow.execute<typeof limitReset>("limitReset", {
    ...{ workflowId: "by hand", taskQueue: QUEUES.jobs, args: [day("2026-03-11")] },
  });
  expect(again).toEqual({ ended: "2026-03-10", keysRolled: 2, requests: 6, costNgonka: "42" });
  await rollCounters(world.sql, readPeriod("day", "2026-03-11"));
  expect(await everything()).toEqual(before);
});

test("a late reset touches no counter of a newer period", async () => {
  const { sql, holds } = world;
  await setClock(sql, "2026-03-13T08:00:00Z");
  await use(holds, a, 1);
  await rollCounters(sql, readPeriod("day", "2026-03-12"));
  const [row] = await sql`select day, used_daily::int from child_key where id = ${a.child}`;
  expect(row).toEqual({ day: "2026-03-13", used_daily: 7 });
});

test("the month's reset sums up all its days, those without a reset of their own too", async () => {
  await setClock(world.sql, "2026-04-01T00:00:00Z");
  const month = { kind: "month", period: "2026-04" } as const;
  const totals = await client.workflow.execute<typeof limitReset>("limitReset", {
    workflowId: workflowIds.limitReset(month),
    taskQueue: QUEUES.jobs,
    args: [month],
  });
  expect(totals).toEqual({ ended: "2026-03", keysRolled: 2, requests: 11, costNgonka: "76" });
  const rows = await world.sql`select month, used_monthly::int from child_key`;
  expect(rows).toEqual(Array(2).fill({ month: "2026-04-01", used_monthly: 0 }));
});

test("periods are days and months of the calendar, and nothing else", () => {
  const leap: Period = readPeriod("day", "2028-03-01");
  expect(leap.ended).toMatchObject({ name: "2028-02-29", firstDay: "2028-02-29" });
  expect(readPeriod("month", "2027-01").ended.name).toBe("2026-12");
  for (const [kind, name] of [
    ...[["day", "2026-02-30"] as const, ["day", "2026-2-3"] as const, ["day", "2026-03"] as const],
    ...[["month", "2026-13"] as const, ["month", "2026-03-01"] as const, ["day", ""] as const],
  ]) {
    expect(() => readPeriod(kind, name)).toThrow("period: no such");
  }
});
