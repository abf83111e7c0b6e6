import type { Log } from "../base/log.js";
import { MINUTE, pause, SECOND } from "../base/time.js";
import { listen } from "../db/listen.js";
import { isOutage } from "../db/outage.js";
import type { Sql } from "../db/sql.js";
import { isAway } from "./client.js";
import { claim, OUTBOX_CHANNEL, type OutboxEntry, postpone, release, remove } from "./outbox.js";

/** Tells Temporal of one entry; telling it again must be the same as once. */
export type Deliver = (key: string) => Promise<void>;

export interface RelayOptions {
  sql: Sql;
  log: Log;
  /** By the kind of the entry. */
  deliver: Record<string, Deliver>;
  /** Tries after which an entry is set aside. */
  maxAttempts?: number;
  /** Milliseconds until the next try, by the number of tries in vain. */
  backOff?: (attempts: number) => number;
}

const BATCH = 50;
const CLAIM_SECONDS = 30;
const POLL_MS = SECOND;
const AWAY_MS = 2 * SECOND;

const doubling = (attempts: number): number => Math.min(SECOND * 2 ** attempts, MINUTE);

/**
 * Tells Temporal what is in the outbox, as long as it runs: woken by NOTIFY, and by the clock
 * should that get lost. An entry is claimed for a while, told outside of any transaction, then
 * removed; several relays share the work.
 */
export function startRelay(options: RelayOptions): { stop(): Promise<void> } {
  const { sql, log } = options;
  const stopping = new AbortController();
  let waking = new AbortController();
  const wake = () => waking.abort();
  const ear = listen(sql, OUTBOX_CHANNEL, { heard: wake, connected: wake });

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      waking = new AbortController();
      const more = await relayBatch(options).catch((error: unknown) => {
        if (!isOutage(error)) log.error({ err: error }, "the outbox could not be read");
        return false;
      });
      if (!more) await pause(POLL_MS, AbortSignal.any([stopping.signal, waking.signal]));
    }
  }
  const running = run();

  return {
    stop: async () => {
      stopping.abort();
      await Promise.all([running, ear.stop()]);
    },
  };
}

/** @returns true when there may be more to do at once */
async function relayBatch(options: RelayOptions): Promise<boolean> {
  const entries = await claim(options.sql, BATCH, CLAIM_SECONDS);
  const told = await Promise.all(entries.map((entry) => relay(options, entry)));
  return told.length === BATCH && told.includes(true);
}

/** @returns whether Temporal was told */
async function relay(options: RelayOptions, entry: OutboxEntry): Promise<boolean> {
  const { sql, deliver } = options;
  try {
    const tell = deliver[entry.kind];
    if (!tell) throw new Error(`nothing here knows the kind "${entry.kind}"`);
    await tell(entry.key);
    await remove(sql, entry);
    return true;
  } catch (error) {
    // The database being away leaves the claim to run out
    if (isOutage(error)) return false;
    if (isAway(error)) await release(sql, entry, AWAY_MS);
    else await putOff(options, entry, error);
    return false;
  }
}

async function putOff(options: RelayOptions, entry: OutboxEntry, error: unknown): Promise<void> {
  const { sql, log, maxAttempts = 20, backOff = doubling } = options;
  const reason = error instanceof Error ? error.message : String(error);
  const last = entry.attempts + 1 >= maxAttempts;
  const what = { entry: entry.id.toString(), kind: entry.kind, of: entry.key, reason };
  if (last) log.error(what, "an outbox entry is set aside: it failed too often");
  else log.warn(what, "an outbox entry failed; it is tried again");
  await postpone(sql, entry, reason, last ? null : backOff(entry.attempts));
}
