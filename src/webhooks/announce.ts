import type { Client } from "@temporalio/client";
import { QUEUES, searchAttributes, workflowIds } from "../../workflows/contract.js";
import type { webhook } from "../../workflows/webhook.js";
import { WEBHOOK_SIGNALS } from "../../workflows/webhook-contract.js";
import type { webhookEndpoint } from "../../workflows/webhook-endpoint.js";
import type { Id } from "../base/ids.js";
import type { Sql } from "../db/sql.js";
import { enqueue } from "../temporal/outbox.js";
import { findDue, findState, overdue } from "./line-store.js";
import { resealSecrets } from "./secret-store.js";
import { signingVault } from "./signing.js";
import { originOf } from "./targets.js";

/** Entries that one look for what is overdue makes, of each kind. */
const REMINDERS = 200;

/**
 * Sees to it that somebody looks at an endpoint's line. Telling twice is the same as once.
 *
 * @param signal `due`: there may be more in it; `retryNow`: what waits for its next try shall not
 */
export async function announceLine(
  sql: Sql,
  client: Client,
  id: Id,
  signal: keyof typeof WEBHOOK_SIGNALS,
): Promise<void> {
  const endpoint = await findState(sql, id);
  if (!endpoint) return;
  const target = originOf(endpoint.url);
  await client.workflow.signalWithStart<typeof webhookEndpoint>("webhookEndpoint", {
    workflowId: workflowIds.webhookEndpoint(id),
    taskQueue: QUEUES.webhooks,
    args: [{ endpointId: id, target }],
    signal: WEBHOOK_SIGNALS[signal],
    staticSummary: `events to ${target}, in order`,
    typedSearchAttributes: searchAttributes({ job: "webhook-endpoint", account: endpoint.account }),
  });
}

/** Sees to it that somebody makes a delivery that is apart from its endpoint's line. */
export async function announceDelivery(sql: Sql, client: Client, id: Id): Promise<void> {
  const due = await findDue(sql, id);
  if (!due) return;
  const target = originOf(due.url);
  await client.workflow.signalWithStart<typeof webhook>("webhook", {
    workflowId: workflowIds.webhook(id),
    taskQueue: QUEUES.webhooks,
    args: [{ deliveryId: id, target, type: due.type }],
    signal: WEBHOOK_SIGNALS.due,
    staticSummary: `${due.type} to ${target}`,
    typedSearchAttributes: searchAttributes({ job: "webhook", account: due.account }),
  });
}

/**
 * Enters in the outbox again what should have moved a minute ago and did not: whoever was to see to
 * it was lost, with Temporal's database perhaps. And seals with the newest of the operator's
 * secrets what an older one has sealed.
 */
export async function tendWebhooks(sql: Sql, secrets: readonly string[]): Promise<void> {
  await sql.begin(async (tx) => {
    const { lines, apart } = await overdue(tx, REMINDERS);
    for (const key of lines) await enqueue(tx, { kind: "webhook_endpoint", key });
    for (const key of apart) await enqueue(tx, { kind: "webhook", key });
  });
  if (secrets.length > 0) await resealSecrets(sql, signingVault(secrets));
}

/**
 * The same call, at most one at a time for each key: calls that come meanwhile share the next one,
 * which begins after all of them.
 */
export function coalesced(call: (key: string) => Promise<void>): (key: string) => Promise<void> {
  const running = new Map<string, Promise<void>>();
  const waiting = new Map<string, Promise<void>>();
  return (key) => {
    const shared = waiting.get(key);
    if (shared) return shared;
    const before = running.get(key)?.catch(() => {}) ?? Promise.resolve();
    const next: Promise<void> = before
      .then(() => {
        waiting.delete(key);
        running.set(key, next);
        return call(key);
      })
      .finally(() => {
        if (running.get(key) === next) running.delete(key);
      });
    waiting.set(key, next);
    return next;
  };
}
