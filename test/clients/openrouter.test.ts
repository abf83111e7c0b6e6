import { OpenRouter } from "@openrouter/sdk";
import {
  ForbiddenResponseError,
  NotFoundResponseError,
  OpenRouterError,
  PaymentRequiredResponseError,
  TooManyRequestsResponseError,
  UnauthorizedResponseError,
} from "@openrouter/sdk/models/errors";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type ClientWorld, printRow, startClientWorld } from "./world.js";

const CHAT = "POST /api/v1/chat/completions";
const messages = [{ role: "user" as const, content: "hi" }];
const TOOL = {
  type: "function" as const,
  function: {
    name: "weather",
    description: "Tells the weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

let world: ClientWorld;
const cells: Record<string, string> = {};
beforeAll(async () => {
  world = await startClientWorld();
});
afterAll(async () => {
  printRow("@openrouter/sdk", cells);
  await world?.close();
});

const clientOf = (apiKey: string, more: object = {}) =>
  new OpenRouter({ apiKey, serverURL: `${world.url}/api/v1`, ...more });
const manager = () => clientOf(world.gateway.managementSecret);
const child = () => clientOf(world.secrets.good);

type ChatRequest = Parameters<OpenRouter["chat"]["send"]>[0]["chatRequest"];

async function ask(client: OpenRouter, request: Partial<ChatRequest> = {}, options = {}) {
  const chatRequest = { model: "demo/fast", messages, ...request, stream: false };
  const answer = await client.chat.send({ chatRequest }, options);
  if (!("choices" in answer)) throw new Error("a stream");
  return answer;
}

async function stream(client: OpenRouter, request: Partial<ChatRequest> = {}, options = {}) {
  const chatRequest = { model: "demo/fast", messages, ...request, stream: true };
  const events = await client.chat.send({ chatRequest }, options);
  if ("choices" in events) throw new Error("no stream");
  return events;
}

async function errorOf(call: Promise<unknown>): Promise<OpenRouterError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof OpenRouterError)) throw new Error(`no OpenRouterError: ${error}`);
  return error;
}

describe("@openrouter/sdk with a gm- key", () => {
  test("creates, reads, lists, changes and deletes keys", async () => {
    const { apiKeys } = manager();
    const expiresAt = new Date("2099-01-01T00:00:00.000Z");
    const made = await apiKeys.create({
      requestBody: { name: "Client B", limit: 0.25, limitReset: "daily", expiresAt },
    });
    expect(made.key).toMatch(/^gc-/);
    const { data } = made;
    expect(data).toMatchObject({ name: "Client B", limit: 0.25, limitReset: "daily", expiresAt });
    expect(data).toMatchObject({ usage: 0, usageWeekly: 0, limitRemaining: 0.25, disabled: false });

    const { hash } = data;
    expect((await apiKeys.get({ hash })).data).toEqual(data);
    expect((await apiKeys.list()).data.find((key) => key.hash === hash)).toEqual(data);

    const requestBody = { name: "Client C", limit: 1.5, limitReset: "monthly" as const };
    const changed = (await apiKeys.update({ hash, requestBody })).data;
    expect(changed).toMatchObject({ hash, ...requestBody, limitRemaining: 1.5, expiresAt });

    expect(await apiKeys.delete({ hash })).toEqual({ deleted: true });
    expect(await errorOf(apiKeys.get({ hash }))).toBeInstanceOf(NotFoundResponseError);
    expect((await apiKeys.list({ includeDisabled: true })).data).not.toContainEqual(
      expect.objectContaining({ hash }),
    );
    cells["keys: create, list, get, update, delete"] = "ok";
  });

  test("makes a key whose total limit ends in a 402, and disables and enables it", async () => {
    const { apiKeys } = manager();
    const made = await apiKeys.create({ requestBody: { name: "Small", limit: 0.000_001 } });
    const { hash } = made.data;
    expect(made.data.limitReset).toBeNull();
    const small = clientOf(made.key);
    expect(await errorOf(ask(small))).toBeInstanceOf(PaymentRequiredResponseError);

    await apiKeys.update({ hash, requestBody: { limit: null, disabled: true } });
    expect(await errorOf(ask(small))).toBeInstanceOf(UnauthorizedResponseError);
    const listed = async (includeDisabled: boolean) =>
      (await apiKeys.list({ includeDisabled })).data.some((key) => key.hash === hash);
    expect([await listed(false), await listed(true)]).toEqual([false, true]);

    const { data } = await apiKeys.update({ hash, requestBody: { disabled: false } });
    expect(data).toMatchObject({ disabled: false, limit: null, limitRemaining: null });
    const { usage } = await ask(small);
    const after = (await apiKeys.get({ hash })).data;
    expect(after.usage).toBe(usage?.cost);
    expect([after.usageDaily, after.usageWeekly, after.usageMonthly]).toEqual(
      Array(3).fill(usage?.cost),
    );
    cells["keys: limit, disable, enable"] = "ok";
  });

  test("reads its own metadata and its credits, whose difference is what is left", async () => {
    const client = manager();
    const { data } = await client.apiKeys.getCurrentKeyMetadata();
    expect(data).toMatchObject({ isManagementKey: true, limit: null, usage: 0 });
    const { totalCredits, totalUsage } = (await client.credits.getCredits()).data;
    expect(totalCredits).toBe(0.1);
    const [account] = await world.gateway.sql<{ left: bigint }[]>`
      select posted - accrued - held as left from account where id = ${world.gateway.account}`;
    expect(Math.round((totalCredits - totalUsage) * 1e9)).toBe(Number(account?.left));
    cells.credits = "ok";
  });

  test("can neither infer, nor be a gc- key where keys are managed", async () => {
    expect(await errorOf(ask(manager()))).toBeInstanceOf(ForbiddenResponseError);
    const create = child().apiKeys.create({ requestBody: { name: "Mine" } });
    expect(await errorOf(create)).toBeInstanceOf(ForbiddenResponseError);
    expect((await errorOf(child().apiKeys.list())).statusCode).toBe(403);
  });
});

