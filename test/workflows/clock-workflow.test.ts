import type { TestWorkflowEnvironment } from "@temporalio/testing";
import { Worker } from "@temporalio/worker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { HOUR } from "../../src/base/time.js";
import { periodActivities } from "../../src/holds/activities.js";
import { workflowBundle } from "../../src/temporal/bundle.js";
import {
  type PeriodActivities,
  type PeriodRef,
  QUEUES,
  workflowIds,
} from "../../workflows/contract.js";
import type { limitReset } from "../../workflows/limit-reset.js";
import { findTestServer, startSkippingTime } from "../support/time-skipping.js";
import type { TestChild, World } from "./world.js";
import { aChild, anAccount, aWorld, DATA_DIR, setClock, use, within } from "./world.js";

const server = await findTestServer();

describe.skipIf(!server)("in skipped time", () => {
  let world: World;
  let env: TestWorkflowEnvironment;
  let worker: Worker;
  let running: Promise<void>;
  /** Milliseconds that the database's clock is ahead of the workflows' time. */
  let ahead = 0;
  let key: TestChild;
  /** Failures to come, by activity. */
  let failures: Partial<Record<keyof PeriodActivities, number>>;

  beforeEach(async () => {
    [ahead, failures] = [0, {}];
    world = await aWorld();
    env = await startSkippingTime(server ?? "");
    await followTime();
    key = await aChild(world.sql, await anAccount(world.sql));
    worker = await Worker.create({
      connection: env.nativeConnection,
      taskQueue: QUEUES.jobs,
      workflowBundle: { codePath: await workflowBundle(DATA_DIR) },
      activities: inTime(periodActivities(world.sql)),
    });
    running = worker.run();
  });
  afterEach(async () => {
    worker?.shutdown();
    await running;
    await env?.teardown();
    await world?.close();
  });

  let following: Promise<void> = Promise.resolve();
  /** One after the other: a function cannot be replaced twice at once. */
  function followTime(): Promise<void> {
    following = following.then(async () => {
      await setClock(world.sql, new Date((await env.currentTimeMs()) + ahead).toISOString());
    });
    return following;
  }

  /** Each sees the database's clock where the workflows' time is. */
  function inTime(all: PeriodActivities): PeriodActivities {
    const wrapped = Object.entries(all).map(([name, run]) => [
      name,
      async (ref: PeriodRef) => {
        await followTime();
        const left = failures[name as keyof PeriodActivities] ?? 0;
        failures[name as keyof PeriodActivities] = left - 1;
        if (left > 0) throw new Error("the database is away");
        return run(ref);
      },
    ]);
    return Object.fromEntries(wrapped);
  }

  const start = (ref: PeriodRef) =>
    env.client.workflow.start<typeof limitReset>("limitReset", {
      workflowId: workflowIds.limitReset(ref),
      taskQueue: QUEUES.jobs,
      args: [ref],
    });

  /** Time passes while we wait here, and stands still else. */
  const passUntil = async (at: string) => env.sleep(Date.parse(at) - (await env.currentTimeMs()));

  const day = (period: string): PeriodRef => ({ kind: "day", period });
  const month = (period: string): PeriodRef => ({ kind: "month", period });

  const finished = async () => [
    ...(await world.sql`
      select kind, period, to_char(finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI') as at
        from period_reset where finished_at is not null order by period, kind`),
  ];

  test("years of periods begin each at its own midnight: 29 February, month ends, a year's end", async () => {
    const all = [
      ...[day("2027-01-01"), month("2027-01")],
      ...[day("2027-02-28"), day("2027-03-01"), month("2027-03")],
      ...[day("2028-02-29"), day("2028-03-01"), month("2028-03")],
    ];
    for (const ref of all) await start(ref);
    for (const at of ["2027-01-01", "2027-02-28", "2027-03-01", "2028-02-29", "2028-03-02"]) {
      await passUntil(`${at}T12:00:00Z`);
    }
    await within(10_000, async () => expect(await finished()).toHaveLength(all.length));
    expect(await finished()).toEqual([
      { kind: "day", period: "2027-01-01", at: "2027-01-01T00:00" },
      { kind: "month", period: "2027-01-01", at: "2027-01-01T00:00" },
      { kind: "day", period: "2027-02-28", at: "2027-02-28T00:00" },
      { kind: "day", period: "2027-03-01", at: "2027-03-01T00:00" },
      { kind: "month", period: "2027-03-01", at: "2027-03-01T00:00" },
      { kind: "day", period: "2028-02-29", at: "2028-02-29T00:00" },
      { kind: "day", period: "2028-03-01", at: "2028-03-01T00:00" },
      { kind: "month", period: "2028-03-01", at: "2028-03-01T00:00" },
    ]);
  });

  test.each([
    ["ahead of", HOUR],
    ["behind", -HOUR],
  ])("a host whose clock is an hour %s the database's resets by the database's", async (_, off) => {
    ahead = -off;
    const handle = await start(day("2027-06-02"));
    const midnight = Date.parse("2027-06-02T00:00:00Z") + off;
    await passUntil(new Date(midnight - 1_000).toISOString());
    expect(await finished()).toEqual([]);
    await passUntil(new Date(midnight + 1_000).toISOString());
    expect(await handle.result()).toMatchObject({ ended: "2027-06-01" });
    expect(await finished()).toEqual([
      { kind: "day", period: "2027-06-02", at: "2027-06-02T00:00" },
    ]);
  });

  test("a reset that fails for an hour goes on where it was, and has done all of it once", async () => {
    failures = { openPeriod: 3, rollCounters: 130, closePeriod: 5 };
    await use(world.holds, key, 3);
    const today = new Date(await env.currentTimeMs()).toISOString().slice(0, 10);
    const tomorrow = new Date(Date.parse(today) + 24 * HOUR).toISOString().slice(0, 10);
    const totals = await (await start(day(tomorrow))).result();
    expect(totals).toEqual({ ended: today, keysRolled: 1, requests: 3, costNgonka: "21" });
    const [row] = await world.sql`
      select finished_at - ${tomorrow}::timestamp at time zone 'UTC' > interval '1 hour' as late
        from period_reset`;
    expect(row?.late).toBe(true);
  });

  test("a period that the calendar does not have fails at once and says why", async () => {
    const handle = await start(day("2027-02-29"));
    await expect(handle.result()).rejects.toMatchObject({
      cause: { cause: { message: expect.stringContaining("no such day: 2027-02-29") } },
    });
  });
});
