import { request as httpRequest } from "node:http";
import { fromBinary } from "@bufbuild/protobuf";
import { credentials, Client as Grpc } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { openRedis } from "../src/db/redis.js";
import { RetryInfoSchema, StatusSchema } from "../src/gen/google/rpc/errors_pb.js";
import { newSecret } from "../src/keys/secret.js";
import { ADMIN, type LiveGateway, startLiveGateway } from "./support/live-gateway.js";
import { redisUrl } from "./support/services.js";

const REDIS = redisUrl();
let gateway: LiveGateway;
let other: Awaited<ReturnType<LiveGateway["startAnother"]>>;
let token: string;
let gm: string;
let account: string;

beforeAll(async () => {
  gateway = await startLiveGateway({
    ...(REDIS && { REDIS_URL: REDIS }),
    KEYTOLL_FAILED_AUTH_RPM: "30",
    KEYTOLL_ACCOUNT_CONCURRENCY: "50",
  });
  other = await gateway.startAnother();
  await gateway.priceDemoModels("1000", "1000");
});
afterAll(async () => {
  await other?.close();
  await gateway?.close();
});

let owners = 0;
async function anAccount(): Promise<void> {
  const owner = await gateway.anOwner(`limits${++owners}@example.com`, "1000000000");
  ({ token, account } = owner);
  gm = (await gateway.aManagementKey(token)).id;
}
const setLimits = (body: object) =>
  gateway.done(`PUT /api/admin/accounts/${account}/limits`, { bearer: ADMIN, body });

const DOORS: [door: string, body: object][] = [
  ["/v1/chat/completions", { model: "demo/fast", messages: [{ role: "user", content: "hi" }] }],
  [
    "/v1/chat/completions",
    { model: "demo/fast", stream: true, messages: [{ role: "user", content: "hi" }] },
  ],
  ["/api/v1/chat/completions", { model: "demo/fast", messages: [{ role: "user", content: "hi" }] }],
  [
    "/v1/messages",
    { model: "demo/fast", max_tokens: 5, messages: [{ role: "user", content: "hi" }] },
  ],
  [
    "/keytoll.v1.InferenceService/CreateChatCompletion",
    { model: "demo/fast", messages: [{ role: "user", content: "hi" }] },
  ],
];

