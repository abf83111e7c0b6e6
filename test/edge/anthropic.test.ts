import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";

const HI = [{ role: "user", content: "hi" }];
const ASKED = { model: "demo/fast", max_tokens: 100, messages: HI };
/** Words of the demo upstream that must never leave the gateway; its own answers' text aside. */
const UPSTREAM_WORDS =
  /upstream-key|fp_|chatcmpl|call_|demo_upstream|dislikes|too busy|has failed/i;
const TOOL = {
  name: "weather",
  input_schema: { type: "object", properties: { city: { type: "string" } } },
};

let gateway: TestGateway;
beforeAll(async () => {
  gateway = await startTestGateway();
});
afterAll(() => gateway.close());

interface Sent {
  path?: string;
  headers?: Record<string, string>;
  url?: string;
}

const post = (secret: string, body: unknown, { path = "/v1/messages", headers, url }: Sent = {}) =>
  fetch((url ?? gateway.url) + path, {
    method: "POST",
    headers: { "x-api-key": secret, "anthropic-version": "2023-06-01", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

interface Body {
  id: string;
  error: Record<string, unknown>;
  request_id: string;
  usage: Record<string, unknown>;
  content: Record<string, unknown>[];
  input_tokens: number;
}
const bodyOf = async (answer: Response) => (await answer.json()) as Body;

interface Event {
  type: string;
  delta?: { text?: string; stop_reason?: string };
  error?: Record<string, unknown>;
  usage?: Record<string, unknown>;
}

const eventsIn = (text: string) =>
  text
    .split("\n\n")
    .filter(Boolean)
    .map((event) => JSON.parse(event.replace(/^event: .*\ndata: /, "")) as Event);

/** What stands in the books for a child key. */
async function recordsOf(child: string, { sql }: TestGateway = gateway) {
  const [open] = await sql<{ n: number }[]>`
    select count(*)::int n from open_hold where child_key_id = ${child}`;
  const usage = await sql<
    { cost: bigint; input_tokens: bigint; output_tokens: bigint; estimated: boolean }[]
  >`
    select cost, input_tokens, output_tokens, estimated from usage_record
     where child_key_id = ${child} order by usage_seq`;
  return { open: open?.n ?? 0, usage: [...usage] };
}

const costOf = (input: number, output: number) =>
  priceOf(DEMO_PRICE, BigInt(input), BigInt(output)).toString();

describe("a message in one piece", () => {
  test("costs exactly what it says, and what it would cost at OpenAI's door", async () => {
    const { id, secret } = await gateway.createChild();
    const answer = await post(secret, ASKED);
    expect(await answer.json()).toEqual({
      id: expect.stringMatching(/^msg_[0-9a-f]{32}$/),
      type: "message",
      role: "assistant",
      model: "demo/fast",
      content: [{ type: "text", text: expect.stringContaining('"hi"') }],
      stop_reason: "end_turn",
      stop_sequence: null,
      usage: {
        input_tokens: 1,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 0,
        output_tokens: 16,
        cost: Number(costOf(1, 16)) / 1e9,
        cost_units: costOf(1, 16),
      },
    });
    expect(answer.headers.get("request-id")).toBe(answer.headers.get("x-request-id"));
    const sameElsewhere = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}` },
      body: JSON.stringify(ASKED),
    });
    expect((await bodyOf(sameElsewhere)).usage.cost_units).toBe(costOf(1, 16));
    const cost = BigInt(costOf(1, 16));
    const record = { cost, input_tokens: 1n, output_tokens: 16n, estimated: false };
    expect(await recordsOf(id)).toEqual({ open: 0, usage: [record, record] });
  });

  test("is served at both addresses, whatever beta is asked for, with the key in either header", async () => {
    const { secret } = await gateway.createChild();
    for (const path of ["/v1/messages?beta=true", "/api/v1/messages"]) {
      const beta = { "anthropic-beta": "context-management-2025-06-27,interleaved-thinking" };
      expect((await post(secret, ASKED, { path, headers: beta })).status).toBe(200);
    }
    const bearer = { "x-api-key": "", authorization: `Bearer ${secret}` };
    expect((await post("", ASKED, { headers: bearer })).status).toBe(200);
  });

  test("is charged by our count where the upstream reports none", async () => {
    const { id, secret } = await gateway.createChild();
    const { usage } = await bodyOf(await post(secret, { ...ASKED, model: "demo/no-usage" }));
    expect(usage).toMatchObject({ estimated: true });
    const [record] = (await recordsOf(id)).usage;
    expect(record).toMatchObject({ estimated: true });
    expect(record?.cost.toString()).toBe(usage.cost_units);
  });

  test("may be asked for longer than the model writes, which is held for no more than that", async () => {
    const most = 8_192n;
    const enough = priceOf(DEMO_PRICE, 1_000n, most);
    const { secret } = await gateway.createChild({ limitTotal: enough });
    expect((await post(secret, { ...ASKED, max_tokens: 1_000_000 })).status).toBe(200);
  });

  test("has its thoughts in front only where they were asked for", async () => {
    const { secret } = await gateway.createChild();
    const body = { ...ASKED, model: "demo/thinking" };
    const thinking = { type: "enabled", budget_tokens: 50 };
    const aloud = await bodyOf(await post(secret, { ...body, thinking }));
    expect(aloud.content.map(({ type }) => type)).toEqual(["thinking", "text"]);
    const silent = await bodyOf(await post(secret, body));
    expect(silent.content.map(({ type }) => type)).toEqual(["text"]);
    expect(silent.usage.cost_units).toBe(aloud.usage.cost_units);
  });
});

describe("a stream of a message", () => {
  test("brings every text, and is in the books before its last events leave", async () => {
    const { id, secret } = await gateway.createChild();
    const answer = await post(secret, { ...ASKED, stream: true });
    expect(answer.headers.get("content-type")).toContain("text/event-stream");
    let text = "";
    for await (const piece of answer.body as unknown as AsyncIterable<Uint8Array>) {
      text += Buffer.from(piece).toString();
      if (!text.includes("message_delta")) continue;
      expect((await recordsOf(id)).usage).toHaveLength(1);
    }
    const events = eventsIn(text);
    const said = events.map(({ delta }) => delta?.text ?? "").join("");
    expect(said).toContain("it thinks nothing, costs like a real one");
    expect(events.at(-2)).toMatchObject({
      type: "message_delta",
      delta: { stop_reason: "end_turn" },
      usage: { input_tokens: 1, output_tokens: 16, cost_units: costOf(1, 16) },
    });
    expect(events.at(-1)).toEqual({ type: "message_stop" });
  });

  test("that the upstream cuts ends with an error event and is charged for what was produced", async () => {
    for (const model of ["demo/cut", "demo/garbage"]) {
      const { id, secret } = await gateway.createChild();
      const answer = await post(secret, { ...ASKED, model, stream: true });
      const events = eventsIn(await answer.text());
      expect(events.at(-1)).toEqual({
        type: "error",
        error: {
          type: "overloaded_error",
          code: "model_unavailable",
          message: expect.any(String),
        },
        request_id: answer.headers.get("request-id"),
      });
      const { open, usage } = await recordsOf(id);
      expect(open).toBe(0);
      expect(usage).toMatchObject([{ estimated: true }]);
    }
  });

  test("that is left half-way is charged for what was produced", async () => {
    const { id, secret } = await gateway.createChild();
    const answer = await post(secret, { ...ASKED, model: "demo/slow", stream: true });
    let seen = "";
    for await (const piece of answer.body as unknown as AsyncIterable<Uint8Array>) {
      seen += Buffer.from(piece).toString();
      if (seen.split("text_delta").length > 3) break;
    }
    await vi.waitFor(async () => expect((await recordsOf(id)).open).toBe(0));
    const [record] = (await recordsOf(id)).usage;
    expect(record?.estimated).toBe(true);
    expect(Number(record?.output_tokens)).toBeLessThan(12);
  });
});

describe("a refusal in Anthropic's form", () => {
  const faults = [
    ["demo/error-429", 429, "rate_limit_error", "upstream_rate_limited"],
    ["demo/error-500", 529, "overloaded_error", "model_unavailable"],
    ["demo/error-400", 400, "invalid_request_error", "invalid_request_error"],
    ["no/such-model", 404, "not_found_error", "model_not_found"],
  ] as const;
  for (const [model, status, type, code] of faults) {
    test(`of ${model} costs nothing and names nobody`, async () => {
      const { id, secret } = await gateway.createChild();
      for (const stream of [false, true]) {
        const answer = await post(secret, { ...ASKED, model, stream });
        const text = await answer.text();
        expect(answer.status).toBe(status);
        expect(JSON.parse(text)).toEqual({
          type: "error",
          error: { type, code, message: expect.any(String) },
          request_id: answer.headers.get("request-id"),
        });
        expect(text + JSON.stringify([...answer.headers])).not.toMatch(UPSTREAM_WORDS);
      }
      expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
    });
  }

  test("for a spend limit has what remains, and tells clients not to try again", async () => {
    const { secret } = await gateway.createChild({ limitDaily: 0n, limitMonthly: 500_000_000n });
    const answer = await post(secret, ASKED);
    expect(answer.status).toBe(402);
    expect(answer.headers.get("x-should-retry")).toBe("false");
    expect(await bodyOf(answer)).toMatchObject({
      type: "error",
      error: {
        type: "billing_error",
        code: "child_key_limit_exceeded",
        daily_remaining: "0",
        monthly_remaining: "500000000",
        resets_at: expect.stringMatching(/T00:00:00/),
      },
    });
  });

  test("for who may not infer is the same for every wrong key", async () => {
    const { secret } = await gateway.createChild();
    const wrong = `${secret.slice(0, -1)}${secret.endsWith("a") ? "b" : "a"}`;
    const texts = new Set<string>();
    for (const bad of ["gc-nothing", wrong, ""]) {
      const answer = await post(bad, ASKED);
      const { error } = await bodyOf(answer);
      expect([answer.status, error.type]).toEqual([401, "authentication_error"]);
      texts.add(JSON.stringify(error));
    }
    expect(texts.size).toBe(1);
    const { error } = await bodyOf(await post(gateway.managementSecret, ASKED));
    expect(error).toMatchObject({ type: "permission_error", code: "wrong_key_kind" });
  });

  test("for too many requests says when", async () => {
    const { secret } = await gateway.createChild({ rateLimitRpm: 1 });
    expect((await post(secret, ASKED)).status).toBe(200);
    const answer = await post(secret, ASKED, { path: "/v1/messages/count_tokens" });
    expect(answer.status).toBe(429);
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(50);
    expect((await bodyOf(answer)).error.type).toBe("rate_limit_error");
  });

  test("for a bad body names the parameter and changes nothing", async () => {
    const { id, secret } = await gateway.createChild();
    const cases: [unknown, number, string, string | undefined][] = [
      ["{", 400, "invalid_request_error", undefined],
      ["[]", 400, "invalid_request_error", undefined],
      [{ ...ASKED, max_tokens: undefined }, 400, "invalid_request_error", "max_tokens"],
      [{ ...ASKED, mcp_servers: [{}] }, 400, "invalid_request_error", "mcp_servers"],
      [{ ...ASKED, service_tier: "priority" }, 400, "invalid_request_error", "service_tier"],
      [" ".repeat(10 * 1024 * 1024 + 1), 413, "request_too_large", undefined],
    ];
    for (const [body, status, type, param] of cases) {
      const answer = await post(secret, body);
      const { error } = await bodyOf(answer);
      expect([answer.status, error.type, error.param]).toEqual([status, type, param]);
    }
    expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
  });

  test("for what is not there, or not called like this", async () => {
    const { secret } = await gateway.createChild();
    const batches = await post(secret, {}, { path: "/v1/messages/batches" });
    expect([batches.status, (await bodyOf(batches)).error.type]).toEqual([404, "not_found_error"]);
    const got = await fetch(`${gateway.url}/v1/messages`);
    expect([got.status, got.headers.get("allow")]).toEqual([405, "POST"]);
  });
});

test("tokens are counted for free, for who may ask", async () => {
  const { id, secret } = await gateway.createChild();
  const path = "/v1/messages/count_tokens";
  const countOf = async (body: object) => {
    const { max_tokens: _, ...rest } = { ...ASKED, ...body };
    return await bodyOf(await post(secret, rest, { path }));
  };
  const short = await countOf({});
  expect(short).toEqual({ input_tokens: expect.any(Number), estimated: true });
  const long = await countOf({ system: "x".repeat(4_000) });
  expect(long.input_tokens - short.input_tokens).toBeGreaterThanOrEqual(1_000);
  expect((await countOf({ model: "no/such-model" })).error.type).toBe("not_found_error");
  expect((await countOf({ messages: [] })).error.param).toBe("messages");
  expect((await post("gc-nothing", ASKED, { path })).status).toBe(401);
  expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
});

test("models are listed in Anthropic's form for its clients, and in OpenAI's for others", async () => {
  const { secret } = await gateway.createChild({ models: ["demo/fast", "demo/slow"] });
  const get = async (path: string, headers: Record<string, string>) => {
    const answer = await fetch(gateway.url + path, {
      headers: { "x-api-key": secret, ...headers },
    });
    return { status: answer.status, body: await answer.json() };
  };
  const version = { "anthropic-version": "2023-06-01" };
  const fast = {
    type: "model",
    id: "demo/fast",
    display_name: "demo/fast",
    created_at: expect.stringMatching(/^20.*Z$/),
    max_input_tokens: null,
    max_tokens: 8_192,
  };
  expect((await get("/v1/models?limit=100", version)).body).toEqual({
    data: [fast, { ...fast, id: "demo/slow", display_name: "demo/slow" }],
    has_more: false,
    first_id: "demo/fast",
    last_id: "demo/slow",
  });
  expect((await get("/v1/models/demo%2Ffast", version)).body).toEqual(fast);
  const missing = await get("/v1/models/demo/long", version);
  expect(missing).toMatchObject({ status: 404, body: { error: { type: "not_found_error" } } });
  expect((await get("/v1/models", {})).body).toMatchObject({ object: "list" });
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

  test("is never named, wherever in an answer it writes its name", async () => {
    const mark = "marked-7f3a";
    const marked = { "x-served-by": mark, server: mark, "request-id": mark, "anthropic-org": mark };
    const call = { index: 0, id: mark, type: mark, function: { name: "weather", arguments: "{}" } };
    const around = {
      id: mark,
      object: mark,
      model: mark,
      system_fingerprint: mark,
      provider: mark,
    };
    const usage = { prompt_tokens: 1, completion_tokens: 2, by: mark, details: { [mark]: 1 } };
    const said = { role: mark, content: "a", tool_calls: [call], annotations: [mark], name: mark };
    const { secret } = await strange.createChild();
    const ask = async (stream: boolean) => {
      const body = { ...ASKED, stream, tools: [TOOL] };
      const answer = await post(secret, body, { url: strange.url });
      return `${answer.status} ${await answer.text()} ${JSON.stringify([...answer.headers])}`;
    };

    behave = (_, response) => {
      response.writeHead(200, marked);
      const choice = { index: 0, message: said, finish_reason: "stop", stop_reason: mark };
      response.end(JSON.stringify({ ...around, choices: [choice], usage }));
    };
    const whole = await ask(false);
    expect(whole).toMatch(/^200 .*"stop_reason":"tool_use"/);
    expect(whole).not.toContain(mark);

    behave = (_, response) => {
      response.writeHead(200, { ...marked, "content-type": "text/event-stream" });
      const choice = { index: 0, delta: said, finish_reason: mark, stop_reason: mark };
      const chunk = JSON.stringify({ ...around, choices: [choice], usage });
      response.end(`: ${mark}\nid: ${mark}\nevent: ${mark}\ndata: ${chunk}\n\ndata: [DONE]\n\n`);
    };
    const streamed = await ask(true);
    expect(streamed).toMatch(/^200 .*"stop_reason":"tool_use".*message_stop/s);
    expect(streamed).not.toContain(mark);

    for (const status of [400, 401, 402, 403, 404, 422, 429, 500, 503]) {
      behave = (_, response) => {
        response.writeHead(status, marked);
        response.end(JSON.stringify({ error: { message: mark, type: mark, param: mark } }));
      };
      const refused = await ask(status % 2 === 0);
      expect(refused).toMatch(/^(?:400|404|429|529) /);
      expect(refused).not.toContain(mark);
    }
  });
});
