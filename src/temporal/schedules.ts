import { createHash } from "node:crypto";
import {
  type Backfill,
  type Client,
  ScheduleAlreadyRunning,
  ScheduleNotFoundError,
  type ScheduleOptions,
  ScheduleOverlapPolicy,
} from "@temporalio/client";
import { type Job, type PeriodRef, QUEUES, searchAttributes } from "../../workflows/contract.js";
import { DAY, MINUTE, now, SECOND } from "../base/time.js";

/** A job that comes round, by the id of its Schedule. */
interface Recurring {
  scheduleId: string;
  job: Job;
  workflowType: string;
  args: unknown[];
  summary: string;
  spec: ScheduleOptions["spec"];
  /** Milliseconds by which it may be late and is still worth doing. */
  catchupWindow: number;
  overlap: ScheduleOverlapPolicy;
  /** Runs for the first time when the Schedule is made. */
  atOnce?: boolean;
  /** The kind of period that it resets. */
  resets?: PeriodRef["kind"];
}

/** First instant of the newest period of a kind that was reset; null where none ever was. */
export type NewestReset = (kind: PeriodRef["kind"]) => Promise<Date | null>;

/** Schedules of the limit resets, by kind of period. */
export const RESET_SCHEDULES = {
  day: "limit-reset-day",
  month: "limit-reset-month",
} as const satisfies Record<PeriodRef["kind"], string>;

const { SKIP, BUFFER_ALL } = ScheduleOverlapPolicy;

/** Calendar times are UTC. Periods that were missed are made up for, one after the other. */
const RECURRING: Recurring[] = [
  {
    scheduleId: RESET_SCHEDULES.day,
    job: "limit-reset",
    workflowType: "scheduledLimitReset",
    args: ["day"],
    resets: "day",
    summary: "a day begins: roll idle daily counters, sum up the day before",
    spec: { calendars: [{ hour: 0, minute: 0, second: 0 }], timezone: "UTC" },
    catchupWindow: 40 * DAY,
    overlap: BUFFER_ALL,
  },
  {
    scheduleId: RESET_SCHEDULES.month,
    job: "limit-reset",
    workflowType: "scheduledLimitReset",
    args: ["month"],
    resets: "month",
    summary: "a month begins: roll idle monthly counters, sum up the month before",
    spec: { calendars: [{ dayOfMonth: 1, hour: 0, minute: 0, second: 0 }], timezone: "UTC" },
    catchupWindow: 400 * DAY,
    overlap: BUFFER_ALL,
  },
  {
    scheduleId: "expiry-sweep",
    job: "expiry-sweep",
    workflowType: "expirySweep",
    args: [],
    summary: "record expiries of keys that no workflow has recorded",
    spec: { intervals: [{ every: MINUTE }] },
    catchupWindow: MINUTE,
    overlap: SKIP,
  },
  // Runs when the Schedule is made, which is when Temporal is new or has lost its database
  {
    scheduleId: "key-reannounce",
    job: "key-reannounce",
    workflowType: "keyReannounce",
    args: [],
    summary: "start the workflows of keys that Temporal does not know",
    spec: { calendars: [{ dayOfWeek: "SUNDAY", hour: 3, minute: 0, second: 0 }], timezone: "UTC" },
    catchupWindow: DAY,
    overlap: SKIP,
    atOnce: true,
  },
  {
    scheduleId: "hold-recovery",
    job: "hold-recovery",
    workflowType: "holdRecovery",
    args: [],
    summary: "end holds that were left behind",
    spec: { intervals: [{ every: 30 * SECOND }] },
    catchupWindow: MINUTE,
    overlap: SKIP,
  },
  {
    scheduleId: "reconcile",
    job: "reconcile",
    workflowType: "reconcile",
    args: [],
    summary: "compares once a day what is stored with what it should be",
    spec: { calendars: [{ hour: 1, minute: 15, second: 0 }], timezone: "UTC" },
    catchupWindow: DAY,
    overlap: SKIP,
  },
  {
    scheduleId: "partitions",
    job: "partitions",
    workflowType: "partitions",
    args: [],
    summary: "make the monthly partitions ahead",
    spec: { calendars: [{ hour: 0, minute: 10, second: 0 }], timezone: "UTC" },
    catchupWindow: 7 * DAY,
    overlap: SKIP,
    atOnce: true,
  },
];

/**
 * Makes the Schedules that are missing and brings the others up to date. One of resets that is made
 * anew, because Temporal's database was lost, or changed, which drops what it still had to make up
 * for, makes up for the periods since the newest that was reset. Those that were done meanwhile
 * are not done again.
 */
export async function ensureSchedules(client: Client, newestReset: NewestReset): Promise<void> {
  for (const recurring of RECURRING) {
    const options = toOptions(recurring);
    const found = await find(client, options);
    if (found === "right") continue;
    const since = recurring.resets ? await newestReset(recurring.resets) : null;
    const missed = since ? [sinceThen(since)] : [];
    if (found === "missing") await make(client, options, missed);
    else await change(client, options, missed);
  }
}

type Options = ScheduleOptions & { action: { memo: { made: string } } };

/** One that is as it should be is left alone. */
async function find(client: Client, options: Options): Promise<"right" | "other" | "missing"> {
  try {
    const { action } = await client.schedule.getHandle(options.scheduleId).describe();
    return action.memo?.made === options.action.memo.made ? "right" : "other";
  } catch (error) {
    if (error instanceof ScheduleNotFoundError) return "missing";
    throw error;
  }
}

/** @param begins of the newest period that was reset */
const sinceThen = (begins: Date): Backfill => ({
  start: new Date(begins.getTime() + SECOND),
  end: new Date(now()),
  overlap: BUFFER_ALL,
});

async function change(client: Client, options: Options, missed: Backfill[]): Promise<void> {
  const handle = client.schedule.getHandle(options.scheduleId);
  // Whether an operator has paused it is not ours to decide
  await handle.update(({ state }) => ({ ...options, state }));
  if (missed.length > 0) await handle.backfill(missed);
}

async function make(client: Client, options: Options, missed: Backfill[]): Promise<void> {
  try {
    await client.schedule.create({ ...options, state: { ...options.state, backfill: missed } });
  } catch (error) {
    if (!(error instanceof ScheduleAlreadyRunning)) throw error;
  }
}

function toOptions(recurring: Recurring): Options {
  const { scheduleId, job, workflowType, args, summary, spec, catchupWindow, overlap } = recurring;
  const made = createHash("sha256").update(JSON.stringify(recurring)).digest("hex").slice(0, 16);
  return {
    scheduleId,
    spec,
    policies: { overlap, catchupWindow },
    state: { triggerImmediately: recurring.atOnce ?? false },
    action: {
      type: "startWorkflow",
      workflowId: scheduleId,
      workflowType,
      args,
      taskQueue: QUEUES.jobs,
      staticSummary: summary,
      typedSearchAttributes: searchAttributes({ job }),
      memo: { made },
    },
  };
}
