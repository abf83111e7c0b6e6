import { Client, credentials as grpc } from "@grpc/grpc-js";
import { newId } from "../../src/base/ids.js";
import type { Sql } from "../../src/db/sql.js";
import { ADMIN, type LiveGateway, startLiveGateway } from "../support/live-gateway.js";

export type World = Awaited<ReturnType<typeof buildWorld>>;

/** Who may call: a credential of each kind, good and bad. */
export type Credential = keyof World["credentials"];

const HOUR = 3_600_000;

/**
 * A running gateway with two owners: one with keys and holds in every state, and a stranger whose
 * things the first must never see.
 */
export async function buildWorld() {
  const gateway = await startLiveGateway();
  await gateway.priceDemoModels("1000000", "2000000");
  const body = { input_ngonka_per_mtok: "9223372036854775807", output_ngonka_per_mtok: "1" };
  await gateway.done("PUT /api/admin/models/demo/dear", { bearer: ADMIN, body });

  const owner = await gateway.anOwner("owner@example.com", "1000000000");
  const stranger = await gateway.anOwner("stranger@example.com", "1000000000");
  const gm = await gateway.aManagementKey(owner.token);
  const sibling = await gateway.aManagementKey(owner.token);
  const readOnly = await gateway.aManagementKey(owner.token, { access: "read_only" });
  const strangerGm = await gateway.aManagementKey(stranger.token);

  const children = await childrenIn(gateway, owner.token, gm.id);
  const siblingChild = await gateway.aChild(owner.token, sibling.id);
  const strangerChild = await gateway.aChild(stranger.token, strangerGm.id);
  const holds = {
    open: await aHold(gateway, owner.token, children.active.id),
    captured: await aHold(gateway, owner.token, children.active.id, "Capture"),
    voided: await aHold(gateway, owner.token, children.active.id, "Void"),
    swept: await aSweptHold(gateway, owner.token, children.active.id),
    sibling: await aHold(gateway, owner.token, siblingChild.id),
    stranger: await aHold(gateway, stranger.token, strangerChild.id),
    unknown: newId(),
  };
  const old = await oldSecrets(gateway, owner.token);
  const credentials = {
    nobody: undefined,
    owner: owner.token,
    stranger: stranger.token,
    admin: ADMIN,
    gm: gm.secret,
    readOnly: readOnly.secret,
    gc: children.active.secret,
    garbage: "no key of anybody",
    mistypedGm: mistyped(gm.secret),
    mistypedGc: mistyped(children.active.secret),
    shortGc: children.active.secret.slice(0, -1),
    otherCaseGm: `GM-${gm.secret.slice(3)}`,
    forgedToken: forged(owner.token),
    disabledGc: children.disabled.secret,
    expiredGc: children.expired.secret,
    deletedGc: children.deleted.secret,
    ...old,
  };
  const clientOf = (address: string) => new Client(address, grpc.createInsecure());
  const clients = {
    grpc: clientOf(gateway.grpc),
    http: clientOf(gateway.http.replace("http://", "")),
  };
  return {
    gateway,
    /** One of @grpc/grpc-js for each of the two ports that speak gRPC. */
    clients,
    async close() {
      for (const client of Object.values(clients)) client.close();
      await gateway.close();
    },
    sql: gateway.sql,
    credentials,
    account: owner.account,
    strangerAccount: stranger.account,
    gm: gm.id,
    siblingGm: sibling.id,
    strangerGm: strangerGm.id,
    children,
    siblingChild,
    strangerChild,
    holds,
    nowhere: newId(),
  };
}

async function childrenIn(gateway: LiveGateway, token: string, gm: string) {
  const active = await gateway.aChild(token, gm, { limit_daily_ngonka: "100000000" });
  const disabled = await gateway.aChild(token, gm);
  const expired = await gateway.aChild(token, gm);
  const deleted = await gateway.aChild(token, gm);
  const listed = await gateway.aChild(token, gm, { models: ["demo/fast"] });
  const poor = await gateway.aChild(token, gm, { limit_daily_ngonka: "0" });
  const at = (child: { id: string }) => `/api/management/keys/${gm}/children/${child.id}`;
  await gateway.done(`PATCH ${at(disabled)}`, { bearer: token, body: { status: "disabled" } });
  await gateway.done(`DELETE ${at(deleted)}`, { bearer: token });
  const yesterday = new Date(Date.now() - 24 * HOUR);
  await gateway.sql`update child_key set expires_at = ${yesterday} where id = ${expired.id}`;
  return { active, disabled, expired, deleted, listed, poor };
}

/** Secrets that worked once: rotated out, and below a management key that was deleted. */
async function oldSecrets(gateway: LiveGateway, token: string) {
  const rotated = await gateway.aManagementKey(token);
  await gateway.done(`POST /api/management/keys/${rotated.id}/rotate`, { bearer: token });
  const deleted = await gateway.aManagementKey(token);
  const orphan = await gateway.aChild(token, deleted.id);
  await gateway.done(`DELETE /api/management/keys/${deleted.id}`, { bearer: token });
  return { rotatedGm: rotated.secret, deletedGm: deleted.secret, orphanGc: orphan.secret };
}

async function aHold(gateway: LiveGateway, bearer: string, child: string, end?: string) {
  const hold_id = newId();
  const call = (method: string, body: object) =>
    gateway.done(`POST /keytoll.v1.HoldService/${method}`, {
      bearer,
      body,
      headers: { "content-type": "application/json" },
    });
  await call("Authorize", { hold_id, child_key_id: child, amount_ngonka: "1000" });
  if (end === "Capture") await call(end, { hold_id, cost_ngonka: "600" });
  if (end === "Void") await call(end, { hold_id });
  return hold_id;
}

async function aSweptHold(gateway: LiveGateway, bearer: string, child: string) {
  const id = await aHold(gateway, bearer, child);
  await gateway.sql`update open_hold set deadline = authorized_at where id = ${id}`;
  await gateway.sql`select sweep_holds(1, interval '0')`;
  return id;
}

function mistyped(secret: string): string {
  const at = 10;
  const other = secret[at] === "a" ? "b" : "a";
  return secret.slice(0, at) + other + secret.slice(at + 1);
}

function forged(token: string): string {
  const [header = "", , signature = ""] = token.split(".");
  const claims = { iss: "keytoll", aud: "owner", sub: newId(), exp: 99_999_999_999 };
  return `${header}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.${signature}`;
}

const TABLES = [
  "account",
  "owner",
  "management_key",
  "child_key",
  "child_limit",
  "key_secret",
  "model_price",
  "transfer",
  "open_hold",
  "ended_hold",
  "settlement_post",
  "audit_event",
  "outbox",
];

/** A digest of every row that a caller can change, by table. */
export async function digestOf(sql: Sql): Promise<Record<string, string>> {
  const parts = TABLES.map(
    (table) =>
      `select '${table}' as table, md5(coalesce(string_agg(t::text, '|' order by t::text), '')) as digest
         from ${table} t`,
  );
  const rows = await sql.unsafe<{ table: string; digest: string }[]>(parts.join(" union all "));
  return Object.fromEntries(rows.map(({ table, digest }) => [table, digest]));
}
