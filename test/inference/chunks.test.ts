import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createChunkReader } from "../../src/inference/chunks.js";
import { createMeter } from "../../src/inference/meter.js";

const UPSTREAM = "upstream-7f3a";
const FACE = {
  id: "chatcmpl-ours",
  model: "org/model",
  n: 1,
  includeUsage: false,
  logprobs: false,
};

interface Shape {
  space: string | undefined;
  usageNull: boolean;
  tail: boolean;
}

/** Writes chunks as some upstream would: same fields, another order, spacing and company. */
function written(shape: Shape, choices: unknown[], more: object = {}): Buffer {
  const chunk = {
    id: `cmpl-${UPSTREAM}`,
    object: "chat.completion.chunk",
    created: 1_700_000_000,
    model: `${UPSTREAM}/secret`,
    ...(!shape.tail && { system_fingerprint: UPSTREAM }),
    choices,
    ...(shape.tail && { system_fingerprint: UPSTREAM, provider: UPSTREAM }),
    ...(shape.usageNull && { usage: null }),
    ...more,
  };
  return Buffer.from(JSON.stringify(chunk, undefined, shape.space));
}

function read(payloads: readonly Buffer[], face = FACE) {
  const meter = createMeter(25, 100_000);
  const reader = createChunkReader(face, meter);
  const forwarded = payloads.map((payload) => {
    reader.take(payload);
    return reader.forward()?.toString() ?? "";
  });
  return { reader, meter, forwarded };
}

const chunksIn = (events: string) =>
  events
    .split("\n\n")
    .filter((event) => event !== "" && event !== "data: [DONE]")
    .map((event) => JSON.parse(event.replace(/^data: /, "")));

const content = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.constantFrom(
    "]}",
    '"usage":{"prompt_tokens":1}',
    '"finish_reason":"stop"',
    "usage",
    "\\",
    "\n\n",
  ),
);
const shape = fc.record({
  space: fc.constantFrom(undefined, " "),
  usageNull: fc.boolean(),
  tail: fc.boolean(),
});

test("every text arrives unchanged under our id and model, and no word of the upstream does", () => {
  fc.assert(
    fc.property(
      shape,
      fc.array(content, { minLength: 1, maxLength: 12 }),
      fc.boolean(),
      (how, texts, includeUsage) => {
        const payloads = texts.map((text) =>
          written(how, [
            { index: 0, delta: { content: text }, logprobs: null, finish_reason: null },
          ]),
        );
        const { forwarded } = read(payloads, { ...FACE, includeUsage });
        const chunks = forwarded.flatMap(chunksIn);
        expect(chunks.map((chunk) => chunk.choices[0].delta.content)).toEqual(texts);
        for (const chunk of chunks) {
          const { choices: _, ...head } = chunk;
          expect(head).toEqual({
            id: FACE.id,
            object: "chat.completion.chunk",
            created: 1_700_000_000,
            model: FACE.model,
            ...(includeUsage && { usage: null }),
          });
        }
      },
    ),
    { numRuns: 300 },
  );
});

const plain = { space: undefined, usageNull: false, tail: false };
const delta = (text: string, finish: string | null = null, index = 0) => ({
  index,
  delta: { content: text },
  finish_reason: finish,
});
const usage = { prompt_tokens: 3, completion_tokens: 4 };

test("the chunk that ends the last answer, and the usage, wait for the finale", () => {
  const { reader, meter, forwarded } = read(
    [
      written(plain, [delta("a")]),
      written(plain, [delta("b", "stop")]),
      written(plain, [delta("c", null, 1)]),
      written(plain, [delta("d", "length", 1)]),
      written(plain, [], { usage }),
      Buffer.from("[DONE]"),
    ],
    { ...FACE, n: 2, includeUsage: true },
  );
  expect(forwarded.map((events) => chunksIn(events).length)).toEqual([1, 1, 1, 0, 0, 0]);
  expect(reader).toMatchObject({ finished: true, done: true });
  expect(meter.usage(true)).toMatchObject({ inputTokens: 3n, outputTokens: 4n });
  const finale = reader.finale({ cost_units: "5" }).toString();
  expect(finale.endsWith("data: [DONE]\n\n")).toBe(true);
  const [finish, last] = chunksIn(finale);
  expect(finish.choices[0].finish_reason).toBe("length");
  expect(last).toMatchObject({ choices: [], usage: { cost_units: "5" }, id: FACE.id });
});

