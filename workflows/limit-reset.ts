import {
  ApplicationFailure,
  executeChild,
  ParentClosePolicy,
  patched,
  proxyActivities,
  setCurrentDetails,
  sleep,
  WorkflowIdReusePolicy,
  workflowInfo,
} from "@temporalio/workflow";
import {
  type PeriodActivities,
  type PeriodRef,
  type PeriodTotals,
  QUEUES,
  searchAttributes,
  workflowIds,
} from "./contract.js";
import { counted, gnk } from "./words.js";

const retry = { maximumInterval: "30 seconds" } as const;
const { openPeriod } = proxyActivities<PeriodActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "15 seconds",
  retry,
  summary: "has the period begun, is it done already?",
});
/** Long ones say every few seconds that they go on: one whose worker is gone is soon taken up. */
const long = {
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "12 hours",
  heartbeatTimeout: "10 seconds",
  retry,
} as const;
const { rollCounters } = proxyActivities<PeriodActivities>({
  ...long,
  summary: "bring idle counters into the new period",
});
const { sumUpUsage } = proxyActivities<PeriodActivities>({
  ...long,
  summary: "sum up usage per day, child key and model",
});
const { tellOfResets } = proxyActivities<PeriodActivities>({
  ...long,
  summary: "record limit.reset events of keys that were in use",
});
const { closePeriod } = proxyActivities<PeriodActivities>({
  ...long,
  summary: "put the ended period's totals on record",
});

/**
 * Tidies up after a period has ended. Limits are reset by the clock inside authorize; this changes
 * nothing that a customer can see, and running it again changes nothing at all.
 */
export async function limitReset(ref: PeriodRef): Promise<PeriodTotals> {
  let state = await openPeriod(ref);
  while (state.kind === "early") {
    setCurrentDetails(`${ref.period} has not begun by the database's clock`);
    await sleep(state.waitMs, { summary: `until ${ref.period} begins` });
    state = await openPeriod(ref);
  }
  if (state.kind === "finished") {
    setCurrentDetails(`done before: ${inWords(state.totals)}`);
    return state.totals;
  }

  setCurrentDetails(`${state.ended} ended: rolling idle counters`);
  await rollCounters(ref);
  setCurrentDetails(`${state.ended} ended: counters rolled, summing up its usage`);
  if (patched("events before totals")) {
    await sumUpUsage(ref);
    setCurrentDetails(`${state.ended} ended: summed up, telling whom it concerns`);
    await tellOfResets(ref);
  }
  const totals = await closePeriod(ref);
  setCurrentDetails(inWords(totals));
  return totals;
}

/**
 * What the Schedule starts: finds out which period it was meant for (however late it runs) and
 * waits for that period's own workflow, so that missed periods are made up for one after the other.
 */
export async function scheduledLimitReset(kind: PeriodRef["kind"]): Promise<void> {
  const ref = { kind, period: periodOf(kind, scheduledTime()) };
  const workflowId = workflowIds.limitReset(ref);
  setCurrentDetails(`see ${workflowId}`);
  try {
    const totals = await executeChild(limitReset, {
      workflowId,
      args: [ref],
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
      parentClosePolicy: ParentClosePolicy.ABANDON,
      staticSummary: `limits per ${kind}: ${ref.period} begins`,
      typedSearchAttributes: searchAttributes({ job: "limit-reset", period: ref.period }),
    });
    setCurrentDetails(`${workflowId}: ${inWords(totals)}`);
  } catch (error) {
    if (!isAlreadyStarted(error)) throw error;
    setCurrentDetails(`${workflowId} is done or under way already`);
  }
}

function scheduledTime(): Date {
  const key = { name: "TemporalScheduledStartTime", type: "DATETIME" } as const;
  const at = workflowInfo().typedSearchAttributes.get(key);
  if (at) return at;
  throw ApplicationFailure.nonRetryable("only a Schedule starts this; by hand, start limitReset");
}

function periodOf(kind: PeriodRef["kind"], at: Date): string {
  return at.toISOString().slice(0, kind === "day" ? 10 : 7);
}

const isAlreadyStarted = (error: unknown): boolean =>
  error instanceof Error && error.name === "WorkflowExecutionAlreadyStartedError";

function inWords({ ended, keysRolled, requests, costNgonka }: PeriodTotals): string {
  const rolled = `${counted(keysRolled, "key")} rolled`;
  return `${ended} ended: ${rolled}, ${counted(requests, "request")}, ${gnk(costNgonka)}`;
}
