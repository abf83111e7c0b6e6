import { create, type DescMessage, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { encoderOf } from "../../src/edge/wire/encoder.js";
import {
  AuthorizeResponseSchema,
  CaptureRequestSchema,
  GetHoldResponseSchema,
  StreamResponseSchema,
} from "../../src/gen/keytoll/v1/hold_pb.js";
import {
  CreateChatCompletionResponseSchema,
  CreateEmbeddingResponseSchema,
} from "../../src/gen/keytoll/v1/inference_pb.js";

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const text = fc.oneof(fc.string({ unit: "binary" }), fc.string({ minLength: 120, maxLength: 300 }));
const timestamp = fc.record({ seconds: int64, nanos: int32 });

const hold = fc.record(
  {
    holdId: text,
    childKeyId: text,
    status: fc.integer({ min: 0, max: 3 }),
    amountNgonka: int64,
    capturedNgonka: int64,
    day: text,
    month: text,
    authorizedAt: timestamp,
    deadline: timestamp,
    endedAt: timestamp,
    usageNumber: int64,
  },
  { requiredKeys: [] },
);
const remaining = fc.record(
  { dailyRemaining: int64, monthlyRemaining: int64, totalRemaining: int64 },
  { requiredKeys: [] },
);
const usage = fc.record({ inputTokens: int32, outputTokens: int32 }, { requiredKeys: [] });
const actual = fc.oneof(
  fc.record({ case: fc.constant("costNgonka" as const), value: int64 }),
  fc.record({ case: fc.constant("usage" as const), value: usage }),
);

/** Writes a whole message, and the fields that it is made of. */
function same(schema: DescMessage, init: Record<string, unknown>): void {
  const message = create(schema, init);
  const [encode, expected] = [encoderOf(schema), toBinary(schema, message)];
  expect(encode({ ...message }).equals(expected)).toBe(true);
  expect(encode(init).equals(expected)).toBe(true);
}

const refusal = fc.record(
  { code: int32, reason: text, message: text, metadata: fc.dictionary(text, text) },
  { requiredKeys: [] },
);
const authorized = fc.record({ hold, remaining }, { requiredKeys: [] });
const result = fc.record(
  {
    correlation: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    result: fc.oneof(
      fc.record({ case: fc.constant("authorize" as const), value: authorized }),
      fc.record({ case: fc.constant("refusal" as const), value: refusal }),
    ),
  },
  { requiredKeys: [] },
);

test("our writer of messages writes the bytes that the library writes", () => {
  fc.assert(fc.property(authorized, (init) => same(AuthorizeResponseSchema, init)));
  const captures = fc.record({ holdId: text, actual }, { requiredKeys: [] });
  fc.assert(fc.property(captures, (init) => same(CaptureRequestSchema, init)));
  const responses = fc.record({ results: fc.array(result) }, { requiredKeys: [] });
  fc.assert(fc.property(responses, (init) => same(StreamResponseSchema, init)));
});

test("messages that our writer has no room or no words for are written too", () => {
  for (const length of [262_000, 262_143, 262_144, 400_000]) {
    same(GetHoldResponseSchema, { hold: { holdId: "x".repeat(length), day: "é".repeat(60) } });
    same(GetHoldResponseSchema, { hold: { holdId: "é".repeat(length / 2), day: "2026-11-23" } });
  }
  const choices = [{ message: { role: "assistant", content: "hello" } }];
  same(CreateChatCompletionResponseSchema, { id: "1", choices });
  const logprobs = { content: [{ token: "a", logprob: -0.5, bytes: [97] }], refusal: null };
  const parts = [{ type: "text", text: "b" }, {}];
  const seen = [{ message: { role: "user", parts } }, { logprobs: {} }, { logprobs }];
  same(CreateChatCompletionResponseSchema, { id: "1", choices: [...choices, ...seen], usage: {} });
  const data = [{ index: 1, embedding: [0.5, -2, 0] }, { index: 2 }];
  same(CreateEmbeddingResponseSchema, { model: "m", data, usage: { promptTokens: 3 } });
});
