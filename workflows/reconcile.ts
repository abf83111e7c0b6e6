import {
  defineQuery,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  upsertSearchAttributes,
  workflowInfo,
} from "@temporalio/workflow";
import {
  QUERIES,
  QUEUES,
  type ReconcileActivities,
  type Reconciled,
  type ReconcileOrder,
  searchAttributes,
} from "./contract.js";
import { counted } from "./words.js";

const options = {
  taskQueue: QUEUES.books,
  startToCloseTimeout: "12 hours",
  heartbeatTimeout: "1 minute",
  retry: { maximumInterval: "1 minute" },
} as const;
const { openReconcile } = proxyActivities<ReconcileActivities>({
  ...options,
  summary: "which day is it for, is it done already?",
});
const { proveBooks } = proxyActivities<ReconcileActivities>({
  ...options,
  summary: "recompute the invariants since the newest checkpoint",
});
const { examineBacklog } = proxyActivities<ReconcileActivities>({
  ...options,
  summary: "look for what waits too long or was set aside",
});
const { closeReconcile } = proxyActivities<ReconcileActivities>({
  ...options,
  summary: "sum up the differences",
});

interface ReconcileStep {
  /** What is under way or came out, in words. */
  step: string;
  done: Reconciled | null;
}

const state = defineQuery<ReconcileStep>(QUERIES.state);

/**
 * Compares once a day what is stored with what it should be, and notes each difference. It changes
 * no amount: what to do about one is for an operator. A second run of a day that is done changes
 * nothing, unless it is asked to look again.
 */
export async function reconcile(order: ReconcileOrder = {}): Promise<Reconciled> {
  let at: ReconcileStep = { step: "not begun", done: null };
  setHandler(state, () => at, { description: "what is under way, or came out" });
  const show = (step: string, done: Reconciled | null = null) => {
    at = { step, done };
    setCurrentDetails(step);
  };

  const opened = await openReconcile({ ...scheduledDay(), ...order });
  if (opened.kind === "finished") {
    show(`done before\n\n${inWords(opened.done)}`, opened.done);
    return opened.done;
  }
  const { day } = opened;
  upsertSearchAttributes(searchAttributes({ job: "reconcile", period: day }));
  show(`${day}: recomputing the invariants`);
  await proveBooks(day);
  show(`${day}: invariants recomputed, looking for what waits`);
  await examineBacklog(day);
  const done = await closeReconcile(day);
  show(inWords(done), done);
  return done;
}

/** Of the time that the Schedule meant, however late this runs; none when started by hand. */
function scheduledDay(): { day?: string } {
  const key = { name: "TemporalScheduledStartTime", type: "DATETIME" } as const;
  const at = workflowInfo().typedSearchAttributes.get(key);
  return at ? { day: at.toISOString().slice(0, 10) } : {};
}

function inWords({ day, invariants, records, whole, differences, count }: Reconciled): string {
  const since = whole ? "" : " since the newest checkpoint";
  const looked = `${counted(invariants, "invariant")}, ${counted(records, "record")}${since}`;
  const lines = differences.map(({ invariant, reason }) =>
    invariant === 0 ? `\n\n${reason}` : `\n\ninvariant ${invariant}: ${reason}`,
  );
  return `${day}: ${looked}, ${counted(count, "difference")}${lines.join("")}`;
}
