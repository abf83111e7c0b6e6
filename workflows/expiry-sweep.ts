import { proxyActivities, setCurrentDetails } from "@temporalio/workflow";
import { type KeyActivities, QUEUES } from "./contract.js";
import { counted } from "./words.js";

const keys = proxyActivities<KeyActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "1 hour",
  heartbeatTimeout: "30 seconds",
  retry: { maximumInterval: "30 seconds" },
  summary: "record what expired, a page at a time",
});

/** Records expiries that no workflow of their own has recorded. */
export async function expirySweep(): Promise<number> {
  const recorded = await keys.sweepExpiredKeys();
  setCurrentDetails(`recorded the expiry of ${counted(recorded, "key")}`);
  return recorded;
}
