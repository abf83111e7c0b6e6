import { isDeepStrictEqual } from "node:util";
import { refuse } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { SECOND } from "../base/time.js";
import { lockForChange, recordAudit } from "../db/change.js";
import { type Db, inTransaction, type Tx } from "../db/sql.js";
import { actorOf, type ManagementCaller, type Manager } from "./caller.js";
import { works } from "./key.js";
import { hashSecret, hintOf, type KeyKind, nameOfPepper, newSecret } from "./secret.js";
import { findManagement } from "./store-management.js";
import { insertSecret } from "./store-secret.js";

/**
 * Runs a change to an account's keys as one transaction under the account's lock. A management key
 * is looked at again there, so that one which was stopped meanwhile changes nothing, whatever a
 * cache still believes.
 *
 * @param work gets the transaction and the account's time
 * @throws invalid_api_key, read_only_key  by the caller's own management key
 */
export async function changeKeys<T>(
  db: Db,
  manager: Manager,
  work: (tx: Tx, at: Date) => Promise<T>,
): Promise<T> {
  return await inTransaction(db, async (tx) => {
    const at = await lockForChange(tx, manager.account);
    if (manager.kind === "management") await checkAgain(tx, manager, at);
    return await work(tx, at);
  });
}

async function checkAgain(tx: Tx, caller: ManagementCaller, at: Date): Promise<void> {
  const key = await findManagement(tx, caller.account, caller.managementKey);
  if (!key || !works(key, caller.secretVersion, at.getTime())) throw refuse("invalid_api_key");
  if (key.access !== "read_write") throw refuse("read_only_key");
}

/** A management key sees only itself. @throws not_found for any other */
export function refuseOthers(manager: Manager, managementKey: Id): void {
  if (manager.kind === "management" && manager.managementKey !== managementKey) {
    throw refuse("not_found");
  }
}

/** The fields of a patch that differ from what is. */
export function differences<Patch extends object>(before: object, patch: Patch): Partial<Patch> {
  const is = before as Record<string, unknown>;
  const changed = Object.entries(patch).filter(
    ([name, value]) => !isDeepStrictEqual(is[name], value),
  );
  return Object.fromEntries(changed) as Partial<Patch>;
}

/** Mints a secret of a key and stores its hash. @returns the secret, which nothing else keeps */
export async function mintSecret(
  tx: Tx,
  key: { kind: KeyKind; id: Id; version: number; at: Date; pepper: string },
): Promise<{ secret: string; hint: string }> {
  const { kind, id, version, at, pepper } = key;
  const secret = newSecret(kind);
  const hash = hashSecret(secret, pepper);
  await insertSecret(tx, { kind, key: id, version, hash, pepper: nameOfPepper(pepper), at });
  return { secret, hint: hintOf(secret) };
}

/** When the grace of a replaced secret ends; null where there is none. */
export const graceEnd = (at: Date, graceSeconds: number): Date | null =>
  graceSeconds === 0 ? null : new Date(at.getTime() + graceSeconds * SECOND);

/** Notes what a manager did to a key, in the transaction of the change. */
export async function audit(
  tx: Tx,
  manager: Manager,
  at: Date,
  action: string,
  subject: Id,
  change: Record<string, unknown>,
): Promise<void> {
  const { account } = manager;
  await recordAudit(tx, { account, at, actor: actorOf(manager), action, subject, change });
}
