import {
  condition,
  continueAsNew,
  defineSignal,
  setHandler,
  workflowInfo,
} from "@temporalio/workflow";
import type { KeyRef } from "./key-contract.js";

/** Timers hold about 292 years at most; a longer wait is made of several. */
const LONGEST_WAIT_MS = 365 * 24 * 3_600_000;

interface Reminder {
  key: KeyRef;
  /** Tells of a change to the row. */
  signal: string;
  /** What the wait is for, as the timer shows it. */
  until: string;
  /**
   * Looks at the row and records what is due. @returns milliseconds until then, or null when there
   * is nothing to wait for
   */
  look: () => Promise<number | null>;
}

/**
 * Looks at a key's row when its moment comes and at each change. The row is the truth, the timer
 * only a reminder.
 */
export async function remind({ key, signal, until, look }: Reminder): Promise<void> {
  let changed = false;
  setHandler(defineSignal(signal), () => {
    changed = true;
  });

  for (;;) {
    changed = false;
    const waitMs = await look();
    if (waitMs !== null) {
      await condition(() => changed, Math.min(waitMs, LONGEST_WAIT_MS), { summary: until });
    } else if (!changed) return; // a change that was signalled during the look is looked at too
    if (workflowInfo().continueAsNewSuggested) await continueAsNew(key);
  }
}
