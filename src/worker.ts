import type { Config } from "./base/config.js";
import type { Log } from "./base/log.js";
import { now, pause, SECOND } from "./base/time.js";
import { reconcileActivities } from "./check/activities.js";
import { isOutage } from "./db/outage.js";
import type { Sql } from "./db/sql.js";
import { holdActivities, periodActivities } from "./holds/activities.js";
import { newestReset } from "./holds/periods.js";
import { keyActivities } from "./keys/activities.js";
import { announceExpiry } from "./keys/expiry.js";
import { announceGrace } from "./keys/grace.js";
import { ledgerActivities } from "./ledger/activities.js";
import { shardsBehind } from "./ledger/ledger.js";
import { versionOf, workflowBundle } from "./temporal/bundle.js";
import { isAway, type OpenClient, openClient, untilReachable } from "./temporal/client.js";
import { ensureJobs, settleNow } from "./temporal/jobs.js";
import { type Deliver, startRelay } from "./temporal/relay.js";
import { installRuntime, type RunOptions, runWorkers } from "./temporal/run.js";
import { VERSION } from "./version.js";
import { webhookActivities } from "./webhooks/activities.js";
import { announceDelivery, announceLine, coalesced, tendWebhooks } from "./webhooks/announce.js";

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
const USAGE_EVERY = 2 * SECOND;

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
    version: versionOf(VERSION, codePath),
    signal,
    slots: sql.options.max,
    activities: allActivities(sql, client, config),
  };
  const relay = startRelay({ sql, log, deliver: deliveries(sql, client) });
  const jobs = keepJobs(client, { sql, log, signal, secrets: config.secrets });
  const waking = keepWaking(client, sql, signal);
  let working: Promise<void> = Promise.resolve();
  await new Promise<void>((resolve) => {
    working = keepWorking(client, run, { log, onSettled: resolve });
  });

  return {
    stop: async (): Promise<void> => {
      stopping.abort();
      await Promise.all([working, jobs, waking, relay.stop()]);
      await close();
    },
  };
}

/** Everything that workflows may ask, by task queue. The login of `databaseUrl` proves the books. */
export const allActivities = (sql: Sql, client: Client, config: Config) => ({
  jobs: { ...keyActivities(sql, client), ...periodActivities(sql) },
  books: {
    ...ledgerActivities(sql),
    ...holdActivities(sql),
    ...reconcileActivities(sql, config.databaseUrl),
  },
  webhooks: webhookActivities(sql, config.secrets, {
    ...{ production: config.production, allowPrivate: config.webhookAllowPrivate },
  }),
});

/** How each kind of outbox entry is told to Temporal. */
function deliveries(sql: Sql, client: Client): Record<string, Deliver> {
  const told =
    (tell: Deliver): Deliver =>
    (key) =>
      client.withDeadline(now() + CALL, () => tell(key));
  return {
    key_expiry: told((key) => announceExpiry(sql, client, key)),
    key_grace: told((key) => announceGrace(sql, client, key)),
    webhook_endpoint: coalesced(told((key) => announceLine(sql, client, key, "due"))),
    webhook_retry: told((key) => announceLine(sql, client, key, "retryNow")),
    webhook: told((key) => announceDelivery(sql, client, key)),
  };
}

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
  { sql, log, signal, secrets }: { sql: Sql; log: Log; signal: AbortSignal; secrets: string[] },
): Promise<void> {
  const onAway = () => log.warn("Temporal is away: keys and limits work, jobs wait for it");
  const onBack = () => log.info("Temporal is there again");
  while (await untilReachable(client, { signal, onAway, onBack })) {
    const ensure = () => ensureJobs(client, (kind) => newestReset(sql, kind));
    await client.withDeadline(now() + CALL, ensure).catch((error: unknown) => {
      if (!isAway(error)) log.warn({ err: error }, "could not make sure of all jobs; tried again");
    });
    await tendWebhooks(sql, secrets).catch((error: unknown) => {
      if (!isOutage(error)) log.warn({ err: error }, "could not look for webhooks that wait");
    });
    await pause(LOOK_EVERY, signal);
  }
}

/** Settlements wait ever longer while nothing comes in: wakes those for which something has. */
async function keepWaking(client: Client, sql: Sql, signal: AbortSignal): Promise<void> {
  let before: number[] = [];
  for (; !signal.aborted; await pause(USAGE_EVERY, signal)) {
    try {
      const behind = await shardsBehind(sql);
      const fresh = behind.filter((shard) => !before.includes(shard));
      await client.withDeadline(now() + CALL, () => settleNow(client, fresh));
      before = behind;
    } catch {
      before = []; // the database or Temporal is away: told again later
    }
  }
}
