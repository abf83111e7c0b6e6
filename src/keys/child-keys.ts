import { refuse } from "../base/errors.js";
import { type Page, type Paged, toPage } from "../base/field.js";
import { type Id, newId } from "../base/ids.js";
import type { Db, Sql, Tx } from "../db/sql.js";
import type { ChildCaller, Manager } from "./caller.js";
import { audit, changeKeys, differences, graceEnd, mintSecret, refuseOthers } from "./changes.js";
import { checkChildFields, checkExpiry, checkGrace } from "./fields.js";
import type { ChildFields, ChildKey } from "./key.js";
import { getManagementKey } from "./management-keys.js";
import { replaceSecret } from "./replaced.js";
import {
  type ChildFilter,
  findChild,
  insertChild,
  insertLimits,
  readChild,
  rotateChildRow,
  selectChildren,
  selectChildrenFrom,
  updateChild,
} from "./store-child.js";
import { announceKey } from "./store-secret.js";

/** Names a child key by its place. */
export interface ChildRef {
  managementKey: Id;
  child: Id;
}
export type ChildPatch = Partial<ChildFields & { status: "active" | "disabled" }>;
/** A patch that depends on what is: asked for under the account's lock. */
export type ChildChange = ChildPatch | ((before: ChildKey) => ChildPatch);

/**
 * Mints a child key.
 *
 * @param pepper the newest one
 * @returns the key, and its secret, which is shown once and kept nowhere
 * @throws not_found  no such management key, or it is deleted
 * @throws invalid_request_error  by the field's name
 */
export async function createChildKey(
  db: Db,
  manager: Manager,
  managementKey: Id,
  wanted: ChildFields,
  pepper: string,
): Promise<{ key: ChildKey; secret: string }> {
  const fields = checkChildFields(wanted);
  return await changeKeys(db, manager, async (tx, at) => {
    const parent = await getManagementKey(tx, manager, managementKey);
    if (parent.status === "deleted") throw refuse("not_found");
    checkExpiry(fields.expiresAt, at);

    const id = newId();
    const { secret, hint } = await mintSecret(tx, { kind: "child", id, version: 1, at, pepper });
    await insertChild(tx, { id, account: manager.account, managementKey, hint, at }, fields);
    await insertLimits(tx, id, fields, at);
    await announceKey(tx, id, fields.expiresAt !== null);
    await audit(tx, manager, at, "child_key.created", id, { managementKey, ...fields });
    return { key: await readChild(tx, id), secret };
  });
}

/** @throws not_found  no such child there, or another owner's or management key's */
export async function getChildKey(db: Db, manager: Manager, at: ChildRef): Promise<ChildKey> {
  refuseOthers(manager, at.managementKey);
  const child = await findChild(db, manager.account, at.managementKey, at.child);
  if (!child) throw refuse("not_found");
  return child;
}

/** A child key as it sees itself. @throws not_found */
export async function getChildOfCaller(db: Db, caller: ChildCaller): Promise<ChildKey> {
  const child = await findChild(db, caller.account, caller.managementKey, caller.child);
  if (!child) throw refuse("not_found");
  return child;
}

/** Children of a management key, newest first, with their usage. @throws not_found */
export async function listChildKeys(
  db: Db,
  manager: Manager,
  managementKey: Id,
  filter: ChildFilter,
  page: Page,
): Promise<Paged<ChildKey>> {
  await getManagementKey(db, manager, managementKey);
  return toPage(await selectChildren(db, managementKey, filter, page), page);
}

/** As `listChildKeys`, without deleted ones and from a place in the list on. @throws not_found */
export async function listChildKeysFrom(
  db: Db,
  manager: Manager,
  managementKey: Id,
  part: { offset: number; limit: number; disabled: boolean },
): Promise<ChildKey[]> {
  await getManagementKey(db, manager, managementKey);
  return await selectChildrenFrom(db, managementKey, part);
}

/**
 * Changes the fields of the patch, everywhere at once: authorize reads the row. What is the same
 * already changes nothing. A change of limits counts from the account's time on and is kept for
 * good.
 *
 * @throws not_found  no such child, or it is deleted
 * @throws invalid_request_error  by the field's name
 */
export async function changeChildKey(
  sql: Sql,
  manager: Manager,
  ref: ChildRef,
  change: ChildChange,
): Promise<ChildKey> {
  const patch = typeof change === "function" ? undefined : checkChildFields(change);
  return await changeKeys(sql, manager, async (tx, at) => {
    const before = await findUndeleted(tx, manager, ref);
    const wanted = typeof change === "function" ? checkChildFields(change(before)) : (patch ?? {});
    const changed = differences(before, wanted);
    if (Object.keys(changed).length === 0) return before;
    checkExpiry(changed.expiresAt, at);

    const to = { ...before, ...changed };
    await updateChild(tx, ref.child, to, at);
    if (changesLimits(changed)) await insertLimits(tx, ref.child, to, at);
    await announceKey(tx, ref.child, changed.expiresAt !== undefined);
    await audit(tx, manager, at, "child_key.updated", ref.child, changed);
    return await readChild(tx, ref.child);
  });
}

/**
 * Deactivates the child at once, for good.
 *
 * @returns the key as it stands now; again is the same
 * @throws not_found
 */
export async function deleteChildKey(sql: Sql, manager: Manager, ref: ChildRef): Promise<ChildKey> {
  return await changeKeys(sql, manager, async (tx, at) => {
    const before = await getChildKey(tx, manager, ref);
    if (before.status === "deleted") return before;
    await updateChild(tx, ref.child, { ...before, status: "deleted" }, at);
    await announceKey(tx, ref.child, before.expiresAt !== null);
    await audit(tx, manager, at, "child_key.deleted", ref.child, {});
    return await readChild(tx, ref.child);
  });
}

/**
 * Gives the child a new secret. The one before works for `graceSeconds` more, any older one no
 * longer.
 *
 * @returns the key, its new secret, and until when the old one works
 * @throws not_found, invalid_request_error
 */
export async function rotateChildKey(
  db: Db,
  manager: Manager,
  ref: ChildRef,
  { graceSeconds, pepper }: { graceSeconds: number; pepper: string },
): Promise<{ key: ChildKey; secret: string; previousUntil: Date }> {
  checkGrace(graceSeconds);
  return await changeKeys(db, manager, async (tx, at) => {
    const before = await findUndeleted(tx, manager, ref);
    const [id, version] = [ref.child, before.secretVersion + 1];
    const { secret, hint } = await mintSecret(tx, { kind: "child", id, version, at, pepper });
    const until = graceEnd(at, graceSeconds);
    await rotateChildRow(tx, id, { version, hint, graceEnd: until, at });
    await replaceSecret(tx, id, before, until);
    await announceKey(tx, id, false);
    await audit(tx, manager, at, "child_key.rotated", id, { graceSeconds, version });
    return { key: await readChild(tx, id), secret, previousUntil: until ?? at };
  });
}

const changesLimits = (changed: ChildPatch): boolean =>
  "limitDaily" in changed || "limitMonthly" in changed || "limitTotal" in changed;

async function findUndeleted(tx: Tx, manager: Manager, ref: ChildRef): Promise<ChildKey> {
  const child = await getChildKey(tx, manager, ref);
  if (child.shownStatus === "deleted") throw refuse("not_found");
  return child;
}
