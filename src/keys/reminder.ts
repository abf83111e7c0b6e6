import { type Client, WorkflowNotFoundError } from "@temporalio/client";
import { QUEUES, SIGNALS, searchAttributes, workflowIds } from "../../workflows/contract.js";
import type { KeyMoment, KeyRef } from "../../workflows/key-contract.js";
import { DAY } from "../base/time.js";

/** Of a key's expiry, or of the end of its replaced secret's grace. */
export type Moment = KeyMoment["kind"];

/** The server counts in nanoseconds, which end after 292 years. */
const LONGEST_DELAY = 365 * DAY;

const WORKFLOWS = {
  expiry: {
    type: "keyExpiry",
    job: "key-expiry",
    signal: SIGNALS.expiryChanged,
    idOf: workflowIds.keyExpiry,
    summary: ({ name, hint }: KeyRef) => `expiry of key "${name}" (${hint})`,
  },
  grace: {
    type: "keyGrace",
    job: "key-grace",
    signal: SIGNALS.graceChanged,
    idOf: workflowIds.keyGrace,
    summary: ({ name, hint }: KeyRef) => `grace of the secret before ${hint} of key "${name}"`,
  },
} as const;

const optionsOf = (moment: Moment, key: KeyRef, waitMs: number) => {
  const { job, idOf, summary } = WORKFLOWS[moment];
  return {
    workflowId: idOf(key.keyId),
    taskQueue: QUEUES.jobs,
    args: [key],
    startDelay: Math.min(Math.max(0, waitMs), LONGEST_DELAY),
    staticSummary: summary(key),
    typedSearchAttributes: searchAttributes({ job, account: key.accountId, key: key.keyId }),
  };
};

/**
 * Starts the workflow that waits for a moment of a key, or has the one that waits look again. Until
 * its start is due it costs no worker.
 *
 * @param waitMs until then
 */
export async function startOrWake(
  client: Client,
  moment: Moment,
  key: KeyRef,
  waitMs: number,
): Promise<void> {
  const { type, signal } = WORKFLOWS[moment];
  // A signal alone does not wake a workflow whose start is delayed; this does
  await client.workflow.signalWithStart(type, { ...optionsOf(moment, key, waitMs), signal });
}

/** The same, but leaves one alone that waits already. */
export async function startIfMissing(
  client: Client,
  moment: Moment,
  key: KeyRef,
  waitMs: number,
): Promise<void> {
  await client.workflow.start(WORKFLOWS[moment].type, {
    ...optionsOf(moment, key, waitMs),
    workflowIdConflictPolicy: "USE_EXISTING",
  });
}

/** Has the workflow look again if there is one, so that it ends where nothing is left to wait for. */
export async function wakeIfRunning(client: Client, moment: Moment, key: KeyRef): Promise<void> {
  if (await isRunning(client, WORKFLOWS[moment].idOf(key.keyId))) {
    await startOrWake(client, moment, key, 0);
  }
}

async function isRunning(client: Client, workflowId: string): Promise<boolean> {
  try {
    const { status } = await client.workflow.getHandle(workflowId).describe();
    return status.name === "RUNNING";
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
}
