import { Client, Connection } from "@temporalio/client";
import { elapsed, MINUTE, pause } from "../../src/base/time.js";
import { isOutage } from "../../src/db/outage.js";
import type { World } from "./system.js";

/** Longest time to the end of all that was begun: a lease, a start's grace, a deadline, a sweep. */
const LONGEST = 5 * MINUTE;
const LOOK_EVERY = 250;
/** Of searching in Temporal: what was started by then is found. */
const QUERY = `KeytollJob = "settle-hold" and ExecutionStatus = "Running"`;

interface Left {
  /** Open holds that have to end by themselves. */
  open: number;
  /** Accounts with usage that is not in the journal yet. */
  unsettled: number;
  /** Workflows that still have to end a hold. */
  handedOver: number;
}

/**
 * Waits until nothing is under way: no hold is open, all usage is in the journal.
 *
 * @param hurry true: the leases of gateways that are gone lapse at once, where they would live for
 *   a minute, and holds that backends left to a later deadline are not waited for
 * @throws Error that tells what is left when it has taken too long
 */
export async function comeToRest(world: World, { hurry }: { hurry: boolean }): Promise<void> {
  const connection = await Connection.connect({ address: world.temporalAddress });
  const temporal = new Client({ connection });
  let left: Left | undefined;
  try {
    for (const start = elapsed(); elapsed() - start < LONGEST; await pause(LOOK_EVERY)) {
      left = await lookAround(world, temporal, hurry).catch((error: unknown) => {
        if (isOutage(error)) return undefined;
        throw error;
      });
      if (left && left.open + left.unsettled + left.handedOver === 0) return;
      if (hurry && left?.handedOver === 0) await lapse(world);
    }
  } finally {
    await connection.close();
  }
  throw new Error(`it does not come to rest: ${JSON.stringify(left)}`);
}

async function lookAround({ sql }: World, temporal: Client, hurry: boolean): Promise<Left> {
  const { count: handedOver } = await temporal.workflow.count(QUERY);
  const [counts] = await sql<{ open: number; unsettled: number }[]>`
    select (select count(*)::int from open_hold
             where not ${hurry} or gateway_id is not null or deadline < clock_timestamp()) as open,
           (select count(*)::int from account where usage_seq > settled_seq) as unsettled`;
  if (!counts) throw new Error("no counts");
  return { ...counts, handedOver };
}

/** As if the minute that a lease lives had passed for those that nobody renews. */
async function lapse({ sql }: World): Promise<void> {
  await sql`
    update gateway set seen_at = seen_at - interval '1 minute'
     where seen_at < clock_timestamp() - interval '12 seconds'`;
}
