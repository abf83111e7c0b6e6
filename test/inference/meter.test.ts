import fc from "fast-check";
import { expect, test } from "vitest";
import { createChunkReader } from "../../src/inference/chunks.js";
import { createMeter, mostTokens } from "../../src/inference/meter.js";
import { reportedUsage, usageBody } from "../../src/inference/usage.js";

const tricky = fc.constantFrom(
  "usage",
  '"usage"',
  '{"usage":{"prompt_tokens":9}}',
  "}",
  '\\"usage\\":',
  "]}",
);
const value: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 3 },
    tricky,
    fc.string(),
    fc.integer(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(fc.oneof(tricky, fc.string()), tie("value"), { maxKeys: 3 }),
  ),
})).value;
const tokens = fc.integer({ min: 0, max: 2_147_483_647 });
const report = fc.record({ prompt_tokens: tokens, completion_tokens: tokens });
const event = fc
  .tuple(fc.dictionary(fc.oneof(tricky, fc.string()), value, { maxKeys: 4 }), fc.option(report))
  .map(([fields, usage]) => {
    const { usage: _, ...rest } = fields;
    return usage === null ? rest : { ...rest, usage };
  });
const spacing = fc.constantFrom(undefined, 1, 2, "\t");

test("usage is read from the top of an event only, whatever stands in its texts, below it or between its tokens", () => {
  const written = fc.tuple(event, fc.oneof(tricky, fc.string()));
  fc.assert(
    fc.property(fc.array(written, { minLength: 1, maxLength: 6 }), spacing, (events, space) => {
      const meter = createMeter(25, 1_000_000);
      const reader = createChunkReader(
        { id: "ours", model: "m", n: 1, includeUsage: false, logprobs: false },
        meter,
      );
      let last: unknown;
      for (const [{ error: _, created: __, ...fields }, content] of events) {
        const chunk = { ...fields, choices: [{ index: 0, delta: { content, also: fields } }] };
        last = reportedUsage(chunk) ?? last;
        reader.take(Buffer.from(JSON.stringify(chunk, undefined, space)));
      }
      const { estimated, ...read } = meter.usage(true);
      expect(estimated ? undefined : { ...read, estimated }).toEqual(last);
    }),
    { numRuns: 1_000 },
  );
});

test("a report that cannot be true is none", () => {
  for (const bad of [-1, 1.5, "5", null, 1e18, Number.NaN]) {
    const usage = { prompt_tokens: bad, completion_tokens: 1 };
    expect(reportedUsage({ usage })).toBeUndefined();
  }
});

test("the last report of a whole stream wins, and zero is zero", () => {
  const meter = createMeter(100, 1_000);
  meter.count(Buffer.alloc(100));
  meter.note({ usage: { prompt_tokens: 7, completion_tokens: 9 } });
  meter.note({ usage: { prompt_tokens: 0, completion_tokens: 0 } });
  meter.note({ usage: null });
  expect(meter.usage(true)).toEqual({ inputTokens: 0n, outputTokens: 0n, estimated: false });
});

test("a cut stream is charged for what was seen of it, also where an early report says less", () => {
  const meter = createMeter(101, 1_000);
  meter.note({ usage: { prompt_tokens: 7, completion_tokens: 0 } });
  for (let i = 0; i < 10; i++) meter.count(Buffer.alloc(60));
  expect(meter.usage(false)).toEqual({ inputTokens: 7n, outputTokens: 10n, estimated: true });
  const unreported = createMeter(101, 5);
  for (let i = 0; i < 10; i++) unreported.count(Buffer.alloc(60));
  expect(unreported.usage(false)).toEqual({ inputTokens: 101n, outputTokens: 5n, estimated: true });
});

test("the cost is exact in units and a plain number in credits", () => {
  const usage = { inputTokens: 1n, outputTokens: 2n, estimated: false };
  const bill = { usage, cost: 1_234_567_891n, costFields: "neutral" } as const;
  const body = usageBody(bill, {
    prompt_tokens_details: { cached_tokens: 1, by: "x" },
  });
  expect(body).toEqual({
    prompt_tokens: 1,
    completion_tokens: 2,
    total_tokens: 3,
    prompt_tokens_details: { cached_tokens: 1 },
    cost: 1.234567891,
    cost_units: "1234567891",
  });
});

test("an event holds no more tokens than we count for it, whatever its strings and names are", () => {
  const texts = fc.array(fc.oneof(tricky, fc.string({ unit: "binary" })), { maxLength: 4 });
  fc.assert(
    fc.property(texts, spacing, fc.boolean(), (all, space, escaped) => {
      const choices = all.map((content, index) => ({ index, delta: { content } }));
      const json = JSON.stringify(choices, undefined, space);
      const written = escaped
        ? json.replace(
            /[\u0080-\uffff]/g,
            (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, "0")}`,
          )
        : json;
      const bytes = all.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
      const most = mostTokens(Buffer.from(written));
      expect(most).toBeGreaterThanOrEqual(bytes);
      if (/^[ -~]*$/.test(all.join(""))) {
        const quoted = all.reduce((sum, text) => sum + JSON.stringify(text).length - 2, 0);
        expect(most).toBe(Math.max(1, quoted));
      }
    }),
    { numRuns: 200 },
  );
});

test("more than was asked for is certain only once no vocabulary could say it in so few tokens", () => {
  const written = (content: string) =>
    Buffer.from(`{"index":0,"delta":{"role":"assistant","content":"${content}"}}`);
  const meter = createMeter(1, 10);
  for (let i = 0; i < 10; i++) meter.count(written("word"));
  for (let i = 0; i < 1_000; i++) meter.count(written(""));
  for (let i = 0; i < 256; i++) meter.count(written("0123456789"));
  expect(meter.endless).toBe(false);
  meter.count(written("0"));
  expect(meter.endless).toBe(true);
  expect(meter.usage(false).outputTokens).toBe(10n);

  const large = createMeter(1, 10);
  for (let i = 0; i < 3; i++) large.count(written("x".repeat(2_000)));
  expect(large.endless).toBe(true);
});

test("a stream that outruns its hold asks for more in time, and is charged for no more than is held", () => {
  let asked = 0;
  const cover = { tokens: 20, soon: 10, refused: false, ask: () => void asked++ };
  const meter = createMeter(1, 1_000, cover);
  const event = Buffer.from('[{"delta":{"content":"abcd"}}]');
  expect([1, 2].map(() => meter.count(event))).toEqual([true, true]);
  expect(asked).toBe(0);
  expect([3, 4, 5, 6].map(() => meter.count(event))).toEqual([true, true, true, false]);
  expect(asked).toBe(4);
  expect(meter.usage(false).outputTokens).toBe(5n);
  cover.tokens = Number.POSITIVE_INFINITY;
  expect(meter.count(event)).toBe(true);
});
