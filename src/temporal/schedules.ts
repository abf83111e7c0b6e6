import { createHash } from "node:crypto";
import {
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
 * Makes the Schedules that are missing and brings the others up to date. One of resets that has to
 * be made anew, because Temporal's database was lost, makes up for the periods since the newest
 * that was reset.
 */
export async function ensureSchedules(client: Client, newestReset: NewestReset): Promise<void> {
  for (const recurring of RECURRING) {
    const options = toOptions(recurring);
    if (await isThere(client, options)) continue;
    const since = recurring.resets ? await newestReset(recurring.resets) : null;
    await make(client, options, since);
  }
}

type Options = ScheduleOptions & { action: { memo: { made: string } } };

/**
 * One that is as it should be is left alone, for an update drops what it still had to make up for.
 */
async function isThere(client: Client, options: Options): Promise<boolean> {
  const handle = client.schedule.getHandle(options.scheduleId);
  try {
    const { action } = await handle.describe();
    if (action.memo?.made === options.action.memo.made) return true;
    // Whether an operator has paused it is not ours to decide
    await handle.update(({ state }) => ({ ...options, state }));
    return true;
  } catch (error) {
    if (error instanceof ScheduleNotFoundError) return false;
    throw error;
  }
}

/**
 * @param since the period that began then was the last one done; null: there is nothing to make up
 * for
 */
async function make(client: Client, options: Options, since: Date | null): Promise<void> {
  const missed = since && {
    start: new Date(since.getTime() + SECOND),
    end: new Date(now()),
    overlap: BUFFER_ALL,
  };
  const state = { ...options.state, backfill: missed ? [missed] : [] };
  try {
    await client.schedule.create({ ...options, state });
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