test("usage is hidden from a caller who did not ask for it", () => {
  const { reader, forwarded } = read([
    written(plain, [delta("a")], { usage }),
    written(plain, [delta("b", "stop")], { usage }),
    Buffer.from("[DONE]"),
  ]);
  const all = forwarded.join("") + reader.finale({ cost_units: "5" }).toString();
  expect(all).not.toContain("usage");
  expect(chunksIn(all)).toHaveLength(2);
});

test("an event that is no chunk, or reports an error, breaks the stream", () => {
  for (const bad of ["{", "[]", "null", '{"error":{"message":"x"}}']) {
    const reader = createChunkReader(FACE, createMeter(1, 1));
    expect(() => reader.take(Buffer.from(bad))).toThrow();
  }
});

describe("a stream that we cut", () => {
  const stop = { code: "child_key_limit_exceeded" as const, message: "the limit is reached" };

  test("ends every unfinished answer as one that reached its length, says why, and then the usage", () => {
    const { reader, forwarded } = read(
      [
        written(plain, [delta("a"), delta("b", null, 1)]),
        written(plain, [delta("c", "stop", 1)]),
        written(plain, [delta("d", null, 2)]),
      ],
      { ...FACE, n: 3, includeUsage: true },
    );
    expect(reader.finished).toBe(false);
    const end = reader.cut({ cost_units: "5" }, stop).toString();
    expect(end.endsWith("data: [DONE]\n\n")).toBe(true);
    const [cut, last, ...rest] = chunksIn(end);
    expect(rest).toEqual([]);
    expect(cut).toMatchObject({ id: FACE.id, stop_reason: stop, usage: null });
    expect(cut.choices).toEqual([
      { index: 0, delta: {}, finish_reason: "length" },
      { index: 2, delta: {}, finish_reason: "length" },
    ]);
    expect(last).toMatchObject({ choices: [], usage: { cost_units: "5" } });
    expect(chunksIn(forwarded.join(""))).toHaveLength(3);
  });

  test("brings what waits to be forwarded, and shows no usage to who did not ask", () => {
    const reader = createChunkReader(FACE, createMeter(25, 100));
    reader.take(written(plain, [delta("a")]));
    const chunks = chunksIn(reader.cut({ cost_units: "5" }, undefined).toString());
    expect(chunks.map(({ choices }) => choices[0].delta)).toEqual([{ content: "a" }, {}]);
    expect(JSON.stringify(chunks)).not.toMatch(/usage|stop_reason/);
  });

  test("was offered each event again that was not paid for yet, and lost none", () => {
    const cover = { tokens: 3, soon: 2, refused: false, ask() {} };
    const reader = createChunkReader(FACE, createMeter(25, 100, cover));
    const texts = ["ab", "cd", "ef", '"usage":{}'];
    for (const text of texts) {
      const payload = written(plain, [delta(text)]);
      while (!reader.take(payload)) cover.tokens += 3;
    }
    const all = chunksIn(reader.forward()?.toString() ?? "");
    expect(all.map(({ choices }) => choices[0].delta.content)).toEqual(texts);
    expect(cover.tokens).toBeGreaterThanOrEqual(texts.join("").length);
  });
});

test("the odds of tokens are passed on and count as none", () => {
  const logprobs = { content: [{ token: "a", logprob: -0.1, bytes: [97], top_logprobs: [] }] };
  const payloads = ["a", "b", "c"].map((text) => written(plain, [{ ...delta(text), logprobs }]));
  const { forwarded, meter } = read(payloads, { ...FACE, logprobs: true });
  expect(chunksIn(forwarded.join("")).map(({ choices }) => choices[0].logprobs)).toEqual([
    logprobs,
    logprobs,
    logprobs,
  ]);
  expect(meter.usage(false).outputTokens).toBe(3n);
});
