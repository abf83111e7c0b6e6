import fc from "fast-check";
import { expect, test } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { MAX_NGONKA, priceOf } from "../../src/base/money.js";
import { affordableTokens, estimate, upstreamBody } from "../../src/inference/estimate.js";
import { COSTLY } from "../../src/inference/parameters.js";
import { parseChatRequest } from "../../src/inference/request.js";
import type { Price } from "../../src/pricing/prices.js";

const PRICE: Price = {
  model: "m",
  version: 1,
  since: new Date(0),
  inputPerMtok: 15_000_000n,
  outputPerMtok: 30_000_000n,
  contextTokens: null,
  maxOutputTokens: 8_192,
  holdStepTokens: null,
  imageTokens: null,
  promptOverheadTokens: null,
  defaultMaxTokens: null,
  enabled: true,
};
const MESSAGES = [{ role: "user", content: "hi" }];

const asked = (more: object = {}) =>
  parseChatRequest(Buffer.from(JSON.stringify({ model: "m", messages: MESSAGES, ...more })));

function refusalOf(act: () => unknown): { reason: string; param: string | undefined } {
  try {
    act();
  } catch (error) {
    if (error instanceof Refusal) return { reason: error.reason, param: error.details.param };
  }
  throw new Error("not refused");
}
const refusedParam = (more: object) => refusalOf(() => asked(more)).param;

test("no answer within its max_tokens can cost more than its estimate", () => {
  fc.assert(
    fc.property(
      fc.string({ unit: "grapheme", maxLength: 200 }),
      fc.integer({ min: 1, max: 8_192 }),
      fc.integer({ min: 1, max: 5 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (content, max_tokens, n, share) => {
        const request = asked({ messages: [{ role: "user", content }], max_tokens, n });
        const { amount, floor } = estimate(request, PRICE);
        const prompt = BigInt(Buffer.byteLength(content));
        const written = BigInt(Math.floor(share * max_tokens * n));
        expect(floor).toBe(0n);
        expect(priceOf(PRICE, prompt, written)).toBeLessThanOrEqual(amount);
      },
    ),
  );
});

test("what was granted pays for what the upstream is told that it may write", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.bigInt({ min: 0n, max: 10n ** 6n }),
      (n, more) => {
        const request = asked({ n });
        const estimated = estimate(request, PRICE);
        const granted = estimated.floor + (more * (estimated.amount - estimated.floor)) / 10n ** 6n;
        const tokens = affordableTokens(estimated, PRICE, n, granted);
        expect(tokens).toBeGreaterThanOrEqual(255);
        expect(tokens).toBeLessThanOrEqual(4_096);
        const cost = priceOf(PRICE, estimated.inputTokens, BigInt(tokens * n));
        expect(cost).toBeLessThanOrEqual(granted);
      },
    ),
  );
});

test("without max_tokens the model's default is sent, lower where the model writes less", () => {
  expect(estimate(asked(), PRICE).maxTokens).toBe(4_096);
  expect(estimate(asked(), { ...PRICE, maxOutputTokens: 100 }).maxTokens).toBe(100);
  expect(estimate(asked(), { ...PRICE, maxOutputTokens: null }).maxTokens).toBe(4_096);
  expect(refusalOf(() => estimate(asked({ max_tokens: 8_193 }), PRICE)).param).toBe("max_tokens");
});

test("a hold is at least one unit and never more than a column holds", () => {
  const free = { ...PRICE, inputPerMtok: 0n, outputPerMtok: 0n };
  expect(estimate(asked(), free)).toMatchObject({ amount: 1n, floor: 1n });
  const dear = { ...PRICE, outputPerMtok: MAX_NGONKA, maxOutputTokens: null };
  expect(estimate(asked({ max_tokens: 1_000_000, n: 5 }), dear).amount).toBe(MAX_NGONKA);
});

