import type { Id } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { elapsed, now, pause, SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import { renewLease } from "./store.js";

const RENEW_EVERY = 5 * SECOND;
/**
 * A lease that could not be renewed for this long counts as lost: others may end our holds soon
 * after.
 */
const LOST_AFTER = 30 * SECOND;
const MOST_SKEW = 60 * SECOND;

export interface Lease {
  /** Undefined when money can be taken; else what is wrong, for an operator. */
  problem(): string | undefined;
  stop(): Promise<void>;
}

/**
 * Keeps the lease of a gateway: as long as it lives, nobody else ends the holds of its requests.
 * Also compares the clocks: hold ids and expiries go by ours, money by the database's.
 *
 * @throws when the first renewal fails
 */
export async function keepLease(sql: Sql, gateway: Id, log: Log): Promise<Lease> {
  const stopping = new AbortController();
  let renewedAt = elapsed();
  let skew = await renew(sql, gateway);

  async function keepRenewing(): Promise<void> {
    while (!stopping.signal.aborted) {
      await pause(RENEW_EVERY, stopping.signal);
      if (stopping.signal.aborted) return;
      try {
        skew = await renew(sql, gateway);
        renewedAt = elapsed();
      } catch (error) {
        log.warn({ err: error }, "the gateway's lease was not renewed");
      }
    }
  }
  const renewing = keepRenewing();

  return {
    problem() {
      if (elapsed() - renewedAt > LOST_AFTER) return "Postgres does not answer";
      if (Math.abs(skew) > MOST_SKEW) {
        return `the clocks of this machine and of Postgres are ${Math.round(skew / SECOND)} s apart`;
      }
      return undefined;
    },
    async stop() {
      stopping.abort();
      await renewing;
    },
  };
}

/** @returns milliseconds that our clock is ahead of the database's */
async function renew(sql: Sql, gateway: Id): Promise<number> {
  const seenAt = await renewLease(sql, gateway);
  return now() - seenAt.getTime();
}
