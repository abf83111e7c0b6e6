import { proxyActivities, setCurrentDetails } from "@temporalio/workflow";
import { type PeriodActivities, QUEUES } from "./contract.js";
import { counted } from "./words.js";

const { makePartitions } = proxyActivities<PeriodActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "1 minute",
  retry: { maximumInterval: "30 seconds" },
  summary: "make the monthly partitions that are missing",
});

/** Makes sure that next months' usage has a place to go to. */
export async function partitions(): Promise<number> {
  const made = await makePartitions();
  setCurrentDetails(`made ${counted(made, "monthly partition")}; the months ahead are there`);
  return made;
}
