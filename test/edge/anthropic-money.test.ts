import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, expect, test } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import { expectBooksAreRight } from "../support/books.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";
import { begin, booksOf, HI, text } from "../support/streaming.js";
import { answers, startUpstream, type TestUpstream } from "../support/upstreams.js";

/** Tokens that a stream is held ahead. */
const STEP = 100;
/** One model of an upstream that speaks of chat completions, one of an upstream that does not. */
const MODELS = ["translated", "native"];
const TERMS = { ...DEMO_PRICE, maxOutputTokens: 8_192, enabled: true };

let upstream: TestUpstream;
let gateway: TestGateway;
beforeAll(async () => {
  upstream = await startUpstream(() => {});
  const { url } = upstream;
  gateway = await startTestGateway({
    upstreams: [
      { name: "openai", url, models: ["translated"] },
      { name: "anthropic", url, models: ["native"], dialect: "anthropic" },
    ],
  });
  for (const model of MODELS) {
    await setModelPrice(gateway.sql, { model, ...TERMS, holdStepTokens: STEP });
  }
});
afterAll(async () => {
  await expectBooksAreRight(gateway.sql);
  await gateway.close();
  await upstream.close();
});

const event = (data: { type: string; [field: string]: unknown }) =>
  `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`;
const START = event({
  type: "message_start",
  message: { usage: { input_tokens: 3, output_tokens: 1 } },
});
const BLOCK = event({
  type: "content_block_start",
  index: 0,
  content_block: { type: "text", text: "" },
});
const WORD = event({
  type: "content_block_delta",
  index: 0,
  delta: { type: "text_delta", text: "word " },
});

const post = (secret: string, body: object, headers: Record<string, string> = {}) =>
  fetch(`${gateway.url}/v1/messages`, {
    method: "POST",
    headers: { "x-api-key": secret, ...headers },
    body: JSON.stringify({ max_tokens: 4_000, messages: HI, ...body }),
  });

for (const model of MODELS) {
  test(`a ${model} stream whose money ends is cut with a clean end, and the limit is never overrun`, async () => {
    const body = { max_tokens: 4_000, messages: HI, model };
    const most = BigInt(JSON.stringify(body).length + 512);
    const limitTotal = priceOf(DEMO_PRICE, most, 3n * BigInt(STEP));
    const { id, secret } = await gateway.createChild({ limitTotal });
    const cut = new Promise<void>((resolve) => {
      upstream.behave(({ response }) => {
        begin(response);
        if (model === "native") response.write(START + BLOCK);
        response.write((model === "native" ? WORD : text("word ")).repeat(500));
        response.on("close", resolve);
      });
    });
    const client = new Anthropic({ apiKey: secret, baseURL: gateway.url, maxRetries: 0 });
    const stream = client.messages.stream(body);
    let why: unknown;
    for await (const it of stream) if (it.type === "message_delta") why = it;
    await cut;
    const { stop_reason, content } = await stream.finalMessage();
    expect(stop_reason).toBe("max_tokens");
    expect(why).toMatchObject({
      usage: { estimated: true, cost_units: expect.any(String) },
      stop_cause: { code: "child_key_limit_exceeded" },
    });
    const [block] = content;
    const words = block?.type === "text" ? block.text.length / 5 : 0;
    expect(words).toBeGreaterThan(0);
    const { open, paid } = await booksOf(gateway, id);
    expect(open).toEqual([]);
    expect(paid).toHaveLength(1);
    expect(paid[0]?.cost).toBeLessThanOrEqual(limitTotal);
    expect(Number(paid[0]?.output_tokens)).toBeGreaterThanOrEqual(words);
  });
}

test("an Idempotency-Key runs a message once, and is another one's at the other door", async () => {
  upstream.behave(answers());
  const { id, secret } = await gateway.createChild();
  const headers = { "idempotency-key": "one" };
  const first = await post(secret, { model: "translated" }, headers);
  const again = await post(secret, { model: "translated" }, headers);
  expect(again.headers.get("idempotent-replayed")).toBe("true");
  expect(await again.json()).toEqual(await first.json());
  const other = await post(secret, { model: "translated", max_tokens: 3 }, headers);
  expect(other.status).toBe(409);
  expect(other.headers.get("x-should-retry")).toBe("false");
  expect(await other.json()).toMatchObject({ error: { code: "idempotency_conflict" } });
  const elsewhere = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, ...headers },
    body: JSON.stringify({ max_tokens: 4_000, messages: HI, model: "translated" }),
  });
  expect(elsewhere.status).toBe(409);
  expect((await booksOf(gateway, id)).paid).toHaveLength(1);
});

test("a message leaves its place among those of an account that run at once", async () => {
  upstream.behave(answers());
  const owner = await gateway.createOwner("one@example.com", 1_000_000_000n);
  const { secret } = await owner.createChild();
  await gateway.sql`
    insert into account_rate (account_id, concurrency, updated_at)
    values (${owner.account}, 1, now())`;
  for (const model of ["translated", "no/such-model", "translated"]) {
    const { status } = await post(secret, { model });
    expect(status).toBe(model === "translated" ? 200 : 404);
  }
});
