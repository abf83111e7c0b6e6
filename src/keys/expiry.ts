import { type Client, WorkflowNotFoundError } from "@temporalio/client";
import { QUEUES, SIGNALS, searchAttributes, workflowIds } from "../../workflows/contract.js";
import type { keyExpiry } from "../../workflows/key-expiry.js";
import type { Id } from "../base/ids.js";
import { DAY } from "../base/time.js";
import { lockAccounts, type Sql } from "../db/sql.js";
import {
  type ExpiringKey,
  findExpiringKey,
  type KeyTable,
  recordExpired,
  unrecordedExpiries,
} from "./expiry-store.js";

export type Expiry =
  | { kind: "recorded"; expiresAt: Date }
  /** Not yet: in `waitMs` by the account's time. */
  | { kind: "waiting"; expiresAt: Date; waitMs: number }
  /** The key is deleted, unknown, or does not expire. */
  | { kind: "none" };

const PAGE = 500;
const TABLES: KeyTable[] = ["child_key", "management_key"];
/** The server counts in nanoseconds, which end after 292 years. */
const LONGEST_DELAY = 365 * DAY;

/**
 * Records that a key has expired, once it has: an audit row, and word to every gateway. The key
 * stops at that instant whether this runs or not. Doing it again records nothing more.
 */
export async function recordExpiryIfDue(sql: Sql, id: Id): Promise<Expiry> {
  const found = await findExpiringKey(sql, id);
  if (!found) return { kind: "none" };
  return await sql.begin(async (tx) => {
    const [account] = await lockAccounts(tx, [found.accountId]);
    const key = await findExpiringKey(tx, id);
    if (!account || !key?.expiresAt || key.deleted) return { kind: "none" };
    const { expiresAt } = key;
    if (key.recorded || (await recordExpired(tx, key.table, [id])) > 0) {
      return { kind: "recorded", expiresAt };
    }
    const waitMs = Math.max(1, expiresAt.getTime() - account.at.getTime());
    return { kind: "waiting", expiresAt, waitMs };
  });
}

/**
 * Records every expiry that is due and not on record, 500 keys in a transaction, until there are
 * none.
 *
 * @param onPage called after each page
 * @returns how many were recorded
 */
export async function sweepExpiredKeys(sql: Sql, onPage: () => void = () => {}): Promise<number> {
  let all = 0;
  for (const table of TABLES) {
    for (let recorded = 1; recorded > 0; all += recorded) {
      recorded = await sweepPage(sql, table);
      onPage();
    }
  }
  return all;
}

async function sweepPage(sql: Sql, table: KeyTable): Promise<number> {
  const due = await unrecordedExpiries(sql, table, PAGE);
  if (due.length === 0) return 0;
  return await sql.begin(async (tx) => {
    await lockAccounts(tx, [...new Set(due.map((key) => key.accountId))]);
    return await recordExpired(
      tx,
      table,
      due.map((key) => key.id),
    );
  });
}

/**
 * Sees to it that a key's workflow knows when the key expires now: starts it, wakes it, or lets it
 * end. The row says which; telling twice is the same as once.
 */
export async function announceExpiry(sql: Sql, client: Client, id: Id): Promise<void> {
  const key = await findExpiringKey(sql, id);
  if (!key) return;
  if (key.expiresAt && !key.deleted && !key.recorded) {
    await startOrWake(client, id, key, Math.max(0, key.waitMs ?? 0));
  } else if (await isRunning(client, id)) {
    await startOrWake(client, id, key, 0);
  }
}

/** A signal alone does not wake a workflow whose start is delayed; this does. */
async function startOrWake(
  client: Client,
  id: Id,
  { accountId, name, hint }: ExpiringKey,
  waitMs: number,
): Promise<void> {
  await client.workflow.signalWithStart<typeof keyExpiry>("keyExpiry", {
    workflowId: workflowIds.keyExpiry(id),
    taskQueue: QUEUES.jobs,
    args: [{ keyId: id, accountId, name, hint }],
    signal: SIGNALS.expiryChanged,
    startDelay: Math.min(waitMs, LONGEST_DELAY),
    staticSummary: `expiry of key "${name}" (${hint})`,
    typedSearchAttributes: searchAttributes({ job: "key-expiry", account: accountId, key: id }),
  });
}

async function isRunning(client: Client, id: Id): Promise<boolean> {
  try {
    const { status } = await client.workflow.getHandle(workflowIds.keyExpiry(id)).describe();
    return status.name === "RUNNING";
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
}