async function ask(http: string, secret: string, [door, body]: (typeof DOORS)[number]) {
  const answer = await fetch(http + door, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  await answer.text();
  return answer;
}

describe("what the keys of an account may send together", () => {
  // A machine so busy that Redis takes over 100 ms makes each gateway count alone for a second
  test("is set by the operator, and counts over keys, doors and gateways", {
    retry: 3,
  }, async () => {
    await anAccount();
    const secrets = [await gateway.aChild(token, gm), await gateway.aChild(token, gm)];
    const chat = DOORS[0] as (typeof DOORS)[number];
    expect((await ask(gateway.http, secrets[0]?.secret ?? "", chat)).status).toBe(200);
    expect(await setLimits({ rate_limit_rpm: 6 })).toEqual({
      account_id: account,
      rate_limit_rpm: 6,
      concurrency: null,
    });
    const statuses: number[] = [];
    let refused: Response | undefined;
    for (let i = 0; i < 10; i++) {
      const at = REDIS && i % 2 === 1 ? other.http : gateway.http;
      const answer = await ask(at, secrets[i % 2]?.secret ?? "", DOORS[i % 4] ?? chat);
      statuses.push(answer.status);
      if (answer.status === 429) refused = answer;
    }
    expect(statuses).toEqual([200, 200, 200, 200, 200, 200, 429, 429, 429, 429]);
    const wait = Number(refused?.headers.get("retry-after"));
    expect(wait).toBeGreaterThan(40);
    expect(wait).toBeLessThanOrEqual(61);
    // What the account may is its owner's business, not a client's
    expect(refused?.headers.get("x-ratelimit-limit-requests")).toBeNull();

    expect(await setLimits({ rate_limit_rpm: 0 })).toMatchObject({ rate_limit_rpm: 0 });
    await vi.waitFor(async () => {
      expect((await ask(gateway.http, secrets[0]?.secret ?? "", chat)).status).toBe(200);
    });
    const got = await gateway.done(`GET /api/admin/accounts/${account}/limits`, { bearer: ADMIN });
    expect(got).toMatchObject({ rate_limit_rpm: 0, concurrency: null });
  });

  test.each([
    ["rate_limit_rpm", -1],
    ["rate_limit_rpm", 1_000_001],
    ["concurrency", 100_001],
    ["concurrency", "5"],
    ["requests", 5],
  ])("%s cannot be %s", async (param, value) => {
    const route = `PUT /api/admin/accounts/${account}/limits`;
    const { status, json } = await gateway.rest(route, { bearer: ADMIN, body: { [param]: value } });
    expect([status, json.error]).toEqual([400, expect.objectContaining({ param })]);
  });

  test.each(DOORS)("a slot is free again when its request has ended: %s %j", async (...door) => {
    await anAccount();
    await setLimits({ concurrency: 1 });
    const { secret } = await gateway.aChild(token, gm);
    for (let i = 0; i < 4; i++) {
      expect((await ask(gateway.http, secret, door)).status).toBe(200);
    }
    // Refused after it was admitted: its slot too
    const broken = await ask(gateway.http, secret, [door[0], { model: 5 }]);
    expect(broken.status).toBe(400);
    expect((await ask(gateway.http, secret, door)).status).toBe(200);
  });

  test("a caller who hangs up gives its slot back", async () => {
    await anAccount();
    await setLimits({ concurrency: 1 });
    const { secret } = await gateway.aChild(token, gm);
    const messages = [{ role: "user", content: "hi" }];
    const body = JSON.stringify({ model: "demo/slow", stream: true, messages });
    const headers = { authorization: `Bearer ${secret}` };
    const request = httpRequest(`${gateway.http}/v1/chat/completions`, { method: "POST", headers });
    request.on("error", () => {});
    await new Promise((resolve) => request.on("response", resolve).end(body));
    const chat = DOORS[0] as (typeof DOORS)[number];
    const refused = await ask(gateway.http, secret, chat);
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "1"]);
    expect(refused.headers.get("x-should-retry")).toBe("true");
    request.destroy();
    await vi.waitFor(async () => expect((await ask(gateway.http, secret, chat)).status).toBe(200), {
      timeout: 5_000,
      interval: 50,
    });
  });
});

