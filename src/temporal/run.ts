import { hostname } from "node:os";
import {
  DefaultLogger,
  type LogEntry,
  makeTelemetryFilterString,
  NativeConnection,
  Runtime,
  Worker,
} from "@temporalio/worker";
import {
  type BooksActivities,
  type PeriodActivities,
  QUEUES,
  type ReconcileActivities,
} from "../../workflows/contract.js";
import type { KeyActivities } from "../../workflows/key-contract.js";
import type { WebhookActivities } from "../../workflows/webhook-contract.js";
import type { Log } from "../base/log.js";
import { SECOND } from "../base/time.js";
import type { Place } from "./client.js";

export interface RunOptions {
  place: Place;
  /** Path of the workflows' bundle. */
  codePath: string;
  /** Of this program and its workflows: what operators see which worker runs. */
  version: string;
  /** By task queue. */
  activities: {
    jobs: KeyActivities & PeriodActivities;
    books: BooksActivities & ReconcileActivities;
    webhooks: WebhookActivities;
  };
  /** Activities at once, over all queues but that of the webhooks. */
  slots: number;
  /** Ends the run when it aborts, after what is under way. */
  signal: AbortSignal;
  onReady: () => void;
}

/** About 200 KB each. */
const CACHED_WORKFLOWS = 300;
const CACHED_WEBHOOKS = 100;
/** Requests to receivers at once. They wait for others, not for the database. */
const WEBHOOKS_AT_ONCE = 100;
const GRACE = 5 * SECOND;
const FORCE = 15 * SECOND;

/** How the SDK begins a warning about the queue that has only activities, as it is meant to. */
const MEANT = "No workflows registered";

let installed = false;

/**
 * Sets up what all workers of this process share. Only the first call does; a process can have it
 * once.
 */
export function installRuntime(log: Log): void {
  if (installed) return;
  installed = true;
  const write = ({ level, message, meta }: LogEntry) => {
    if (message.startsWith(MEANT)) return;
    const pinoLevel = level === "ERROR" ? "error" : "warn";
    log[pinoLevel](meta ?? {}, message);
  };
  Runtime.install({
    logger: new DefaultLogger("WARN", write),
    // Whoever runs the worker decides when it stops
    shutdownSignals: [],
    telemetryOptions: {
      logging: {
        forward: {},
        filter: makeTelemetryFilterString({ core: "ERROR", other: "ERROR" }),
      },
    },
  });
}

/**
 * Runs a worker for each task queue until `signal` aborts, and drains them then. The queue of the
 * books has only activities, so that nothing else can take their slots; webhooks have workflows and
 * activities of their own, so that slow receivers and storms of events hold up nothing else.
 *
 * @throws when the connection cannot be made or a worker fails
 */
export async function runWorkers(options: RunOptions): Promise<void> {
  const { place, codePath, version, activities, slots, signal, onReady } = options;
  const connection = await NativeConnection.connect({ address: place.address });
  const common = {
    connection,
    namespace: place.namespace,
    identity: `keytoll ${version} ${process.pid}@${hostname()}`,
    buildId: version,
    shutdownGraceTime: GRACE,
    shutdownForceTime: FORCE,
  };
  const half = Math.max(1, Math.floor(slots / 2));
  try {
    const workers = [
      await Worker.create({
        ...common,
        taskQueue: QUEUES.jobs,
        workflowBundle: { codePath },
        maxCachedWorkflows: CACHED_WORKFLOWS,
        activities: activities.jobs,
        maxConcurrentActivityTaskExecutions: half,
      }),
      await Worker.create({
        ...common,
        taskQueue: QUEUES.books,
        activities: activities.books,
        maxConcurrentActivityTaskExecutions: Math.max(1, slots - half),
      }),
      await Worker.create({
        ...common,
        taskQueue: QUEUES.webhooks,
        workflowBundle: { codePath },
        maxCachedWorkflows: CACHED_WEBHOOKS,
        activities: activities.webhooks,
        maxConcurrentActivityTaskExecutions: WEBHOOKS_AT_ONCE,
      }),
    ];
    onReady();
    await runTogether(workers, signal);
  } finally {
    await connection.close();
  }
}

/** When one fails, the others stop too. */
async function runTogether(workers: Worker[], signal: AbortSignal): Promise<void> {
  const failed = new AbortController();
  const stopped = until(AbortSignal.any([signal, failed.signal]));
  const runs = workers.map((worker) =>
    worker.runUntil(stopped).catch((error: unknown) => {
      failed.abort();
      throw error;
    }),
  );
  const results = await Promise.allSettled(runs);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

function until(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
