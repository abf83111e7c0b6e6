import { patched, proxyActivities, setCurrentDetails } from "@temporalio/workflow";
import { QUEUES } from "./contract.js";
import type { KeyActivities } from "./key-contract.js";
import { counted } from "./words.js";

const keys = proxyActivities<KeyActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "1 hour",
  heartbeatTimeout: "30 seconds",
  retry: { maximumInterval: "30 seconds" },
  summary: "record what is due, a page at a time",
});

/**
 * Records expiries of keys, and ends of the grace of replaced secrets, that no workflow of their
 * own has recorded.
 */
export async function expirySweep(): Promise<number> {
  const expired = await keys.sweepExpiredKeys();
  const ended = patched("graces") ? await keys.sweepEndedGraces() : 0;
  setCurrentDetails(
    `recorded the expiry of ${counted(expired, "key")}, the end of ${counted(ended, "grace")}`,
  );
  return expired + ended;
}
