import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { describe, expect, test } from "vitest";
import { CreateChatCompletionRequestSchema } from "../../src/gen/keytoll/v1/inference_pb.js";
import { toBody } from "../../src/inference/messages.js";

const schema = CreateChatCompletionRequestSchema;
const asked = { model: "demo/fast", messages: [{ role: "user", content: "hi" }] };
const MARK = 1.2345678901234567;

/**
 * As it comes from a wire, with another number in the place of MARK: what no client of ours would
 * encode.
 */
function received(fields: MessageInitShape<typeof schema>, number: number) {
  const bytes = Buffer.from(toBinary(schema, create(schema, { ...asked, ...fields })));
  const mark = Buffer.alloc(8);
  mark.writeDoubleLE(MARK);
  bytes.writeDoubleLE(number, bytes.indexOf(mark));
  return fromBinary(schema, bytes);
}

const places: [string, MessageInitShape<typeof schema>][] = [
  ["temperature", { temperature: MARK }],
  ["top_p", { topP: MARK }],
  ["presence_penalty", { presencePenalty: MARK }],
  ["frequency_penalty", { frequencyPenalty: MARK }],
  ["tool_choice", { toolChoice: { kind: { case: "numberValue", value: MARK } } }],
  ["response_format", { responseFormat: { type: MARK } }],
  ["extra", { extra: { deep: [{ down: MARK }] } }],
  ["tools", { tools: [{ type: "function", function: { name: "f", parameters: { a: MARK } } }] }],
];

describe.each(places)("a message whose %s", (param, fields) => {
  test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
    "is %s is refused by the field's name",
    (number) => {
      expect(() => toBody(received(fields, number), false)).toThrow(
        expect.objectContaining({
          reason: "invalid_request_error",
          details: expect.objectContaining({ param }),
        }),
      );
    },
  );

  test("is an ordinary number becomes a body with it", () => {
    expect(String(toBody(received(fields, 0.5), false))).toContain("0.5");
  });
});

test("a message with an empty value is refused by the field's name", () => {
  const empty = create(schema, { ...asked, toolChoice: create(ValueSchema) });
  expect(() => toBody(empty, false)).toThrow(/^tool_choice: /);
});
