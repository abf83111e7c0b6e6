import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { inRest, outcomeOfRest } from "./wires.js";
import { buildWorld, digestOf, type World } from "./world.js";

let world: World;
let before: Record<string, string>;
beforeAll(async () => {
  world = await buildWorld();
  before = await digestOf(world.sql);
});
afterAll(() => world?.close());
afterEach(async () => expect(await digestOf(world.sql)).toEqual(before));

type Secret = (w: World) => string;

const active: Secret = (w) => w.credentials.gc;
const messages = [{ role: "user", content: "hi" }];
const good = { model: "demo/fast", messages };
const INVALID = "invalid_request_error";

const ask = (route: string, of: Secret, body?: unknown) =>
  world.gateway.rest(route, { bearer: of(world), ...(body !== undefined && { body }) });

const bodies: [what: string, body: unknown, param: string | undefined][] = [
  ["no body", undefined, undefined],
  ["malformed JSON", '{"model":', undefined],
  ["a list", "[]", undefined],
  ["null", "null", undefined],
  ["no model", { messages }, "model"],
  ["a model that is a number", { ...good, model: 5 }, "model"],
  ["no messages", { model: "demo/fast" }, "messages"],
  ["an empty conversation", { ...good, messages: [] }, "messages"],
  ["a conversation as text", { ...good, messages: "hi" }, "messages"],
  ["a message as text", { ...good, messages: ["hi"] }, "messages[0]"],
  ["a content that is a number", { ...good, messages: [{ content: 5 }] }, "messages[0].content"],
  [
    "an image that is nowhere",
    { ...good, messages: [{ content: [{ type: "image_url", image_url: { url: "x" } }] }] },
    "messages[0].content[0].image_url.url",
  ],
  ["sound", { ...good, messages: [{ role: "user", audio: {} }] }, "messages[0].audio"],
  ["no tokens", { ...good, max_tokens: 0 }, "max_tokens"],
  ["fewer than no tokens", { ...good, max_tokens: -1 }, "max_tokens"],
  ["half a token", { ...good, max_tokens: 0.5 }, "max_tokens"],
  ["tokens as text", { ...good, max_tokens: "5" }, "max_tokens"],
  ["more tokens than a number is exact for", { ...good, max_tokens: 2 ** 53 }, "max_tokens"],
  ["two lengths", { ...good, max_tokens: 5, max_completion_tokens: 6 }, "max_tokens"],
  ["no answers", { ...good, n: 0 }, "n"],
  ["too many answers", { ...good, n: 6 }, "n"],
  ["streaming as text", { ...good, stream: "yes" }, "stream"],
  ["options of no stream", { ...good, stream_options: {} }, "stream_options"],
  [
    "unknown options of a stream",
    { ...good, stream: true, stream_options: { colour: 1 } },
    "stream_options.colour",
  ],
  ["tools as an object", { ...good, tools: {} }, "tools"],
  ["a tool of another kind", { ...good, tools: [{ type: "web_search" }] }, "tools[0]"],
  ...["best_of", "audio", "prediction", "web_search_options", "service_tier", "plugins"].map(
    (name): [string, unknown, string] => [name, { ...good, [name]: "x" }, name],
  ),
];

describe.each(["/v1", "/api/v1"])("POST %s/chat/completions refuses by name", (root) => {
  const route = `POST ${root}/chat/completions`;

  test.each(bodies)("%s", async (_what, body, param) => {
    const outcome = outcomeOfRest(await ask(route, active, body));
    expect(outcome).toEqual(inRest(INVALID, param));
  });

  test("a body over 10 MiB", async () => {
    const body = { ...good, user: "x".repeat(10 * 1024 * 1024) };
    expect(outcomeOfRest(await ask(route, active, body))).toEqual(inRest("request_too_large"));
  });

  const spent: [string, Secret, object, string][] = [
    ["an unknown model", active, { ...good, model: "demo/none" }, "model_not_found"],
    ["a model without an upstream's name", active, { ...good, model: "" }, INVALID],
    [
      "a model off the list",
      (w) => w.children.listed.secret,
      { ...good, model: "demo/slow" },
      "model_not_found",
    ],
    ["a limit of nothing", (w) => w.children.poor.secret, good, "child_key_limit_exceeded"],
    [
      "a cost that no int64 holds",
      (w) => w.children.listed.secret,
      { ...good, max_tokens: 2 ** 53 - 1 },
      "insufficient_balance",
    ],
  ];
  test.each(spent)("%s, streamed or not", async (_what, of, body, reason) => {
    for (const stream of [false, true]) {
      const { status, json, headers } = await ask(route, of, { ...body, stream });
      expect(outcomeOfRest({ status, json, headers })).toMatchObject({
        status: inRest(reason).status,
        reason,
      });
      expect(headers.get("content-type")).toMatch(/^application\/json/);
    }
  });

  test("a limit that is reached, with what is left of it and no word of the balance", async () => {
    const { json, headers } = await ask(route, (w) => w.children.poor.secret, good);
    const error = json.error as { type: string; metadata?: object };
    const facts = error.metadata ?? error;
    expect(error.type).toBe("child_key_limit");
    expect(facts).toMatchObject({
      code: "child_key_limit_exceeded",
      daily_remaining: "0",
      resets_at: expect.stringMatching(/T00:00:00\.000Z$/),
    });
    expect(facts).not.toHaveProperty("monthly_remaining");
    expect(headers.get("x-should-retry")).toBe("false");
  });
});

test.each(["/v1/models/demo/none", "/v1/models/%00", "/v1/models/%", "/api/v1/models/nothing"])(
  "GET %s is no model",
  async (path) => {
    expect(outcomeOfRest(await ask(`GET ${path}`, active))).toEqual(inRest("model_not_found"));
  },
);

test("x-api-key is a key like any other, and a bearer goes before it", async () => {
  const { gc, gm } = world.credentials;
  const get = (headers: Record<string, string>) =>
    world.gateway.rest("GET /v1/key", { headers }).then(({ status }) => status);
  expect(await get({ "x-api-key": gc })).toBe(200);
  expect(await get({ "x-api-key": gm })).toBe(403);
  expect(await get({ "x-api-key": "gc-x" })).toBe(401);
  expect(await get({ "x-api-key": gc, authorization: "Bearer gc-x" })).toBe(401);
});
