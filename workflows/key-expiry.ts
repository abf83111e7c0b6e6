import {
  condition,
  continueAsNew,
  defineSignal,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from "@temporalio/workflow";
import { type ExpiryState, type KeyActivities, type KeyRef, QUEUES, SIGNALS } from "./contract.js";
import { instant } from "./words.js";

const keys = proxyActivities<KeyActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "30 seconds",
  retry: { maximumInterval: "30 seconds" },
  summary: "look at the key; record its expiry if it is due",
});

/** Timers hold about 292 years at most; a longer wait is made of several. */
const LONGEST_WAIT_MS = 365 * 24 * 3_600_000;

const expiryChanged = defineSignal(SIGNALS.expiryChanged);

/**
 * Records the expiry of one key when it comes. The key stops by the clock, whether this runs or
 * not.
 */
export async function keyExpiry(key: KeyRef): Promise<void> {
  let changed = false;
  setHandler(expiryChanged, () => {
    changed = true;
  });

  for (;;) {
    changed = false;
    const state = await keys.recordExpiryIfDue(key.keyId); // the row is the truth, this timer only a reminder
    setCurrentDetails(inWords(key, state));
    if (state.kind === "waiting") {
      const wait = Math.min(state.waitMs, LONGEST_WAIT_MS);
      await condition(() => changed, wait, { summary: `until ${key.hint} expires` });
    } else if (!changed) return; // a change that was signalled during the look is looked at too
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof keyExpiry>(key);
  }
}

function inWords({ name, hint }: KeyRef, state: ExpiryState): string {
  const who = `key "${name}" (${hint})`;
  if (state.kind === "none") return `${who} does not expire: nothing to record`;
  const when = instant(new Date(state.expiresAt));
  return state.kind === "waiting"
    ? `${who} expires at ${when}`
    : `${who} expired at ${when}; recorded`;
}
