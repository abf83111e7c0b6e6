import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import OpenAI, { APIError } from "openai";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";

const HI = [{ role: "user" as const, content: "hi" }];
/** Words of the demo upstream that must never leave the gateway; its own answers' text aside. */
const UPSTREAM_WORDS =
  /upstream-key|keytoll|fp_|chatcmpl-demo|demo_upstream|dislikes|too busy|has failed/i;

let gateway: TestGateway;
beforeAll(async () => {
  gateway = await startTestGateway();
});
afterAll(() => gateway.close());

const clientOf = (secret: string, url = gateway.url) =>
  new OpenAI({ apiKey: secret, baseURL: `${url}/v1`, maxRetries: 0 });

const post = (secret: string, body: unknown, path = "/v1/chat/completions") =>
  fetch(gateway.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

interface Records {
  open: number;
  usage: { cost: bigint; input_tokens: bigint; output_tokens: bigint; estimated: boolean }[];
}

/** What stands in the books for a child key. */
async function recordsOf(child: string, { sql }: TestGateway = gateway): Promise<Records> {
  const [open] = await sql<{ n: number }[]>`
    select count(*)::int n from open_hold where child_key_id = ${child}`;
  const usage = await sql<Records["usage"]>`
    select cost, input_tokens, output_tokens, estimated from usage_record
     where child_key_id = ${child} order by usage_seq`;
  return { open: open?.n ?? 0, usage: [...usage] };
}

const costOf = (input: number, output: number) =>
  priceOf(DEMO_PRICE, BigInt(input), BigInt(output)).toString();

async function errorOf(call: Promise<unknown>): Promise<APIError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof APIError)) throw new Error(`no APIError: ${error}`);
  return error;
}

describe("an answer in one piece", () => {
  test("costs exactly what it says, and the books say the same", async () => {
    const { id, secret } = await gateway.createChild();
    const { data, response } = await clientOf(secret)
      .chat.completions.create({ model: "demo/fast", messages: HI, max_tokens: 5, n: 2 })
      .withResponse();
    expect(data.choices.map((choice) => choice.finish_reason)).toEqual(["length", "length"]);
    expect(data.model).toBe("demo/fast");
    expect(data.usage).toEqual({
      prompt_tokens: 1,
      completion_tokens: 10,
      total_tokens: 11,
      cost: Number(costOf(1, 10)) / 1e9,
      cost_units: costOf(1, 10),
    });
    expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(await recordsOf(id)).toEqual({
      open: 0,
      usage: [
        { cost: BigInt(costOf(1, 10)), input_tokens: 1n, output_tokens: 10n, estimated: false },
      ],
    });
  });

  test("is charged by our count where the upstream reports none", async () => {
    const { id, secret } = await gateway.createChild();
    const { usage } = await clientOf(secret).chat.completions.create({
      model: "demo/no-usage",
      messages: HI,
    });
    expect(usage).toMatchObject({ estimated: true });
    const { usage: records } = await recordsOf(id);
    expect(records).toHaveLength(1);
    expect(records[0]).toMatchObject({ estimated: true, output_tokens: 22n });
  });

  test("whose caller hangs up before it is there is voided", async () => {
    const { id, secret } = await gateway.createChild();
    const abort = new AbortController();
    const call = clientOf(secret).chat.completions.create(
      { model: "demo/slow", messages: HI },
      { signal: abort.signal },
    );
    call.catch(() => {});
    await vi.waitFor(async () => expect((await recordsOf(id)).open).toBe(1));
    abort.abort();
    await expect(call).rejects.toThrow();
    await vi.waitFor(async () => expect(await recordsOf(id)).toEqual({ open: 0, usage: [] }));
  });
});

