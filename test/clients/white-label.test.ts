import { afterAll, beforeAll, expect, test } from "vitest";
import { DEMO_MODELS } from "../../src/inference/demo-models.js";
import { type LiveGateway, startLiveGateway, UPSTREAM_KEY } from "../support/live-gateway.js";

let gateway: LiveGateway;
let rich: string;
let poor: string;
let broke: string;
let picky: string;

beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
  const owner = await gateway.anOwner("owner@example.com", "1000000000");
  const gm = await gateway.aManagementKey(owner.token);
  ({ secret: rich } = await gateway.aChild(owner.token, gm.id, { limit_daily_ngonka: "90000000" }));
  ({ secret: poor } = await gateway.aChild(owner.token, gm.id, { limit_daily_ngonka: "10" }));
  const limits = { models: ["demo/fast"], rate_limit_rpm: 1 };
  ({ secret: picky } = await gateway.aChild(owner.token, gm.id, limits));
  const beggar = await gateway.anOwner("beggar@example.com");
  const other = await gateway.aManagementKey(beggar.token);
  ({ secret: broke } = await gateway.aChild(beggar.token, other.id));
});
afterAll(() => gateway?.close());

/**
 * What the demo upstream says of itself, where it is, and the network that a child's client must
 * not learn of.
 */
const tellTale = () =>
  new RegExp(
    [
      new URL(gateway.upstreamUrl).host,
      "keytoll-demo",
      "demo-upstream",
      "demo upstream",
      "demo_upstream",
      "chatcmpl-demo",
      "fp_keytoll",
      "demo-[0-9a-f]{16}",
      UPSTREAM_KEY,
      "gonka",
      "\\bgnk\\b",
    ].join("|"),
    "i",
  );

const SAFE_HEADERS = new Set([
  "connection",
  "content-encoding",
  "content-length",
  "content-type",
  "cache-control",
  "date",
  "keep-alive",
  "retry-after",
  "retry-after-ms",
  "transfer-encoding",
  "x-accel-buffering",
  "x-request-id",
  "x-should-retry",
  "ratelimit",
  "ratelimit-policy",
  "x-ratelimit-limit-requests",
  "x-ratelimit-remaining-requests",
  "x-ratelimit-reset-requests",
  "allow",
]);

async function seen(route: string, bearer: string, body?: object): Promise<string> {
  const [method = "", path = ""] = route.split(" ");
  const answer = await fetch(gateway.http + path, {
    method,
    headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" },
    ...(body && { body: JSON.stringify(body) }),
  });
  const headers = [...answer.headers];
  expect(headers.map(([name]) => name).filter((name) => !SAFE_HEADERS.has(name))).toEqual([]);
  const text = await answer.text();
  return `${route} ${answer.status}\n${headers.join("\n")}\n${text}`;
}

const messages = [{ role: "user", content: "hello" }];
const models = DEMO_MODELS.filter(({ fault }) => fault !== "hang").map(({ id }) => id);

test.each(models)("%s tells nothing of who runs it, in one piece or streamed", async (model) => {
  for (const stream of [false, true]) {
    const body = { model, messages, max_tokens: 20, stream };
    const text = await seen("POST /v1/chat/completions", rich, body);
    expect(text).not.toMatch(tellTale());
    expect(text).toMatch(/200|429|5\d\d|400/);
  }
});

test("lists of models and keys, and every refusal, tell nothing of the network", async () => {
  const chat = { model: "demo/fast", messages };
  const answers = [
    await seen("GET /v1/models", rich),
    await seen("GET /v1/models/demo/fast", rich),
    await seen("GET /v1/key", rich),
    await seen("GET /api/v1/key", poor),
    await seen("POST /v1/chat/completions", poor, chat),
    await seen("POST /v1/chat/completions", broke, chat),
    await seen("POST /v1/chat/completions", picky, { ...chat, model: "demo/slow" }),
    await seen("POST /v1/chat/completions", picky, chat),
    await seen("POST /v1/chat/completions", rich, { ...chat, model: "demo/none" }),
    await seen("POST /v1/chat/completions", rich, { ...chat, max_tokens: -1 }),
    await seen("POST /v1/chat/completions", rich, { ...chat, logit_bias: "x", colour: 1 }),
    await seen("POST /v1/chat/completions", "gc-nothing", chat),
    await seen("GET /v1/chat/completions", rich),
    await seen("POST /api/v1/chat/completions", rich, { ...chat, model: "demo/cut", stream: true }),
    await seen("GET /api/v1/models", rich),
    await seen("POST /api/v1/chat/completions", poor, chat),
    await seen("GET /api/v1/keys", rich),
    await seen("GET /v1/nothing", rich),
    await seen("GET /api/account", rich),
    await seen("GET /api/management/keys", rich),
    await seen("GET /api/admin/models", rich),
  ];
  for (const answer of answers) expect(answer).not.toMatch(tellTale());
  const statuses = answers.map((answer) => /^\S+ \S+ (\d+)/.exec(answer)?.[1]);
  expect(statuses.slice(0, 5)).toEqual(["200", "200", "200", "200", "402"]);
  expect(statuses[5]).toBe("402");
  expect(statuses.slice(6, 8).toSorted()).toEqual(["404", "429"]);
});

test("RPC tells a child's client nothing of the network either", async () => {
  const asked = [
    ["ListModels", {}],
    ["CreateChatCompletion", { model: "demo/fast", messages }],
    ["CreateChatCompletion", { model: "demo/error-500", messages }],
    ["CreateChatCompletion", { model: "demo/error-400", messages }],
    ["CreateChatCompletion", { model: "demo/none", messages }],
  ] as const;
  for (const [method, body] of asked) {
    const text = await seen(`POST /keytoll.v1.InferenceService/${method}`, rich, body);
    expect(Buffer.from(text).toString()).not.toMatch(tellTale());
    for (const [, value = ""] of text.matchAll(/"value":"([^"]+)"/g)) {
      expect(Buffer.from(value, "base64").toString()).not.toMatch(tellTale());
    }
  }
});
