import type { Client } from "@temporalio/client";
import type { Id } from "../base/ids.js";
import { lockAccounts, type Sql, type Tx } from "../db/sql.js";
import { KEY_TABLES, type KeyTable } from "./expiry-store.js";
import { findGrace, recordGraceEnds, unrecordedGraces } from "./grace-store.js";
import { startOrWake, wakeIfRunning } from "./reminder.js";
import { forgetReplacedSecrets } from "./store-secret.js";

export type Grace =
  | { kind: "recorded"; until: Date }
  /** Not yet: in `waitMs` by the account's time. */
  | { kind: "waiting"; until: Date; waitMs: number }
  /** The key is unknown, has no replaced secret in grace, or its end is on record. */
  | { kind: "none" };

const PAGE = 500;

/**
 * Records that the grace of a key's replaced secret is over, once it is: an audit row, word to
 * every gateway, and the secret's hash is forgotten. The secret stops at that instant whether this
 * runs or not. Doing it again records nothing more.
 */
export async function recordGraceEndIfDue(sql: Sql, id: Id): Promise<Grace> {
  const found = await findGrace(sql, id);
  if (!found) return { kind: "none" };
  return await sql.begin(async (tx) => {
    const [account] = await lockAccounts(tx, [found.accountId]);
    const key = await findGrace(tx, id);
    if (!account || !key?.until) return { kind: "none" };
    const { until } = key;
    if ((await record(tx, key.table, [id])) > 0) return { kind: "recorded", until };
    return { kind: "waiting", until, waitMs: Math.max(1, until.getTime() - account.at.getTime()) };
  });
}

/**
 * Records every end of a grace that is due and not on record, 500 keys in a transaction, until
 * there are none.
 *
 * @param onPage called after each page
 * @returns how many were recorded
 */
export async function sweepEndedGraces(sql: Sql, onPage: () => void = () => {}): Promise<number> {
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
  const due = await unrecordedGraces(sql, table, PAGE);
  if (due.length === 0) return 0;
  return await sql.begin(async (tx) => {
    await lockAccounts(tx, [...new Set(due.map((key) => key.accountId))]);
    return await record(
      tx,
      table,
      due.map((key) => key.id),
    );
  });
}

async function record(tx: Tx, table: KeyTable, ids: Id[]): Promise<number> {
  const recorded = await recordGraceEnds(tx, table, ids);
  if (recorded.length > 0) await forgetReplacedSecrets(tx, recorded);
  return recorded.length;
}

/**
 * Sees to it that a key's workflow knows when the grace of its replaced secret ends now: starts it,
 * wakes it, or lets it end. The row says which; telling twice is the same as once.
 */
export async function announceGrace(sql: Sql, client: Client, id: Id): Promise<void> {
  const key = await findGrace(sql, id);
  if (!key) return;
  const { accountId, name, hint, waitMs } = key;
  const ref = { keyId: id, accountId, name, hint };
  if (key.until) await startOrWake(client, "grace", ref, waitMs ?? 0);
  else await wakeIfRunning(client, "grace", ref);
}
