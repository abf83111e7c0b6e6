import { proxyActivities, setCurrentDetails } from "@temporalio/workflow";
import { type BooksActivities, QUEUES, type Swept } from "./contract.js";
import { counted } from "./words.js";

const books = proxyActivities<BooksActivities>({
  taskQueue: QUEUES.books,
  startToCloseTimeout: "10 minutes",
  heartbeatTimeout: "30 seconds",
  retry: { maximumInterval: "10 seconds" },
  summary: "end holds that are past their deadline or whose gateway is gone",
});

/** Ends holds that nobody else will end, so that no amount stays reserved. */
export async function holdRecovery(): Promise<Swept> {
  const swept = await books.sweepHolds();
  setCurrentDetails(inWords(swept));
  return swept;
}

function inWords({ captured, voided }: Swept): string {
  const all = captured + voided;
  if (all === 0) return "no hold was left behind";
  return `ended ${counted(all, "hold")}: ${captured} charged for what was streamed, ${voided} given back`;
}
