import type { Log } from "../base/log.js";
import { pause, SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import { sweepHolds } from "./sweep.js";

const EVERY = 10 * SECOND;

/**
 * Sweeps holds as long as this process lives, so that none stays open for want of Temporal.
 *
 * @param deliver what comes first each time: ends of holds that Postgres has not taken yet, which
 *   no sweep must come before; false puts the sweep off
 */
export function keepSweeping(
  sql: Sql,
  log: Log,
  deliver: () => Promise<boolean>,
): { stop(): Promise<void> } {
  const stopping = new AbortController();
  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      await pause(EVERY, stopping.signal);
      if (stopping.signal.aborted) return;
      try {
        if (!(await deliver())) continue;
        const { captured, voided } = await sweepHolds(sql);
        if (captured + voided > 0) log.info({ captured, voided }, "holds swept");
      } catch (error) {
        log.warn({ err: error }, "holds not swept");
      }
    }
  }
  const running = run();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