test("what would change the cost and is not understood is refused by name", () => {
  for (const type of ["input_audio", "file", "video_url", "image", "document"]) {
    const parts = [
      { role: "user", content: "a" },
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type, [type]: { data: "x" } },
        ],
      },
    ];
    expect(refusedParam({ messages: parts })).toBe("messages[1].content[1]");
  }
  for (const name of COSTLY) expect(refusedParam({ [name]: "flex" })).toBe(name);
  for (const bad of [0, -1, 1.5, "5", true, 1e300]) {
    expect(refusedParam({ max_tokens: bad })).toBe("max_tokens");
    expect(refusedParam({ max_completion_tokens: bad })).toBe("max_completion_tokens");
    expect(refusedParam({ n: bad })).toBe("n");
  }
  expect(refusedParam({ n: 6 })).toBe("n");
  expect(refusedParam({ max_tokens: 1, max_completion_tokens: 2 })).toBe("max_tokens");
  expect(refusedParam({ tools: [{ type: "web_search" }] })).toBe("tools[0]");
  expect(refusedParam({ stream: "yes" })).toBe("stream");
  expect(refusedParam({ stream_options: {} })).toBe("stream_options");
  expect(refusedParam({ messages: [] })).toBe("messages");
  expect(refusedParam({ model: 5 })).toBe("model");
});

test("images are counted by number, and those that stand in the body by their bytes too", () => {
  const image = (url: unknown) => ({ type: "image_url", image_url: { url } });
  const messages = (...content: unknown[]) => ({ messages: [{ role: "user", content }] });
  const data = `data:image/png;base64,${"A".repeat(1_000)}`;
  const one = asked(messages(image("https://example.com/a.png")));
  expect(one).toMatchObject({ images: 1, imageBytes: 0 });
  const two = asked(messages({ type: "text", text: data }, image(data), image("http://x/")));
  expect(two).toMatchObject({ images: 2, imageBytes: data.length });
  expect(two.bytes).toBeGreaterThan(2 * data.length);
  expect(asked()).not.toHaveProperty("images");
  for (const bad of ["ftp://x", "file:///etc/passwd", "data:text/plain;base64,AAAA", 5, null]) {
    const param = "messages[0].content[0].image_url.url";
    expect(refusedParam(messages(image(bad)))).toBe(param);
  }
});

test("everything else passes, and usage is always asked for on streams and only there", () => {
  const request = asked({
    temperature: 0.5,
    top_k: 3,
    tool_choice: "auto",
    functions: [{ name: "f" }],
    function_call: "auto",
    parallel_tool_calls: false,
    response_format: { type: "json_object" },
    reasoning_effort: "high",
    reasoning: { effort: "low" },
    logprobs: true,
    top_logprobs: 2,
    logit_bias: { 5: -100 },
    stop: ["a"],
    store: true,
    user: "u-1",
    metadata: { a: "b" },
    service_tier: "auto",
    modalities: ["text"],
    max_completion_tokens: 9,
    seed: null,
  });
  expect(JSON.parse(upstreamBody(request, request.model, 9))).toEqual({
    model: "m",
    messages: MESSAGES,
    temperature: 0.5,
    top_k: 3,
    tool_choice: "auto",
    functions: [{ name: "f" }],
    function_call: "auto",
    parallel_tool_calls: false,
    response_format: { type: "json_object" },
    reasoning_effort: "high",
    reasoning: { effort: "low" },
    logprobs: true,
    top_logprobs: 2,
    logit_bias: { 5: -100 },
    stop: ["a"],
    max_tokens: 9,
  });
  const streamed = asked({ stream: true, n: 2 });
  expect(JSON.parse(upstreamBody(streamed, streamed.model, 5))).toEqual({
    model: "m",
    messages: MESSAGES,
    max_tokens: 5,
    n: 2,
    stream: true,
    stream_options: { include_usage: true },
  });
});

test("a parameter that stands twice means the same to the upstream as to us", () => {
  const raw =
    '{"model":"m","max_tokens":9000,"n":5,"messages":[{"role":"user","content":"hi"}],"n":1,"max_tokens":7}';
  const request = parseChatRequest(Buffer.from(raw));
  const body = upstreamBody(request, request.model, estimate(request, PRICE).maxTokens);
  expect(body.match(/max_tokens/g)).toHaveLength(1);
  expect(body).not.toContain('"n"');
  expect(JSON.parse(body).max_tokens).toBe(7);
});

test("a body that is nested without end, or is no object, is refused and crashes nothing", () => {
  const deep = "[".repeat(1_000_000) + "]".repeat(1_000_000);
  const raw = `{"model":"m","messages":[{"role":"user","content":"hi"}],"x":${deep}}`;
  expect(refusalOf(() => upstreamBody(parseChatRequest(Buffer.from(raw)), "m", 5)).reason).toBe(
    "invalid_request_error",
  );
  for (const bad of ["", "{", "null", "[]", '"a"', "5", "\ufeff{}"]) {
    expect(refusalOf(() => parseChatRequest(Buffer.from(bad))).reason).toBe(
      "invalid_request_error",
    );
  }
});
