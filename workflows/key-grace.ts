import { proxyActivities, setCurrentDetails } from "@temporalio/workflow";
import { QUEUES, SIGNALS } from "./contract.js";
import type { GraceState, KeyActivities, KeyRef } from "./key-contract.js";
import { remind } from "./reminder.js";
import { instant } from "./words.js";

const keys = proxyActivities<KeyActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "30 seconds",
  retry: { maximumInterval: "30 seconds" },
  summary: "look at the key; forget its replaced secret if the grace is over",
});

/**
 * Forgets the replaced secret of a key when its grace ends. The secret stops by the clock, whether
 * this runs or not.
 */
export async function keyGrace(key: KeyRef): Promise<void> {
  await remind({
    key,
    signal: SIGNALS.graceChanged,
    until: `until the secret before ${key.hint} stops working`,
    look: async () => {
      const state = await keys.recordGraceEndIfDue(key.keyId);
      setCurrentDetails(inWords(key, state));
      return state.kind === "waiting" ? state.waitMs : null;
    },
  });
}

function inWords({ name, hint }: KeyRef, state: GraceState): string {
  const which = `the replaced secret of key "${name}" (${hint})`;
  if (state.kind === "none") return `${which} has no grace, or it is over: nothing to record`;
  const when = instant(new Date(state.until));
  return state.kind === "waiting"
    ? `${which} works until ${when}`
    : `${which} worked until ${when}; recorded, and its hash forgotten`;
}