describe("what is left to a key", () => {
  test("stands in the headers of the IETF's draft and of each dialect", async () => {
    await anAccount();
    const { secret } = await gateway.aChild(token, gm, { rate_limit_rpm: 2 });
    const first = await ask(gateway.http, secret, DOORS[0] as (typeof DOORS)[number]);
    expect(first.headers.get("ratelimit-policy")).toBe('"requests";q=2;w=60');
    expect(first.headers.get("ratelimit")).toMatch(/^"requests";r=1;t=(60|59)$/);
    expect(first.headers.get("x-ratelimit-remaining-requests")).toBe("1");
    const second = await ask(gateway.http, secret, DOORS[3] as (typeof DOORS)[number]);
    expect(second.headers.get("anthropic-ratelimit-requests-limit")).toBe("2");
    expect(second.headers.get("anthropic-ratelimit-requests-remaining")).toBe("0");
    const reset = Date.parse(second.headers.get("anthropic-ratelimit-requests-reset") ?? "");
    expect(reset).toBeGreaterThan(Date.now() + 40_000);
    expect(reset).toBeLessThan(Date.now() + 61_000);
  });

  test("is told by RPC as RESOURCE_EXHAUSTED with RetryInfo, from the same count", async () => {
    await anAccount();
    const { secret } = await gateway.aChild(token, gm, { rate_limit_rpm: 1 });
    await ask(gateway.http, secret, DOORS[0] as (typeof DOORS)[number]);
    const refused = await ask(gateway.http, secret, DOORS[4] as (typeof DOORS)[number]);
    expect(refused.status).toBe(429);
    const client = new Grpc(gateway.grpc, credentials.createInsecure());
    const { Metadata } = await import("@grpc/grpc-js");
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${secret}`);
    const path = "/keytoll.v1.InferenceService/CreateChatCompletion";
    const asIs = (bytes: Buffer) => bytes;
    const error = await new Promise<{ code: number; metadata: typeof metadata } | null>((resolve) =>
      client.makeUnaryRequest(path, asIs, asIs, Buffer.alloc(0), metadata, (it) => resolve(it)),
    );
    client.close();
    expect(error?.code).toBe(8);
    const [bytes] = error?.metadata.get("grpc-status-details-bin") ?? [];
    const { details } = fromBinary(StatusSchema, bytes as Buffer);
    const retry = details.find(({ typeUrl }) => typeUrl.endsWith("google.rpc.RetryInfo"));
    const { retryDelay } = fromBinary(RetryInfoSchema, retry?.value ?? new Uint8Array());
    expect(Number(retryDelay?.seconds)).toBeGreaterThan(40);
  });
});

describe("failed sign-ins", () => {
  /** Each test comes from an address of its own. */
  const from = (localAddress: string, secret: string, path = "/v1/models") =>
    new Promise<{ status: number; wait: string | undefined; retry: string | undefined }>(
      (resolve, reject) => {
        const headers = {
          authorization: `Bearer ${secret}`,
          "x-forwarded-for": `${Math.random()}`,
        };
        httpRequest(`${gateway.http}${path}`, { localAddress, headers, agent: false }, (answer) => {
          answer.resume();
          const { "retry-after": wait, "x-should-retry": retry } = answer.headers;
          resolve({ status: answer.statusCode ?? 0, wait, retry: retry as string | undefined });
        })
          .on("error", reject)
          .end();
      },
    );

  test("beyond 30 a minute from one address are refused; the right keys behind it never are", async () => {
    await anAccount();
    const { secret } = await gateway.aChild(token, gm);
    const tries: number[] = [];
    for (let i = 0; i < 40; i++) {
      const path = ["/v1/models", "/api/account", "/v1/key", "/api/v1/keys"][i % 4];
      tries.push((await from("127.0.0.9", newSecret("child"), path)).status);
    }
    expect(tries).toEqual([...Array(30).fill(401), ...Array(10).fill(429)]);
    const refused = await from("127.0.0.9", "gc-nothing");
    expect(refused).toMatchObject({ status: 429, retry: "false" });
    expect(Number(refused.wait)).toBeLessThanOrEqual(61);
    // Never used before, so no cache knows it
    expect((await from("127.0.0.9", secret)).status).toBe(200);
    expect((await from("127.0.0.10", "gc-nothing")).status).toBe(401);
    const metrics = await (await fetch(`${gateway.http}/metrics`)).text();
    expect(metrics).toMatch(/keytoll_rate_limit_refusals_total\{limit="failed_auth"\} 11/);
    expect(metrics).toMatch(/^keytoll_rate_limit_alone [01]/m);
  });

  test("cost nothing to whoever signs in: no request of a right key asks Redis", async () => {
    if (!REDIS) return;
    const redis = openRedis(REDIS);
    await vi.waitFor(() => redis.ping());
    await redis.flushdb();
    await anAccount();
    const { secret } = await gateway.aChild(token, gm);
    for (let i = 0; i < 3; i++) expect((await from("127.0.0.11", secret)).status).toBe(200);
    expect(await redis.dbsize()).toBe(0);
    redis.disconnect();
  });
});
