import { refuse } from "../base/errors.js";
import { type Page, type Paged, toPage } from "../base/field.js";
import { type Id, newId } from "../base/ids.js";
import type { Db, Sql, Tx } from "../db/sql.js";
import type { Access, CostFields, Manager, OwnerCaller } from "./caller.js";
import { audit, changeKeys, differences, graceEnd, mintSecret, refuseOthers } from "./changes.js";
import { checkExpiry, checkGrace, checkName } from "./fields.js";
import type { ManagementKey } from "./key.js";
import { replaceSecret } from "./replaced.js";
import {
  findManagement,
  insertManagement,
  rotateManagementRow,
  selectManagement,
  updateManagement,
} from "./store-management.js";
import { announceKey } from "./store-secret.js";

export interface NewManagementKey {
  name: string;
  access: Access;
  /** "neutral" where it is absent. */
  costFields?: CostFields;
  expiresAt: Date | null;
}
export type ManagementPatch = Partial<NewManagementKey & { status: "active" | "disabled" }>;

/**
 * Mints a management key.
 *
 * @param pepper the newest one
 * @returns the key, and its secret, which is shown once and kept nowhere
 * @throws invalid_request_error  by the field's name
 */
export async function createManagementKey(
  db: Db,
  owner: OwnerCaller,
  fields: NewManagementKey,
  pepper: string,
): Promise<{ key: ManagementKey; secret: string }> {
  const name = checkName(fields.name);
  return await changeKeys(db, owner, async (tx, at) => {
    checkExpiry(fields.expiresAt, at);
    const id = newId();
    const { secret, hint } = await mintSecret(tx, {
      kind: "management",
      id,
      version: 1,
      at,
      pepper,
    });
    const costFields = fields.costFields ?? "neutral";
    const row = { ...fields, costFields, id, account: owner.account, name, hint, at };
    const key = await insertManagement(tx, row);
    await announceKey(tx, id, fields.expiresAt !== null);
    await audit(tx, owner, at, "management_key.created", id, { ...fields, name });
    return { key, secret };
  });
}

/** @throws not_found  no such key under this owner, or another key than the caller's own */
export async function getManagementKey(db: Db, manager: Manager, id: Id): Promise<ManagementKey> {
  refuseOthers(manager, id);
  const key = await findManagement(db, manager.account, id);
  if (!key) throw refuse("not_found");
  return key;
}

/**
 * The owner's management keys, newest first, deleted ones included; to a management key, itself.
 */
export async function listManagementKeys(
  db: Db,
  manager: Manager,
  page: Page,
): Promise<Paged<ManagementKey>> {
  if (manager.kind === "owner") {
    return toPage(await selectManagement(db, manager.account, page), page);
  }
  const itself = await findManagement(db, manager.account, manager.managementKey);
  return { data: itself ? [itself] : [] };
}

/**
 * Changes the fields of the patch. What is the same already changes nothing.
 *
 * @throws not_found, invalid_request_error
 */
export async function changeManagementKey(
  sql: Sql,
  manager: Manager,
  id: Id,
  patch: ManagementPatch,
): Promise<ManagementKey> {
  const wanted = patch.name === undefined ? patch : { ...patch, name: checkName(patch.name) };
  return await changeKeys(sql, manager, async (tx, at) => {
    const before = await findUndeleted(tx, manager, id);
    const changed = differences(before, wanted);
    if (Object.keys(changed).length === 0) return before;
    checkExpiry(changed.expiresAt, at);

    const after = await updateManagement(tx, id, { ...before, ...changed }, at);
    await announceKey(tx, id, changed.expiresAt !== undefined);
    await audit(tx, manager, at, "management_key.updated", id, changed);
    return after;
  });
}

/**
 * Deactivates the key for good, and with it all its children: this one row stops them, whatever
 * their number.
 *
 * @returns the key as it stands now; again is the same
 * @throws not_found
 */
export async function deleteManagementKey(
  sql: Sql,
  manager: Manager,
  id: Id,
): Promise<ManagementKey> {
  return await changeKeys(sql, manager, async (tx, at) => {
    const before = await getManagementKey(tx, manager, id);
    if (before.status === "deleted") return before;
    const after = await updateManagement(tx, id, { ...before, status: "deleted" }, at);
    await announceKey(tx, id, before.expiresAt !== null);
    await audit(tx, manager, at, "management_key.deleted", id, {});
    return after;
  });
}

/**
 * Gives the key a new secret. The one before works for `graceSeconds` more, any older one no
 * longer.
 *
 * @returns the key, its new secret, and until when the old one works
 * @throws not_found, invalid_request_error
 */
export async function rotateManagementKey(
  db: Db,
  manager: Manager,
  id: Id,
  { graceSeconds, pepper }: { graceSeconds: number; pepper: string },
): Promise<{ key: ManagementKey; secret: string; previousUntil: Date }> {
  checkGrace(graceSeconds);
  return await changeKeys(db, manager, async (tx, at) => {
    const before = await findUndeleted(tx, manager, id);
    const version = before.secretVersion + 1;
    const { secret, hint } = await mintSecret(tx, { kind: "management", id, version, at, pepper });
    const until = graceEnd(at, graceSeconds);
    const key = await rotateManagementRow(tx, id, { version, hint, graceEnd: until, at });
    await replaceSecret(tx, id, before, until);
    await announceKey(tx, id, false);
    await audit(tx, manager, at, "management_key.rotated", id, { graceSeconds, version });
    return { key, secret, previousUntil: until ?? at };
  });
}

async function findUndeleted(tx: Tx, manager: Manager, id: Id): Promise<ManagementKey> {
  const key = await getManagementKey(tx, manager, id);
  if (key.status === "deleted") throw refuse("not_found");
  return key;
}