describe("@openrouter/sdk with a gc- key", () => {
  test("lists the models with their prices", async () => {
    const pages = await child().models.list();
    const models = [];
    for await (const page of pages) models.push(...page.result.data);
    const fast = models.find(({ id }) => id === "demo/fast");
    expect(fast).toMatchObject({
      topProvider: { maxCompletionTokens: 8_192 },
      pricing: { prompt: "0.000000015000001", completion: "0.000000030000003" },
    });
    cells.models = "ok";
  });

  test("chats, and reads the exact cost", async () => {
    const client = clientOf(world.secrets.good, { httpReferer: "https://a.test", appTitle: "A" });
    const { choices, usage, model } = await ask(client, { maxTokens: 5, user: "someone" });
    expect(choices[0]?.message.content).toMatch(/^This is Keytoll's/);
    expect([model, choices[0]?.finishReason]).toEqual(["demo/fast", "length"]);
    expect(usage).toMatchObject({ promptTokens: 1, completionTokens: 5, totalTokens: 6 });
    const [record] = await world.gateway.sql<{ cost: bigint }[]>`
      select cost from usage_record where child_key_id = ${world.good.id}
       order by usage_seq desc limit 1`;
    expect(Math.round((usage?.cost ?? 0) * 1e9)).toBe(Number(record?.cost));
    cells.chat = "ok";
  });

  test("streams, the usage in the last chunk", async () => {
    const chunks = [];
    for await (const chunk of await stream(child())) chunks.push(chunk);
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    expect(text).toMatch(/read "hi"\.$/);
    expect(chunks.filter(({ usage }) => usage !== undefined)).toEqual([chunks.at(-1)]);
    expect(chunks.at(-1)?.usage).toMatchObject({ promptTokens: 1, completionTokens: 16 });
    cells.stream = "ok";
  });

  test("reads a model's thoughts, streamed or not", async () => {
    const request = { model: "demo/thinking" };
    const { choices } = await ask(child(), request);
    expect(choices[0]?.message.reasoning).toMatch(/answer to it should be short/);
    let thoughts = "";
    for await (const { choices: parts } of await stream(child(), request)) {
      thoughts += parts[0]?.delta.reasoning ?? "";
    }
    expect(thoughts).toBe(choices[0]?.message.reasoning);
    cells.reasoning = "ok";
  });

  test("has its tools called, streamed or not", async () => {
    const request = { tools: [TOOL], toolChoice: "required" as const };
    const { choices } = await ask(child(), request);
    expect(choices[0]?.finishReason).toBe("tool_calls");
    const [call] = choices[0]?.message.toolCalls ?? [];
    expect(call?.function.name).toBe("weather");
    expect(JSON.parse(call?.function.arguments ?? "")).toHaveProperty("city");

    let written = "";
    for await (const chunk of await stream(child(), request)) {
      written += chunk.choices[0]?.delta.toolCalls?.[0]?.function?.arguments ?? "";
    }
    expect(written).toBe(call?.function.arguments);
    cells["tool call"] = "ok";
  });

  test("reads its own limits", async () => {
    const made = await world.gateway.createChild({ limitMonthly: 2_000_000n, rateLimitRpm: 7 });
    const { data } = await clientOf(made.secret).apiKeys.getCurrentKeyMetadata();
    expect(data).toMatchObject({
      limit: 0.002,
      limitRemaining: 0.002,
      limitReset: "monthly",
      isManagementKey: false,
      rateLimit: { requests: 7, interval: "60s" },
    });
    cells["own key"] = "ok";
  });
});

describe("@openrouter/sdk is told the truth of what cannot be", () => {
  test.each([
    ["unknown", UnauthorizedResponseError, "invalid_api_key"],
    ["spent", PaymentRequiredResponseError, "child_key_limit_exceeded"],
    ["poor", PaymentRequiredResponseError, "insufficient_balance"],
  ] as const)("a key that is %s, asking once", async (name, kind, code) => {
    world.proxy.forget();
    const error = await errorOf(ask(clientOf(world.secrets[name])));
    expect(error).toBeInstanceOf(kind);
    expect(JSON.parse(error.body).error).toMatchObject({
      code: error.statusCode,
      metadata: { code },
    });
    expect(world.proxy.statuses(CHAT)).toEqual([error.statusCode]);
    cells[String(error.statusCode)] = "ok, asks once";
  });

  test("too many requests: once by default, and by its retries once the time is over", async () => {
    await ask(clientOf(world.secrets.hurried));
    world.proxy.forget();
    const error = await errorOf(ask(clientOf(world.secrets.hurried)));
    expect(error).toBeInstanceOf(TooManyRequestsResponseError);
    expect(Number(error.headers.get("retry-after"))).toBeGreaterThan(50);
    expect(world.proxy.statuses(CHAT)).toEqual([429]);

    world.proxy.forget();
    const patient = { retryCodes: ["429"], retries: { strategy: "backoff" as const } };
    const { usage } = await ask(child(), { model: "demo/busy-at-first" }, patient);
    expect(usage?.totalTokens).toBeGreaterThan(0);
    expect(world.proxy.statuses(CHAT)).toEqual([429, 200]);
    cells["429"] = "ok, asks once; its own retries wait for Retry-After";
  });

  test("a model that is not there, and a limit by the week", async () => {
    const error = await errorOf(ask(child(), { model: "demo/none" }));
    expect(error).toBeInstanceOf(NotFoundResponseError);
    const requestBody = { name: "Weekly", limit: 1, limitReset: "weekly" as const };
    const refused = await errorOf(manager().apiKeys.create({ requestBody }));
    expect([refused.statusCode, refused.message]).toEqual([
      400,
      expect.stringMatching(/^limit_reset: "weekly" is not supported/),
    ]);
  });

  test("a stream that breaks ends in a chunk that says so", async () => {
    const chunks = [];
    for await (const chunk of await stream(child(), { model: "demo/cut" })) chunks.push(chunk);
    expect(chunks.at(-1)).toMatchObject({
      error: { code: 503, metadata: { errorType: "provider_unavailable" } },
      choices: [{ finishReason: "error" }],
    });
    expect(chunks.length).toBeGreaterThan(2);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
    expect(new Set(chunks.map(({ model }) => model))).toEqual(new Set(["demo/cut"]));
    cells["broken stream"] = "ok";
  });

  test("a stream that it leaves in the middle is paid for as far as it came", async () => {
    const made = await world.gateway.createChild();
    const abort = new AbortController();
    const options = { fetchOptions: { signal: abort.signal } };
    const chunks = await stream(clientOf(made.secret), { model: "demo/slow" }, options);
    const reading = (async () => {
      for await (const chunk of chunks) {
        if (chunk.choices[0]?.delta.content === " is") abort.abort();
      }
    })();
    await expect(reading).rejects.toThrow();
    await vi.waitFor(async () => {
      const records = await world.gateway.sql<{ output_tokens: bigint }[]>`
        select output_tokens from usage_record where child_key_id = ${made.id}`;
      expect(records).toHaveLength(1);
      expect(Number(records[0]?.output_tokens)).toBeLessThan(16);
    });
    cells["abort in mid-stream"] = "ok";
  });

  test("afterwards every invariant of the books holds", async () => {
    await world.expectBooks();
    cells.books = "ok";
  });
});
