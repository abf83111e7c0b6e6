import { proxyActivities, setCurrentDetails } from "@temporalio/workflow";
import { QUEUES, SIGNALS } from "./contract.js";
import type { ExpiryState, KeyActivities, KeyRef } from "./key-contract.js";
import { remind } from "./reminder.js";
import { instant } from "./words.js";

const keys = proxyActivities<KeyActivities>({
  taskQueue: QUEUES.jobs,
  startToCloseTimeout: "30 seconds",
  retry: { maximumInterval: "30 seconds" },
  summary: "look at the key; record its expiry if it is due",
});

/**
 * Records the expiry of one key when it comes. The key stops by the clock, whether this runs or
 * not.
 */
export async function keyExpiry(key: KeyRef): Promise<void> {
  await remind({
    key,
    signal: SIGNALS.expiryChanged,
    until: `until ${key.hint} expires`,
    look: async () => {
      const state = await keys.recordExpiryIfDue(key.keyId);
      setCurrentDetails(inWords(key, state));
      return state.kind === "waiting" ? state.waitMs : null;
    },
  });
}

function inWords({ name, hint }: KeyRef, state: ExpiryState): string {
  const who = `key "${name}" (${hint})`;
  if (state.kind === "none") return `${who} does not expire: nothing to record`;
  const when = instant(new Date(state.expiresAt));
  return state.kind === "waiting"
    ? `${who} expires at ${when}`
    : `${who} expired at ${when}; recorded`;
}