describe("a stream", () => {
  test("brings every text, and its exact cost to a caller who asks for usage", async () => {
    const { id, secret } = await gateway.createChild();
    const stream = await clientOf(secret).chat.completions.create({
      model: "demo/fast",
      messages: HI,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let last: OpenAI.Chat.ChatCompletionChunk | undefined;
    const ids = new Set<string>();
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      ids.add(`${chunk.id} ${chunk.model}`);
      last = chunk;
    }
    expect(text).toBe(
      'This is Keytoll\'s demo model: it thinks nothing, costs like a real one, and read "hi".',
    );
    expect(ids.size).toBe(1);
    const { usage } = await recordsOf(id);
    expect(last).toMatchObject({
      choices: [],
      usage: { prompt_tokens: 1, completion_tokens: 16, cost_units: costOf(1, 16) },
    });
    expect(usage.map((record) => record.cost.toString())).toEqual([costOf(1, 16)]);
  });

  test("shows no usage to a caller who did not ask, and is paid all the same before it ends", async () => {
    const { id, secret } = await gateway.createChild();
    const answer = await post(secret, { model: "demo/fast", messages: HI, stream: true });
    const events = await answer.text();
    expect(events).not.toContain("usage");
    expect(events.endsWith("data: [DONE]\n\n")).toBe(true);
    expect((await recordsOf(id)).usage).toHaveLength(1);
  });

  test("that is left half-way cuts the upstream and is charged for what was produced", async () => {
    const { id, secret } = await gateway.createChild();
    const stream = await clientOf(secret).chat.completions.create({
      model: "demo/slow",
      messages: HI,
      stream: true,
    });
    let seen = 0;
    for await (const _ of stream) {
      seen += 1;
      if (seen === 4) break;
    }
    await vi.waitFor(async () => expect((await recordsOf(id)).open).toBe(0));
    const [record] = (await recordsOf(id)).usage;
    expect(record?.estimated).toBe(true);
    expect(Number(record?.output_tokens)).toBeGreaterThanOrEqual(4);
    expect(Number(record?.output_tokens)).toBeLessThan(12);
  });

  test("that the upstream cuts ends with an error event and is charged for what was produced", async () => {
    const { id, secret } = await gateway.createChild();
    const stream = await clientOf(secret).chat.completions.create({
      model: "demo/cut",
      messages: HI,
      stream: true,
    });
    const read = (async () => {
      for await (const _ of stream);
    })();
    const error = await errorOf(read);
    expect(error.code).toBe("model_unavailable");
    const { open, usage } = await recordsOf(id);
    expect(open).toBe(0);
    expect(usage).toMatchObject([{ estimated: true }]);
  });
});

describe("a refusal", () => {
  const upstreamFaults = [
    ["demo/error-429", 429, "upstream_rate_limited"],
    ["demo/error-500", 503, "model_unavailable"],
    ["demo/error-400", 400, "invalid_request_error"],
  ] as const;
  for (const [model, status, code] of upstreamFaults) {
    for (const stream of [false, true]) {
      test(`of ${model} ${stream ? "as a stream " : ""}costs nothing and names nobody`, async () => {
        const { id, secret } = await gateway.createChild();
        const answer = await post(secret, { model, messages: HI, stream });
        const text = await answer.text();
        expect(answer.status).toBe(status);
        expect(JSON.parse(text).error.code).toBe(code);
        expect(text + JSON.stringify([...answer.headers])).not.toMatch(UPSTREAM_WORDS);
        if (status === 429) {
          expect(answer.headers.get("retry-after")).toBe("2");
          expect(answer.headers.get("retry-after-ms")).toBe("2000");
        }
        expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
      });
    }
  }

  test("for a spend limit is a 402 with what remains", async () => {
    const { secret } = await gateway.createChild({ limitDaily: 0n, limitMonthly: 500_000_000n });
    const create = clientOf(secret).chat.completions.create({ model: "demo/fast", messages: HI });
    const error = await errorOf(create);
    expect(error.status).toBe(402);
    expect(error.error).toMatchObject({
      type: "child_key_limit",
      code: "child_key_limit_exceeded",
      daily_remaining: "0",
      monthly_remaining: "500000000",
      resets_at: expect.stringMatching(/T00:00:00/),
    });
    expect(error.headers?.get("x-should-retry")).toBe("false");
  });

  test("for the owner's balance tells no amount", async () => {
    const { secret } = await gateway.createChild();
    const answer = await post(secret, {
      model: "demo/fast",
      messages: [{ role: "user", content: "x".repeat(8 * 1024 * 1024) }],
    });
    expect(answer.status).toBe(402);
    const { error } = (await answer.json()) as { error: Record<string, string> };
    expect(error.code).toBe("insufficient_balance");
    expect(Object.keys(error).sort()).toEqual(["code", "message", "type"]);
  });

  test("for too many requests a minute is a 429 that says when", async () => {
    const { secret } = await gateway.createChild({ rateLimitRpm: 1 });
    const body = { model: "demo/fast", messages: HI };
    const first = await post(secret, body);
    expect(first.headers.get("x-ratelimit-remaining-requests")).toBe("0");
    const second = await post(secret, body);
    expect(second.status).toBe(429);
    expect(await second.json()).toMatchObject({ error: { code: "rate_limit_exceeded" } });
    const seconds = Number(second.headers.get("retry-after"));
    expect(seconds).toBeGreaterThan(50);
    const exact = Number(second.headers.get("retry-after-ms"));
    expect(exact).toBeGreaterThan((seconds - 2) * 1_000);
    expect(exact).toBeLessThan(60_000);
    expect(second.headers.get("x-ratelimit-limit-requests")).toBe("1");
  });

  test("for whoever may not infer is a 401 or a 403, without a hint", async () => {
    const body = { model: "demo/fast", messages: HI };
    const { secret } = await gateway.createChild();
    const wrong = `${secret.slice(0, -1)}${secret.endsWith("a") ? "b" : "a"}`;
    for (const bad of ["gc-nothing", wrong, ""]) {
      const answer = await post(bad, body);
      expect(answer.status).toBe(401);
      expect(await answer.json()).toMatchObject({ error: { code: "invalid_api_key" } });
    }
    expect((await post(gateway.managementSecret, body)).status).toBe(403);
    const byHeader = await fetch(`${gateway.url}/v1/models`, { headers: { "x-api-key": secret } });
    expect(byHeader.status).toBe(200);
  });

  test("for a model that is not there, or not on the key's list, is a 404", async () => {
    const { id, secret } = await gateway.createChild({ models: ["demo/slow"] });
    for (const model of ["demo/fast", "no/such-model"]) {
      const error = await errorOf(
        clientOf(secret).chat.completions.create({ model, messages: HI }),
      );
      expect(error).toMatchObject({ status: 404, code: "model_not_found" });
    }
    expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
  });

  test("for a bad body names the parameter and changes nothing", async () => {
    const { id, secret } = await gateway.createChild();
    const image = { type: "image_url", image_url: { url: "http://x" } };
    const cases: [unknown, number, string | undefined][] = [
      ["{", 400, undefined],
      ["[]", 400, undefined],
      ['{"a":'.repeat(100_000), 400, undefined],
      [{ model: "demo/fast" }, 400, "messages"],
      [{ model: "demo/fast", messages: HI, n: 6 }, 400, "n"],
      [{ model: "demo/fast", messages: HI, max_tokens: 8_193 }, 400, "max_tokens"],
      [{ model: "demo/fast", messages: HI, max_tokens: -1 }, 400, "max_tokens"],
      [{ model: "demo/fast", messages: [{ role: "user", content: [image] }] }, 400, "messages"],
      [{ model: "demo/fast", messages: HI, mystery: 1 }, 400, "mystery"],
      [" ".repeat(10 * 1024 * 1024 + 1), 413, undefined],
    ];
    for (const [body, status, param] of cases) {
      const answer = await post(secret, body);
      expect(answer.status).toBe(status);
      const { error } = (await answer.json()) as { error: { param?: string } };
      expect(error.param).toBe(param);
    }
    expect((await fetch(`${gateway.url}/v1/chat/completions`)).status).toBe(405);
    expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
  });
});

test("models are those that the key may use, owned by nobody in particular, at both addresses", async () => {
  const { secret } = await gateway.createChild({ models: ["demo/fast", "demo/slow", "gone"] });
  const client = clientOf(secret);
  const { data } = await client.models.list();
  expect(data.map(({ id, owned_by }) => [id, owned_by])).toEqual([
    ["demo/fast", "system"],
    ["demo/slow", "system"],
  ]);
  expect((await client.models.retrieve("demo/slow")).id).toBe("demo/slow");
  expect((await errorOf(client.models.retrieve("demo/long"))).status).toBe(404);
  const plain = await fetch(`${gateway.url}/api/v1/models/demo/slow`, {
    headers: { authorization: `Bearer ${secret}` },
  });
  expect(plain.status).toBe(200);
});

test("a key sees its own limits and what is left of them", async () => {
  const { secret } = await gateway.createChild({ limitDaily: 1_000_000n, rateLimitRpm: 30 });
  const { usage } = await clientOf(secret).chat.completions.create({
    model: "demo/fast",
    messages: HI,
  });
  const { cost_units } = usage as unknown as { cost_units: string };
  const answer = await fetch(`${gateway.url}/v1/key`, {
    headers: { authorization: `Bearer ${secret}` },
  });
  const body = (await answer.json()) as Record<string, unknown>;
  expect(body).toMatchObject({
    daily_limit: "1000000",
    daily_used: cost_units,
    daily_remaining: (1_000_000n - BigInt(cost_units)).toString(),
    monthly_limit: null,
    monthly_remaining: null,
    rate_limit_rpm: 30,
    status: "active",
  });
  expect(JSON.stringify(body)).not.toMatch(/gonka|gnk/i);
});

describe("an upstream that behaves strangely", () => {
  let behave: (request: IncomingMessage, response: ServerResponse) => void;
  const upstream = createServer((request, response) => behave(request, response));
  let strange: TestGateway;
  beforeAll(async () => {
    upstream.listen(0, "127.0.0.1");
    await once(upstream, "listening");
    const { port } = upstream.address() as AddressInfo;
    strange = await startTestGateway({ upstreamUrl: `http://127.0.0.1:${port}` });
  });
  afterAll(async () => {
    upstream.closeAllConnections();
    upstream.close();
    await strange.close();
  });
  const event = (choices: unknown[], more: object = {}) =>
    `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", created: 1, model: "secret-name", choices, ...more })}\n\n`;
  const text = (content: string) => event([{ index: 0, delta: { content }, finish_reason: null }]);

  test("sees its connection closed at once when the caller of a stream hangs up", async () => {
    const closed = new Promise<void>((resolve) => {
      behave = (_, response) => {
        response.on("close", resolve);
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(text("one") + text("two"));
      };
    });
    const { id, secret } = await strange.createChild();
    const stream = await clientOf(secret, strange.url).chat.completions.create({
      model: "demo/fast",
      messages: HI,
      stream: true,
    });
    for await (const _ of stream) break;
    await closed;
    await vi.waitFor(async () => {
      const { open, usage } = await recordsOf(id, strange);
      expect(open).toBe(0);
      expect(usage).toMatchObject([{ output_tokens: 2n, estimated: true }]);
    });
  });

  test("with garbage in its stream is charged for what came before, and its words stay hidden", async () => {
    behave = (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream", "x-secret-name": "1" });
      response.end(`: secret-name\n\n${text("one")}data: {"secret-name":\n\n`);
    };
    const { id, secret } = await strange.createChild();
    const answer = await fetch(`${strange.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}` },
      body: JSON.stringify({ model: "demo/fast", messages: HI, stream: true }),
    });
    const all = (await answer.text()) + JSON.stringify([...answer.headers]);
    expect(all).toContain('"content":"one"');
    expect(all).toContain('"code":"model_unavailable"');
    expect(all).not.toContain("[DONE]");
    expect(all).not.toContain("secret-name");
    expect((await recordsOf(id, strange)).usage).toMatchObject([{ output_tokens: 1n }]);
  });

  test("whose answer is no chat completion costs nothing", async () => {
    for (const bad of ["{", "{}", '{"choices":[]}', "null"]) {
      behave = (_, response) => void response.end(bad);
      const { id, secret } = await strange.createChild();
      const error = await errorOf(
        clientOf(secret, strange.url).chat.completions.create({ model: "demo/fast", messages: HI }),
      );
      expect(error.status).toBe(503);
      expect(await recordsOf(id, strange)).toEqual({ open: 0, usage: [] });
    }
  });

  test("whose bill is above the hold is paid by the house, never by the customer", async () => {
    behave = (_, response) => {
      const usage = { prompt_tokens: 1_000_000, completion_tokens: 1_000_000 };
      const message = { role: "assistant", content: "a" };
      response.end(JSON.stringify({ id: "x", choices: [{ index: 0, message }], usage }));
    };
    const { id, secret } = await strange.createChild();
    const { usage } = await clientOf(secret, strange.url).chat.completions.create({
      model: "demo/fast",
      messages: HI,
      max_tokens: 1,
    });
    const { cost_units } = usage as unknown as { cost_units: string };
    const [record] = (await recordsOf(id, strange)).usage;
    expect(record?.cost.toString()).toBe(cost_units);
    expect(BigInt(cost_units)).toBeLessThan(priceOf(DEMO_PRICE, 1_000n, 1n));
    const [loss] = await strange.sql<{ amount: bigint }[]>`
      select amount from transfer where kind = 'loss'`;
    expect(loss?.amount).toBe(priceOf(DEMO_PRICE, 1_000_000n, 1_000_000n) - BigInt(cost_units));
  });

  test("gets the tokens that are affordable where the caller left the length open", async () => {
    let sent: Record<string, unknown> = {};
    behave = (request, response) => {
      let body = "";
      request.on("data", (piece) => {
        body += piece;
      });
      request.on("end", () => {
        sent = JSON.parse(body);
        response.end(JSON.stringify({ choices: [{ index: 0, message: { content: "" } }] }));
      });
    };
    const { secret } = await strange.createChild({ limitTotal: 30_000n });
    await clientOf(secret, strange.url).chat.completions.create({
      model: "demo/fast",
      messages: HI,
    });
    expect(Number(sent.max_tokens)).toBeGreaterThanOrEqual(256);
    expect(Number(sent.max_tokens)).toBeLessThan(1_000);
  });
});
