import type { Client } from "@temporalio/client";
import type { KeyMoment, Reannounced } from "../../workflows/key-contract.js";
import { elapsed, HOUR, now, pause, SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import { type NextMoment, nextMoments } from "./reannounce-store.js";
import { startIfMissing } from "./reminder.js";

const CALL = 10 * SECOND;

/** What a page is done by. */
export interface Pace {
  page: number;
  /** Starts at once. */
  lanes: number;
  /** Starts a second at the most, of what is not due within the hour. */
  perSecond: number;
}

/** A development server takes about 79 a second, and has other work. */
const PACE: Pace = { page: 500, lanes: 25, perSecond: 50 };

/**
 * Starts the workflows that wait for the next moments of keys, where there is none: nothing that
 * waits already is disturbed, and telling twice is the same as once. What is due within the hour
 * goes as fast as Temporal takes it, the rest at a bounded rate.
 *
 * @param after  where the page before ended; null: from now on. What is due already is the sweep's
 * @param onStep called after each few starts; its error ends the page
 */
export async function reannounceKeys(
  sql: Sql,
  client: Client,
  after: KeyMoment | null,
  { onStep = () => {}, pace = PACE }: { onStep?: () => unknown; pace?: Pace } = {},
): Promise<Reannounced> {
  const { page, lanes, perSecond } = pace;
  const moments = await nextMoments(sql, after, page);
  for (let from = 0; from < moments.length; from += lanes) {
    const step = moments.slice(from, from + lanes);
    const began = elapsed();
    const start = (it: NextMoment) => startIfMissing(client, it.kind, refOf(it), it.waitMs);
    await client.withDeadline(now() + CALL, () => Promise.all(step.map(start)));
    const urgent = (step.at(-1)?.waitMs ?? 0) <= HOUR;
    const due = (step.length / perSecond) * SECOND;
    if (!urgent) await pause(due - (elapsed() - began));
    onStep();
  }
  const last = moments.at(-1);
  return {
    announced: moments.length,
    last: last && moments.length === page ? momentOf(last) : null,
  };
}

const refOf = ({ keyId, accountId, name, hint }: NextMoment) => ({ keyId, accountId, name, hint });
const momentOf = ({ at, keyId, kind }: NextMoment): KeyMoment => ({ at, keyId, kind });
