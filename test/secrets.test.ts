import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newId } from "../src/base/ids.js";
import { connect, type Sql } from "../src/db/sql.js";
import { KEYTOLL } from "../src/dev/processes.js";
import { type DemoUpstream, startDemoUpstream } from "../src/inference/demo-upstream.js";
import { freshDatabase, type TestDatabase } from "./support/database.js";
import {
  ADMIN,
  type Asked,
  environment,
  restClient,
  SECRET,
  UPSTREAM_KEY,
} from "./support/live-gateway.js";

const PASSWORD = "password-zebra-1f4b";
const WRONG_PASSWORD = "wrong-password-zebra-77aa";
const PROMPT = "prompt-zebra-90ce";
const GARBLED = "gm-zebra0000000000000000000000000000garbled";

let database: TestDatabase;
let upstream: DemoUpstream;
let sql: Sql;
let gateway: ChildProcess;
/** All that the gateway has written, on any level. */
let log = "";
/** Bodies and headers of all refusals. */
let refusals = "";
/** By what it is, so that a failure names it without showing it. */
const secrets: Record<string, string> = {
  password: PASSWORD,
  "wrong password": WRONG_PASSWORD,
  prompt: PROMPT,
  "garbled key": GARBLED,
  pepper: SECRET,
  "admin token": ADMIN,
  "upstream's key": UPSTREAM_KEY,
};

beforeAll(async () => {
  database = await freshDatabase();
  upstream = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  sql = connect(database.url, { name: "secrets", max: 2 });
  const http = await startServe();
  await useEverything(http);
  await breakTheDatabase(http);
});

afterAll(async () => {
  if (gateway && gateway.exitCode === null) {
    const ended = once(gateway, "exit");
    gateway.kill("SIGTERM");
    await ended;
  }
  await sql?.end({ timeout: 5 });
  await upstream?.close();
  await database?.drop();
});

/** @returns its base URL */
async function startServe(): Promise<string> {
  const { PATH, HOME } = process.env;
  const env = {
    PATH,
    HOME,
    ...environment(database.url, upstream.url),
    KEYTOLL_LOG_LEVEL: "trace",
  };
  gateway = fork(KEYTOLL, ["serve"], {
    execArgv: [],
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    env,
  });
  for (const pipe of [gateway.stdout, gateway.stderr]) {
    pipe?.on("data", (bytes: Buffer) => {
      log += bytes.toString();
    });
  }
  const [{ ready }] = (await once(gateway, "message")) as [{ ready: { http: string } }];
  return ready.http;
}

/** A call that is refused. */
async function refused(http: string, route: string, asked: Asked): Promise<void> {
  const { status, headers, json } = await restClient(http).rest(route, asked);
  expect(status, route).toBeGreaterThanOrEqual(400);
  refusals += `${JSON.stringify(json)}\n${JSON.stringify([...headers])}\n`;
}

const chat = (model: string) => ({ model, messages: [{ role: "user", content: PROMPT }] });
const JSON_TYPE = { "content-type": "application/json" };

async function useEverything(http: string): Promise<void> {
  const { done, priceDemoModels } = restClient(http);
  await priceDemoModels("1000000", "1000000");
  const body = { email: "zebra@example.com", password: PASSWORD };
  const owner = await done("POST /api/auth/register", { body });
  const login = await done("POST /api/auth/login", { body });
  const token = String(login.token);
  Object.assign(secrets, { "first token": owner.token, "second token": token });
  const credit = { amount_ngonka: "1000000000", reference: "zebra" };
  await done(`POST /api/admin/accounts/${owner.account_id}/credits`, {
    bearer: ADMIN,
    body: credit,
  });

  const keys = "/api/management/keys";
  const soon = new Date(Date.now() + 3_600_000).toISOString();
  const fields = { name: "SaaS", expires_at: soon };
  const gm = await done(`POST ${keys}`, { bearer: token, body: fields });
  const gm2 = await done(`POST ${keys}/${gm.id}/rotate`, {
    bearer: token,
    body: { grace_seconds: 600 },
  });
  const children = `${keys}/${gm.id}/children`;
  const gc = await done(`POST ${children}`, { bearer: String(gm.key), body: fields });
  const rotation = { grace_seconds: 600 };
  const gc2 = await done(`POST ${children}/${gc.id}/rotate`, { bearer: token, body: rotation });
  Object.assign(secrets, { gm: gm.key, "new gm": gm2.key, gc: gc.key, "new gc": gc2.key });

  const bearer = String(gc2.key);
  for (const stream of [false, true]) {
    await fetch(`${http}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${bearer}` },
      body: JSON.stringify({ ...chat("demo/fast"), stream }),
    }).then((answer) => answer.text());
  }
  const hold = { hold_id: newId(), secret: bearer, amount_ngonka: "10" };
  const authorize = "POST /keytoll.v1.HoldService/Authorize";
  await done(authorize, { bearer: String(gm2.key), body: hold, headers: JSON_TYPE });
  await meetRefusals(http, { token, gm: String(gm2.key), gc: bearer });
}

