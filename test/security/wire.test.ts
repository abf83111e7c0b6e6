import { createHmac, generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { gzipSync } from "node:zlib";
import { SignJWT } from "jose";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { newSecret } from "../../src/keys/secret.js";
import {
  ADMIN,
  type LiveGateway,
  PASSWORD,
  SECRET,
  startLiveGateway,
} from "../support/live-gateway.js";

let gateway: LiveGateway;
let owner: { account: string; token: string };
let gm: { id: string; secret: string };
let gc: string;

beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("1000", "1000");
  owner = await gateway.anOwner("owner@example.com", "1000000000");
  gm = await gateway.aManagementKey(owner.token);
  gc = (await gateway.aChild(owner.token, gm.id)).secret;
});
afterAll(() => gateway?.close());
afterEach(async () => {
  expect((await gateway.rest("GET /healthz")).status).toBe(200);
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
});

/** Sends bytes as they are. @returns all that comes back until the other side closes */
async function raw(...pieces: string[]): Promise<string> {
  const socket = connect(Number(new URL(gateway.http).port), "127.0.0.1");
  let answer = "";
  socket.on("data", (bytes) => {
    answer += bytes.toString("latin1");
  });
  socket.on("error", () => {});
  const closed = once(socket, "close");
  for (const piece of pieces) socket.write(Buffer.from(piece, "latin1"));
  await closed;
  return answer;
}
const statusesIn = (answer: string) =>
  [...answer.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => status);

const SMUGGLED = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
const HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n";

