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

test("a model's context bounds what prompt and answer can cost, and what can never fit is refused", () => {
  const small = { ...PRICE, contextTokens: 1_000, maxOutputTokens: null };
  const long = [{ role: "user", content: "x".repeat(50_000) }];
  const { amount, inputTokens, maxTokens } = estimate(asked({ messages: long }), small);
  expect([inputTokens, maxTokens]).toEqual([1_000n, 804]);
  expect(amount).toBe(priceOf(small, 196n, 804n));
  const cheap = { ...small, outputPerMtok: 1n };
  expect(estimate(asked({ messages: long }), cheap).amount).toBe(priceOf(cheap, 1_000n, 0n));

  const refused = (more: object) => refusalOf(() => estimate(asked(more), small)).param;
  expect(refused({ max_tokens: 1_000 })).toBe("max_tokens");
  expect(refused({ messages: long, max_tokens: 900 })).toBe("max_tokens");
  expect(refused({ messages: [{ role: "user", content: "x".repeat(256_000) }] })).toBe("messages");
  expect(estimate(asked({ max_tokens: 999 }), small).maxTokens).toBe(999);
});

test("images cost their ceiling in place of their bytes, template and default are the model's own", () => {
  const url = `data:image/png;base64,${"A".repeat(1_000_000)}`;
  const content = [
    { type: "text", text: "what is it?" },
    { type: "image_url", image_url: { url } },
  ];
  const request = asked({ messages: [{ role: "user", content }] });
  const sees = { ...PRICE, imageTokens: 1_500, promptOverheadTokens: 10, defaultMaxTokens: 77 };
  const { inputTokens, promptTokens, maxTokens } = estimate(request, sees);
  const around = request.bytes - url.length;
  expect(around).toBeLessThan(200);
  expect(inputTokens).toBe(BigInt(around + 1_500 + 10));
  expect(promptTokens).toBe(Math.ceil(around / 4) + 1_500);
  expect(maxTokens).toBe(77);
  expect(refusalOf(() => estimate(request, PRICE)).param).toBe("messages");
});

test("numbers that are written longer to the upstream than they came count as they are written", () => {
  const raw = `{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"enum":[${"1e20,".repeat(99)}1e20]}}}]}`;
  const request = parseChatRequest(Buffer.from(raw));
  const sent = upstreamBody(request, "m", 5);
  expect(sent.length).toBeGreaterThan(raw.length + 1_000);
  expect(request.bytes).toBe(JSON.stringify(JSON.parse(raw)).length);
});

test("bytes that are no characters are refused instead of becoming more than they were", () => {
  const raw = Buffer.from('{"model":"m","messages":[{"role":"user","content":"hi"}]}');
  raw[raw.indexOf("hi")] = 0xff;
  expect(refusalOf(() => parseChatRequest(raw)).reason).toBe("invalid_request_error");
});