async function meetRefusals(
  http: string,
  { token, gm, gc }: Record<"token" | "gm" | "gc", string>,
): Promise<void> {
  const asks: [route: string, asked: Asked][] = [
    ["POST /api/auth/register", { body: { email: "zebra@example.com", password: PASSWORD } }],
    ["POST /api/auth/register", { body: { email: PASSWORD, password: PASSWORD } }],
    ["POST /api/auth/register", { body: { email: "a@b.c", password: [PASSWORD] } }],
    ["POST /api/auth/register", { body: `{"password":"${PASSWORD}"` }],
    ["POST /api/auth/register", { body: { email: "a@b.c", password: PASSWORD.repeat(20) } }],
    ["POST /api/auth/login", { body: { email: "zebra@example.com", password: WRONG_PASSWORD } }],
    [
      "POST /keytoll.v1.AuthService/Login",
      { body: { email: "a@b.c", password: [PASSWORD] }, headers: JSON_TYPE },
    ],
    [
      "POST /keytoll.v1.AuthService/Login",
      { body: `{"password":"${PASSWORD}"`, headers: JSON_TYPE },
    ],
    ["GET /api/management/keys", { bearer: GARBLED }],
    ["GET /api/management/keys", { bearer: gc }],
    ["GET /v1/models", { bearer: gm }],
    ["GET /v1/models", { bearer: token }],
    ["GET /api/admin/accounts", { bearer: gm }],
    ["GET /api/account", { bearer: ADMIN }],
    [`GET /api/account/transfers?cursor=${gc}`, { bearer: token }],
    [`GET /v1/nothing/${gc}?key=${gc}`, { bearer: gc }],
    ["POST /v1/chat/completions", { bearer: gc, body: chat("demo/none") }],
    ["POST /v1/chat/completions", { bearer: gc, body: `{"messages":"${PROMPT}` }],
    ["POST /v1/chat/completions", { bearer: gc, body: { ...chat("demo/fast"), n: PROMPT } }],
    ["POST /v1/chat/completions", { bearer: gc, body: chat("demo/error-429") }],
    ["POST /v1/chat/completions", { bearer: gc, body: chat("demo/error-500") }],
    ["POST /v1/chat/completions", { bearer: gc, body: chat("demo/error-400") }],
    ["POST /v1/chat/completions", { bearer: gc, body: chat("demo/cut") }],
    [
      "POST /keytoll.v1.InferenceService/CreateChatCompletion",
      { bearer: gc, body: { ...chat("demo/fast"), n: PROMPT }, headers: JSON_TYPE },
    ],
    [
      "POST /keytoll.v1.HoldService/Authorize",
      {
        bearer: gm,
        body: { hold_id: newId(), secret: GARBLED, amount_ngonka: "10" },
        headers: JSON_TYPE,
      },
    ],
  ];
  for (const [route, asked] of asks) await refused(http, route, asked);
}

/** What fails inside must not carry what was asked into the log. */
async function breakTheDatabase(http: string): Promise<void> {
  const tables = ["owner", "management_key", "child_key", "key_secret"];
  for (const table of tables) await sql.unsafe(`alter table ${table} rename to ${table}_away`);
  const fresh = { email: "second@example.com", password: PASSWORD };
  await refused(http, "POST /api/auth/register", { body: fresh });
  await refused(http, "POST /api/auth/login", { body: fresh });
  const bearer = String(secrets.gc);
  await refused(http, "POST /v1/chat/completions", { bearer, body: chat("demo/fast") });
  const body = { name: "New" };
  await refused(http, "POST /api/management/keys", {
    bearer: String(secrets["second token"]),
    body,
  });
  for (const table of tables) await sql.unsafe(`alter table ${table}_away rename to ${table}`);
}

/** Every row of every table as text, what is stored as bytes in hexadecimal. */
async function everything(): Promise<string> {
  const tables = await sql<{ name: string }[]>`
    select quote_ident(relname) as name from pg_class
     where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition`;
  expect(tables.length).toBeGreaterThan(10);
  const texts: string[] = [];
  for (const { name } of tables) {
    const rows = await sql.unsafe<{ row: string }[]>(`select t::text as row from ${name} t`);
    texts.push(...rows.map(({ row }) => row));
  }
  return texts.join("\n");
}

/**
 * The names of the secrets that stand in a text, as they are, as JSON, in base64 or in hexadecimal.
 */
function foundIn(text: string): string[] {
  const forms = (secret: string) => [
    secret,
    encodeURIComponent(secret),
    Buffer.from(secret).toString("hex"),
    Buffer.from(secret).toString("base64").replace(/=+$/, "").slice(0, -1),
  ];
  const standsIn = ([, secret]: [string, string]) => forms(secret).some((it) => text.includes(it));
  return Object.entries(secrets)
    .filter(standsIn)
    .map(([name]) => name);
}

describe("passwords, tokens, keys and prompts", () => {
  test("stand in no line of a gateway's log, not even where it fails inside", () => {
    expect(log).toContain("gateway is ready");
    expect(log).toContain("request failed");
    expect(foundIn(log)).toEqual([]);
    expect(log).not.toContain("$argon2");
  });

  test("stand in no refusal", () => {
    expect(refusals).toContain("internal_error");
    expect(foundIn(refusals)).toEqual([]);
  });

  test("stand in no row of any table", async () => {
    const rows = await everything();
    expect(rows).toContain("zebra@example.com");
    expect(rows).toContain("management_key.rotated");
    expect(foundIn(rows)).toEqual([]);
  });

  test("are kept as hashes of 32 bytes, or of argon2id, and nothing else", async () => {
    const [keys] = await sql`
      select count(*)::int as n, min(length(hash)) as least, max(length(hash)) as most
        from key_secret`;
    expect(keys).toEqual({ n: 4, least: 32, most: 32 });
    const hashes = await sql`select password_hash from owner`;
    expect(hashes.every((row) => row.password_hash.startsWith("$argon2id$"))).toBe(true);
  });
});