describe("a request that two parsers could read in two ways", () => {
  test.each([
    [
      "length and chunks",
      `${HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ],
    ["two lengths", `${HEAD}Content-Length: 0\r\nContent-Length: 30\r\n\r\n`],
    ["two lengths in one line", `${HEAD}Content-Length: 0, 30\r\n\r\n`],
    ["a length with a sign", `${HEAD}Content-Length: +0\r\n\r\n`],
    ["a length in hexadecimal", `${HEAD}Content-Length: 0x0\r\n\r\n`],
    ["chunks by another name", `${HEAD}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`],
    ["chunks that are not last", `${HEAD}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`],
    ["a blank before the colon", `${HEAD}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`],
    ["a chunk's size that is none", `${HEAD}Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n`],
    ["a null in a header", `${HEAD}X-A: a\0b\r\n\r\n`],
    ["a header without a name", `${HEAD}: x\r\n\r\n`],
  ])("is refused, and what follows it is not read: %s", async (_what, request) => {
    const answer = await raw(request + SMUGGLED);
    const statuses = statusesIn(answer);
    expect(statuses.at(-1)).toBe("400");
    expect(statuses).not.toContain("200");
  });

  test("headers of more than 16 kB are refused", async () => {
    const answer = await raw(`${HEAD}X-A: ${"a".repeat(20_000)}\r\n\r\n${SMUGGLED}`);
    expect(statusesIn(answer)).toEqual(["431"]);
  });
});

const DOORS: [route: string, bearer: () => string][] = [
  ["POST /v1/chat/completions", () => gc],
  ["POST /v1/embeddings", () => gc],
  ["POST /v1/messages", () => gc],
  ["POST /api/management/keys", () => owner.token],
  ["POST /api/v1/keys", () => gm.secret],
  ["POST /keytoll.v1.KeyService/CreateManagementKey", () => owner.token],
  ["POST /keytoll.v1.InferenceService/CreateChatCompletion", () => gc],
];
const JSON_TYPE = { "content-type": "application/json" };

describe.each(DOORS)("%s refuses by itself, and goes on,", (route, bearer) => {
  const MANY = Array.from({ length: 100_000 }, (_, i) => `"k${i}":1`).join(",");
  test.each([
    ["a million arrays in one another", `{"messages":${"[".repeat(1e6)}${"]".repeat(1e6)}}`],
    ["as many that never close", "[".repeat(1e6)],
    ["a hundred thousand unknown fields", `{${MANY}}`],
    ["a number beyond all numbers", '{"max_tokens":1e999,"model":1e999}'],
    ["a prototype", '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}'],
    ["bytes that are no UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])],
    ["a bomb of gzip that nobody unpacks", gzipSync(Buffer.alloc(8 * 1024 * 1024))],
  ])("%s", async (_what, body) => {
    const [, path = ""] = route.split(" ");
    const answer = await fetch(gateway.http + path, {
      method: "POST",
      headers: { ...JSON_TYPE, authorization: `Bearer ${bearer()}` },
      body,
    });
    const text = await answer.text();
    expect(answer.status, text.slice(0, 200)).toBeGreaterThanOrEqual(400);
    expect(answer.status, text.slice(0, 200)).toBeLessThan(500);
    expect(text).not.toMatch(/node_modules|\.ts:\d|at Object|stack/);
    expect(text.length).toBeLessThan(2_000);
    expect(answer.headers.get("x-powered-by")).toBeNull();
    expect(answer.headers.get("server")).toBeNull();
  });
});

const PLAIN = DOORS.filter(([route]) => !route.includes("keytoll.v1"));

describe.each([...PLAIN, ["POST /v1/messages/count_tokens", () => gc] as const])(
  "%s reads no packed body",
  (route, bearer) => {
    test.each(["gzip", "deflate", "br", "GZIP", "identity, gzip"])("%s", async (coding) => {
      const { status, json, headers } = await gateway.rest(route, {
        ...{ bearer: bearer(), body: '{"model":"demo/fast"}' },
        headers: { ...JSON_TYPE, "content-encoding": coding },
      });
      expect(status).toBe(400);
      const { error } = json as { error: { message: string; param?: string } };
      expect(error.message).toBe("content-encoding: send the body as it is, not packed");
      expect(headers.get("connection")).toBe("close");
    });
  },
);

test("a body that says it is not packed is read", async () => {
  const body = { model: "demo/fast", max_tokens: 2, messages: [{ role: "user", content: "hi" }] };
  const { status } = await gateway.rest("POST /v1/chat/completions", {
    ...{ bearer: gc, body, headers: { "content-encoding": "identity" } },
  });
  expect(status).toBe(200);
});

describe("a token that we did not sign as it stands", () => {
  const key = createHmac("sha256", SECRET).update("owner token").digest();
  const soon = () => Math.floor(Date.now() / 1_000) + 600;
  const token = ({ alg = "HS256", iss = "keytoll", aud = "owner", exp = soon() } = {}) =>
    new SignJWT()
      .setProtectedHeader({ alg })
      .setIssuer(iss)
      .setAudience(aud)
      .setSubject(owner.account)
      .setExpirationTime(exp);
  const statusOf = async (bearer: string) =>
    (await gateway.rest("GET /api/account", { bearer })).status;

  test("passes only as it should be, so that the others fail for their own reason", async () => {
    expect(await statusOf(await token().sign(key))).toBe(200);
  });

  test.each<[string, () => Promise<string>]>([
    ["has expired", () => token({ exp: 1 }).sign(key)],
    ["is of another issuer", () => token({ iss: "other" }).sign(key)],
    ["is for another audience", () => token({ aud: "admin" }).sign(key)],
    ["is signed by the pepper itself", () => token().sign(Buffer.from(SECRET))],
    ["is signed by an algorithm of the same key", () => token({ alg: "HS512" }).sign(key)],
    [
      "is signed by a key pair of the caller's",
      () =>
        token({ alg: "RS256" }).sign(
          generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey,
        ),
    ],
    [
      "says that it is not signed",
      async () => {
        const [, claims] = (await token().sign(key)).split(".");
        return `${Buffer.from('{"alg":"none"}').toString("base64url")}.${claims}.`;
      },
    ],
    [
      "names another account",
      async () => {
        const [head, , signature] = (await token().sign(key)).split(".");
        const claims = {
          sub: owner.account.replace(/.$/, "0"),
          iss: "keytoll",
          aud: "owner",
          exp: soon(),
        };
        return `${head}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.${signature}`;
      },
    ],
  ])("is refused: one that %s", async (_what, make) => {
    expect(await statusOf(await make())).toBe(401);
  });
});

test("the address in an image_url is never called", async () => {
  let called = 0;
  const trap = createServer((_request, response) => {
    called += 1;
    response.end();
  });
  trap.listen(0, "127.0.0.1");
  await once(trap, "listening");
  const url = `http://127.0.0.1:${(trap.address() as AddressInfo).port}/x.png`;
  const content = [
    { type: "text", text: "what is this?" },
    { type: "image_url", image_url: { url } },
  ];
  const body = { model: "demo/fast", messages: [{ role: "user", content }] };
  const { status } = await gateway.rest("POST /v1/chat/completions", { bearer: gc, body });
  expect(status).toBeLessThan(500);
  expect(called).toBe(0);
  trap.close();
});

test("no path leads round a door: dots, encoded slashes and doubled ones are paths of nothing", async () => {
  for (const path of [
    "/v1/../api/admin/accounts",
    "/v1/%2e%2e/api/admin/accounts",
    "/v1/..%2fapi/admin/accounts",
    "//api/admin/accounts",
    "/api/admin%2faccounts",
    "/API/admin/accounts",
  ]) {
    const head = `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n`;
    const answer = await raw(`${head}Authorization: Bearer ${gc}\r\n\r\n`);
    expect(["400", "403", "404"], path).toContain(statusesIn(answer)[0]);
    expect(answer).not.toContain("owner@example.com");
  }
});

test("a line break in what we echo starts no header and no event", async () => {
  const model = "demo/none\r\nset-cookie: a=b\r\n\r\ndata: x";
  const messages = [{ role: "user", content: "hi" }];
  for (const stream of [false, true]) {
    const body = { model, messages, stream };
    const { status, headers } = await gateway.rest("POST /v1/chat/completions", {
      bearer: gc,
      body,
    });
    expect(status).toBe(404);
    expect(headers.get("set-cookie")).toBeNull();
  }
  const id = encodeURIComponent(model);
  const { headers } = await gateway.rest(`GET /v1/models/${id}`, { bearer: gc });
  expect(headers.get("set-cookie")).toBeNull();
});

test("a line break in what a model writes starts no event", async () => {
  const content = "one\n\ndata: [DONE]\n\nevent: error\r\n\r\ntwo";
  const messages = [{ role: "user", content }];
  const answer = await fetch(`${gateway.http}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${gc}` },
    body: JSON.stringify({ model: "demo/fast", messages, stream: true }),
  });
  const lines = (await answer.text()).split(/\r\n|\n|\r/).filter((line) => line !== "");
  for (const line of lines) expect(line).toMatch(/^data: (\{.*\}|\[DONE\])$|^:/);
  expect(lines.filter((line) => line === "data: [DONE]")).toHaveLength(1);
});

test("unknown, mistyped, disabled and expired keys are told the same", async () => {
  const child = await gateway.aChild(owner.token, gm.id);
  const at = `/api/management/keys/${gm.id}/children/${child.id}`;
  await gateway.done(`PATCH ${at}`, { bearer: owner.token, body: { status: "disabled" } });
  const expired = await gateway.aChild(owner.token, gm.id);
  await gateway.sql`update child_key set expires_at = now() - interval '1 day' where id = ${expired.id}`;
  const secrets = [child.secret, expired.secret, newSecret("child"), "gc-nothing", `${gc}x`];
  const told = new Set<string>();
  for (const bearer of secrets) {
    const { status, json, headers } = await gateway.rest("GET /v1/models", { bearer });
    told.add(JSON.stringify([status, json, [...headers.keys()].sort()]));
  }
  expect([...told]).toHaveLength(1);
});

test("an unknown e-mail takes as long to refuse as a wrong password", async () => {
  const timed = async (email: string) => {
    const start = performance.now();
    const body = { email, password: `${PASSWORD}!` };
    const { status } = await gateway.rest("POST /api/auth/login", { body });
    expect(status).toBe(401);
    return performance.now() - start;
  };
  const known: number[] = [];
  const unknown: number[] = [];
  await timed("warm@example.com");
  for (let i = 0; i < 9; i++) {
    known.push(await timed("owner@example.com"));
    unknown.push(await timed("nobody@example.com"));
  }
  const median = (list: number[]) => [...list].sort((a, b) => a - b)[4] ?? 0;
  const ratio = median(known) / median(unknown);
  expect(ratio).toBeGreaterThan(0.5);
  expect(ratio).toBeLessThan(2);
});

test("an answer with a secret is kept by no cache and taken for nothing but JSON", async () => {
  const made = await gateway.rest("POST /api/management/keys", {
    ...{ bearer: owner.token, body: { name: "x" } },
  });
  expect(made.status).toBe(201);
  expect(made.headers.get("cache-control")).toBe("no-store");
  expect(made.headers.get("x-content-type-options")).toBe("nosniff");
  const admin = await gateway.rest("GET /api/admin/accounts", { bearer: ADMIN });
  expect(admin.headers.get("cache-control")).toBe("no-store");
});
