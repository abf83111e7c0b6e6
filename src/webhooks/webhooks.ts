import { refuse, refuseField } from "../base/errors.js";
import { checkInteger, type Page, type Paged, toPage } from "../base/field.js";
import { type Id, newId } from "../base/ids.js";
import { SECOND } from "../base/time.js";
import type { Vault } from "../base/vault.js";
import { lockForChange, recordAudit } from "../db/change.js";
import { type Db, inTransaction, type Sql, type Tx } from "../db/sql.js";
import { enqueue } from "../temporal/outbox.js";
import { checkEvents } from "./events.js";
import { insertSecret, replaceSecret } from "./secret-store.js";
import { newSigningSecret } from "./signing.js";
import {
  countEndpoints,
  type Endpoint,
  findEndpoint,
  insertEndpoint,
  removeEndpoint,
  selectEndpoints,
  updateEndpoint,
} from "./store.js";
import { originOf, type Targets } from "./targets.js";

/** What the door needs beside the database. */
export interface Office {
  sql: Db;
  targets: Targets;
  vault: Vault;
}

export interface EndpointPatch {
  url?: string;
  events?: string[];
  paused?: boolean;
}

const MAX_ENDPOINTS = 20;
const MAX_GRACE_SECONDS = 30 * 24 * 60 * 60;

/**
 * Adds an endpoint.
 *
 * @returns it, and its signing secret, which is shown once
 * @throws invalid_request_error  by the field's name, also where the account has 20
 */
export async function createEndpoint(
  { sql, targets, vault }: Office,
  account: Id,
  wanted: { url: string; events: string[] },
): Promise<{ endpoint: Endpoint; secret: string }> {
  const events = checkEvents(wanted.events);
  const url = await targets.check(wanted.url);
  return await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    if ((await countEndpoints(tx, account)) >= MAX_ENDPOINTS) {
      throw refuseField("url", `an account has at most ${MAX_ENDPOINTS} endpoints`);
    }
    const [id, secret] = [newId(), newSigningSecret()];
    await insertEndpoint(tx, { id, account, url, events, at });
    await insertSecret(tx, vault, { endpoint: id, version: 1, secret });
    await audit(tx, account, at, "created", id, { target: originOf(url), events });
    return { endpoint: await getEndpoint(tx, account, id), secret };
  });
}

/** @throws not_found  no such endpoint, or another owner's */
export async function getEndpoint(db: Db, account: Id, id: Id): Promise<Endpoint> {
  const endpoint = await findEndpoint(db, account, id);
  if (!endpoint) throw refuse("not_found");
  return endpoint;
}

/** Newest first. */
export async function listEndpoints(db: Db, account: Id, page: Page): Promise<Paged<Endpoint>> {
  return toPage(await selectEndpoints(db, account, page), page);
}

/**
 * Changes the fields of the patch; what waits is then tried at once, unless the endpoint is paused.
 *
 * @throws not_found, invalid_request_error
 */
export async function changeEndpoint(
  { sql, targets }: Office,
  account: Id,
  id: Id,
  patch: EndpointPatch,
): Promise<Endpoint> {
  const events = patch.events && { events: checkEvents(patch.events) };
  const url = patch.url !== undefined && { url: await targets.check(patch.url) };
  return await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    const before = await getEndpoint(tx, account, id);
    const after = { ...before, ...events, ...url, status: statusAfter(before, patch.paused) };
    await updateEndpoint(tx, id, after, at);
    await enqueue(tx, { kind: "webhook_retry", key: id });
    const change = { ...events, target: originOf(after.url), status: after.status };
    await audit(tx, account, at, "updated", id, change);
    return await getEndpoint(tx, account, id);
  });
}

function statusAfter({ status }: Endpoint, paused: boolean | undefined): Endpoint["status"] {
  if (paused === undefined) return status;
  return paused ? "paused" : "active";
}

/** Removes the endpoint for good. @throws not_found */
export async function deleteEndpoint(sql: Sql, account: Id, id: Id): Promise<void> {
  await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    await getEndpoint(tx, account, id);
    await removeEndpoint(tx, id, at);
    await enqueue(tx, { kind: "webhook_retry", key: id });
    await audit(tx, account, at, "deleted", id, {});
  });
}

/**
 * Gives the endpoint a new signing secret. Requests are signed with the one before too for
 * `graceSeconds` more.
 *
 * @throws not_found, invalid_request_error
 */
export async function rotateEndpointSecret(
  { sql, vault }: Office,
  account: Id,
  id: Id,
  graceSeconds: number,
): Promise<{ endpoint: Endpoint; secret: string; previousUntil: Date }> {
  checkInteger("grace_seconds", graceSeconds, 0, MAX_GRACE_SECONDS);
  return await inTransaction(sql, async (tx) => {
    const at = await lockForChange(tx, account);
    const { secretVersion } = await getEndpoint(tx, account, id);
    const [version, secret] = [secretVersion + 1, newSigningSecret()];
    const graceEnd = new Date(at.getTime() + graceSeconds * SECOND);
    await insertSecret(tx, vault, { endpoint: id, version, secret });
    await replaceSecret(tx, id, { version, graceEnd, at });
    await audit(tx, account, at, "secret_rotated", id, { graceSeconds, version });
    return { endpoint: await getEndpoint(tx, account, id), secret, previousUntil: graceEnd };
  });
}

async function audit(
  tx: Tx,
  account: Id,
  at: Date,
  verb: string,
  subject: Id,
  change: Record<string, unknown>,
): Promise<void> {
  const action = `webhook_endpoint.${verb}`;
  await recordAudit(tx, { account, at, actor: `owner:${account}`, action, subject, change });
}
