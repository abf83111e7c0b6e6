import { type Client, WorkflowExecutionAlreadyStartedError } from "@temporalio/client";
import {
  type HoldEnding,
  QUEUES,
  searchAttributes,
  workflowIds,
} from "../../../workflows/contract.js";
import type { settleHold } from "../../../workflows/settle-hold.js";
import type { Log } from "../../base/log.js";
import { elapsed, now, SECOND } from "../../base/time.js";

/** Hands the end of a hold to a workflow. @returns false where Temporal did not take it */
export type Handover = (ending: HoldEnding) => Promise<boolean>;

/** A caller waits for it: a Temporal that does not answer by then is taken for away. */
const PATIENCE = 2 * SECOND;
/** So long a Temporal that was away is not asked again, so that each caller need not find out. */
const REST = 5 * SECOND;
/** Starts under way at once: Temporal takes tens a second, and a local file takes the others. */
const AT_ONCE = 64;

/** How ends of holds get to Temporal: one workflow a hold, the same one when handed over again. */
export function createHandover(client: Client, log: Log): Handover {
  let underWay = 0;
  let restUntil = 0;
  return async (ending) => {
    if (underWay >= AT_ONCE || elapsed() < restUntil) return false;
    underWay += 1;
    try {
      await client.withDeadline(now() + PATIENCE, () => start(client, ending));
      return true;
    } catch (error) {
      if (error instanceof WorkflowExecutionAlreadyStartedError) return true;
      restUntil = elapsed() + REST;
      log.warn({ err: error }, "Temporal took no end of a hold");
      return false;
    } finally {
      underWay -= 1;
    }
  };
}

async function start(client: Client, ending: HoldEnding): Promise<void> {
  const { accountId, holdId, capture } = ending;
  await client.workflow.start<typeof settleHold>("settleHold", {
    workflowId: workflowIds.settleHold(holdId),
    taskQueue: QUEUES.jobs,
    args: [ending],
    workflowIdConflictPolicy: "USE_EXISTING",
    staticSummary: capture
      ? "captures a finished request that Postgres did not take"
      : "gives back the hold of a request that came to nothing",
    typedSearchAttributes: searchAttributes({ job: "settle-hold", account: accountId }),
  });
}
