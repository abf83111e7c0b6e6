import {
  continueAsNew,
  proxyActivities,
  setCurrentDetails,
  workflowInfo,
} from "@temporalio/workflow";
import { QUEUES } from "./contract.js";
import type { KeyActivities, KeyMoment } from "./key-contract.js";
import { counted, instant } from "./words.js";

const keys = proxyActivities<KeyActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "10 minutes",
  heartbeatTimeout: "30 seconds",
  retry: { maximumInterval: "30 seconds" },
  summary: "start what is missing for the next 500 keys",
});

/** Where it is, kept when the history is cut. */
interface Progress {
  announced: number;
  /** The last one that was seen to; null at the beginning. */
  after: KeyMoment | null;
}

/**
 * Starts the workflows of all keys that wait for a moment, next ones first, where Temporal does not
 * know them. Runs when Temporal is new to us, as it is after it lost its database.
 *
 * @returns how many keys it saw to
 */
export async function keyReannounce(
  progress: Progress = { announced: 0, after: null },
): Promise<number> {
  let { announced, after } = progress;
  for (;;) {
    const page = await keys.reannounceKeys(after);
    announced += page.announced;
    if (page.last === null) {
      setCurrentDetails(`saw to ${counted(announced, "moment")} of keys: all there are`);
      return announced;
    }
    after = page.last;
    setCurrentDetails(inWords(announced, after));
    if (workflowInfo().continueAsNewSuggested) {
      await continueAsNew<typeof keyReannounce>({ announced, after });
    }
  }
}

const inWords = (announced: number, { at }: KeyMoment): string =>
  `saw to ${counted(announced, "moment")} of keys so far, up to ${instant(new Date(at))}; ` +
  "what is due meanwhile is recorded by the sweep";
