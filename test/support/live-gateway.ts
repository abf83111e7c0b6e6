import { readConfig } from "../../src/base/config.js";
import { createLog } from "../../src/base/log.js";
import { connect } from "../../src/db/sql.js";
import { DEMO_MODELS } from "../../src/inference/demo-models.js";
import { startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { startGateway } from "../../src/server.js";
import { freshDatabase } from "./database.js";

export const SECRET = "a pepper of the live tests in 32 bytes or more";
export const ADMIN = "an admin token of the live tests in 32 bytes or more";
export const UPSTREAM_KEY = "upstream-key-of-the-live-tests";
export const PASSWORD = "correct horse battery";

type Json = Record<string, unknown>;

export interface RestAnswer {
  status: number;
  headers: Headers;
  json: Json;
}

export interface Asked {
  bearer?: string | undefined;
  /** An object goes out as JSON, a string as it is. */
  body?: unknown;
  headers?: Record<string, string>;
}

export type LiveGateway = Awaited<ReturnType<typeof startLiveGateway>>;

/** The environment of a gateway on free ports. */
export const environment = (databaseUrl: string, upstreamUrl: string) => ({
  PORT: "0",
  GRPC_PORT: "0",
  DATABASE_URL: databaseUrl,
  KEYTOLL_SECRET: SECRET,
  KEYTOLL_ADMIN_TOKEN: ADMIN,
  // All tests come from one address, and many of them fail on purpose
  KEYTOLL_FAILED_AUTH_RPM: "0",
  KEYTOLL_UPSTREAM_URL: upstreamUrl,
  KEYTOLL_UPSTREAM_KEY: UPSTREAM_KEY,
});

/**
 * The whole gateway, as `serve` composes it, on free ports, a database of its own and the demo
 * upstream.
 *
 * @param more variables of its environment
 */
export async function startLiveGateway(more: Record<string, string> = {}) {
  const database = await freshDatabase();
  const upstream = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  const env = { ...environment(database.url, upstream.url), ...more };
  const start = (further: Record<string, string> = {}) =>
    startGateway(readConfig({ ...env, ...further }), env, createLog("silent", "test"));
  const gateway = await start();
  const sql = connect(database.url, { name: "live test", max: 3 });
  return {
    ...gateway,
    ...restClient(gateway.http),
    upstreamUrl: upstream.url,
    databaseUrl: database.url,
    /** Another gateway on the same database, which remembers nothing of what this one did. */
    startAnother: start,
    sql,
    async close() {
      await gateway.close();
      await upstream.close();
      await sql.end({ timeout: 5 });
      await database.drop();
    },
  };
}

/** Calls of a gateway's plain-HTTP doors, and the steps that every journey begins with. */
export function restClient(base: string) {
  async function rest(route: string, { bearer, body, headers }: Asked = {}): Promise<RestAnswer> {
    const [method = "GET", path = "/"] = route.split(" ");
    const answer = await fetch(base + path, {
      method,
      headers: { ...(bearer && { authorization: `Bearer ${bearer}` }), ...headers },
      ...(body !== undefined && { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await answer.text();
    const json = text.startsWith("{") ? (JSON.parse(text) as Json) : { text };
    return { status: answer.status, headers: answer.headers, json };
  }

  /** A call that must succeed. */
  async function done(route: string, asked: Asked): Promise<Json> {
    const { status, json } = await rest(route, asked);
    if (status >= 300) throw new Error(`${route}: ${status} ${JSON.stringify(json)}`);
    return json;
  }

  async function anOwner(email: string, amount_ngonka?: string) {
    const body = { email, password: PASSWORD };
    const { account_id, token } = await done("POST /api/auth/register", { body });
    const account = String(account_id);
    if (amount_ngonka !== undefined) {
      const credit = { amount_ngonka, reference: `first payment of ${email}` };
      const route = `POST /api/admin/accounts/${account}/credits`;
      await done(route, { bearer: ADMIN, body: credit });
    }
    return { account, token: String(token) };
  }

  async function aManagementKey(token: string, fields: Json = {}) {
    const body = { name: "SaaS", ...fields };
    const { id, key } = await done("POST /api/management/keys", { bearer: token, body });
    return { id: String(id), secret: String(key) };
  }

  async function aChild(bearer: string, managementKey: string, fields: Json = {}) {
    const route = `POST /api/management/keys/${managementKey}/children`;
    const { id, key } = await done(route, { bearer, body: { name: "Client", ...fields } });
    return { id: String(id), secret: String(key) };
  }

  /** Sets one price for all demo models, in ngonka per million tokens. */
  async function priceDemoModels(input: string, output: string): Promise<void> {
    const body = { input_ngonka_per_mtok: input, output_ngonka_per_mtok: output };
    for (const { id } of DEMO_MODELS) {
      await done(`PUT /api/admin/models/${id}`, { bearer: ADMIN, body });
    }
  }

  return { rest, done, anOwner, aManagementKey, aChild, priceDemoModels };
}
