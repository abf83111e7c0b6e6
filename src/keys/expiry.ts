import type { Client } from "@temporalio/client";
import type { Id } from "../base/ids.js";
import { lockAccounts, type Sql } from "../db/sql.js";
import {
  findExpiringKey,
  KEY_TABLES,
  type KeyTable,
  recordExpired,
  unrecordedExpiries,
} from "./expiry-store.js";
import { startOrWake, wakeIfRunning } from "./reminder.js";

export type Expiry =
  | { kind: "recorded"; expiresAt: Date }
  /** Not yet: in `waitMs` by the account's time. */
  | { kind: "waiting"; expiresAt: Date; waitMs: number }
  /** The key is deleted, unknown, or does not expire. */
  | { kind: "none" };

const PAGE = 500;

/**
 * Records that a key has expired, once it has: an audit row, and word to every gateway. The key
 * stops at that instant whether this runs or not. Doing it again records nothing more.
 *
 * Whatever else is due by then goes on record too, a page of it: where Temporal is behind with many
 * keys, the first one to get through makes up for all.
 */
export async function recordExpiryIfDue(sql: Sql, id: Id): Promise<Expiry> {
  const key = await findExpiringKey(sql, id);
  if (!key?.expiresAt || key.deleted) return { kind: "none" };
  const { expiresAt, recorded, accountId } = key;
  const expiry: Expiry = recorded
    ? { kind: "recorded", expiresAt }
    : await recordIfDue(sql, id, accountId);
  // What fails here is not this key: it fails again for the sweep, where that is seen
  if (expiry.kind === "recorded") await sweepPage(sql, key.table).catch(() => 0);
  return expiry;
}

async function recordIfDue(sql: Sql, id: Id, accountId: Id): Promise<Expiry> {
  return await sql.begin(async (tx) => {
    const [account] = await lockAccounts(tx, [accountId]);
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
  for (const table of KEY_TABLES) {
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
  const { accountId, name, hint, waitMs } = key;
  const ref = { keyId: id, accountId, name, hint };
  if (key.expiresAt && !key.deleted && !key.recorded) {
    await startOrWake(client, "expiry", ref, waitMs ?? 0);
  } else await wakeIfRunning(client, "expiry", ref);
}
