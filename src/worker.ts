import type { Config } from "./base/config.js";
import type { Log } from "./base/log.js";
import { now, pause, SECOND } from "./base/time.js";
import type { Sql } from "./db/sql.js";
import { holdActivities, periodActivities } from "./holds/activities.js";
import { newestReset } from "./holds/periods.js";
import { keyActivities } from "./keys/activities.js";
import { announceExpiry } from "./keys/expiry.js";
import { ledgerActivities } from "./ledger/activities.js";
import { workflowBundle } from "./temporal/bundle.js";
import { isAway, type OpenClient, openClient, untilReachable } from "./temporal/client.js";
import { ensureJobs } from "./temporal/jobs.js";
import { startRelay } from "./temporal/relay.js";
import { installRuntime, type RunOptions, runWorkers } from "./temporal/run.js";

export interface WorkerOptions {
  config: Config;
  /** As many activities run at once as it has connections. */
  sql: Sql;
  log: Log;
}

type Client = OpenClient["client"];

const DEFAULT_ADDRESS = "127.0.0.1:7233";
const LOOK_EVERY = 10 * SECOND;
const CALL = 10 * SECOND;

/**
 * Runs all jobs: workflows and their activities, the relay of the outbox, and the care for what
 * must always be there in Temporal. Resolves once it works, or once it only waits for Temporal,
 * which it does as long as it takes.
 *
 * @returns how to stop it; what is under way is finished first. The pool stays open
 * @throws when the workflows cannot be bundled
 */
export async function startWorker({ config, sql, log }: WorkerOptions) {
  installRuntime(log);
  const place = {
    address: config.temporalAddress ?? DEFAULT_ADDRESS,
    namespace: config.temporalNamespace,
  };
  const codePath = await workflowBundle(config.dataDir);
  const { client, close } = openClient(place);
  const stopping = new AbortController();
  const { signal } = stopping;

  const run: Omit<RunOptions, "onReady"> = {
    place,
    codePath,
    signal,
    slots: sql.options.max,
    activities: {
      jobs: { ...keyActivities(sql), ...periodActivities(sql) },
      books: { ...ledgerActivities(sql), ...holdActivities(sql) },
    },
  };
  const relay = startRelay({ sql, log, deliver: deliveries(sql, client) });
  const jobs = keepJobs(client, { sql, log, signal });
  let working: Promise<void> = Promise.resolve();
  await new Promise<void>((resolve) => {
    working = keepWorking(client, run, { log, onSettled: resolve });
  });

  return {
    stop: async (): Promise<void> => {
      stopping.abort();
      await Promise.all([working, jobs, relay.stop()]);
      await close();
    },
  };
}

/** How each kind of outbox entry is told to Temporal. */
const deliveries = (sql: Sql, client: Client) => ({
  key_expiry: (key: string) =>
    client.withDeadline(now() + CALL, () => announceExpiry(sql, client, key)),
});

/** @param onSettled called when the workers run, or when they have to wait for Temporal */
async function keepWorking(
  client: Client,
  run: Omit<RunOptions, "onReady">,
  { log, onSettled }: { log: Log; onSettled: () => void },
): Promise<void> {
  const { signal } = run;
  while (await untilReachable(client, { signal, onAway: onSettled })) {
    await runWorkers({ ...run, onReady: onSettled }).catch((error: unknown) =>
      log.error({ err: error }, "the Temporal workers ended; they are started again"),
    );
    await pause(SECOND, signal);
  }
  onSettled();
}

/**
 * Sees to it, again and again, that everything is there that should run: Temporal may have lost its
 * database.
 */
async function keepJobs(
  client: Client,
  { sql, log, signal }: { sql: Sql; log: Log; signal: AbortSignal },
): Promise<void> {
  const onAway = () => log.warn("Temporal is away: keys and limits work, jobs wait for it");
  const onBack = () => log.info("Temporal is there again");
  while (await untilReachable(client, { signal, onAway, onBack })) {
    const ensure = () => ensureJobs(client, (kind) => newestReset(sql, kind));
    await client.withDeadline(now() + CALL, ensure).catch((error: unknown) => {
      if (!isAway(error)) log.warn({ err: error }, "could not make sure of all jobs; tried again");
    });
    await pause(LOOK_EVERY, signal);
  }
}
