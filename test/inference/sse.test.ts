import fc from "fast-check";
import { expect, test } from "vitest";
import { createSseSplitter } from "../../src/inference/sse.js";

const LINE_ENDS = ["\n", "\r\n"];

/** Feeds a text in pieces of the given sizes and collects the payloads as text. */
function split(text: string, sizes: readonly number[]): string[] {
  const splitter = createSseSplitter();
  const bytes = Buffer.from(text);
  const payloads: Buffer[] = [];
  let at = 0;
  for (const size of [...sizes, bytes.length]) {
    payloads.push(...splitter.push(bytes.subarray(at, at + size)));
    at = Math.min(bytes.length, at + size);
  }
  const last = splitter.end();
  return [...payloads, ...(last ? [last] : [])].map(String);
}

const payload = fc
  .string({ unit: "grapheme" })
  .map((text) => text.replace(/[\r\n]/g, " "))
  .map((text) => `x${text}`);

test("events come out whole wherever the stream is cut, with either line end and comments between", () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(payload, { minLength: 1, maxLength: 3 }), { maxLength: 8 }),
      fc.constantFrom(...LINE_ENDS),
      fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 60 }),
      (events, end, sizes) => {
        const text = events
          .map(
            (lines) =>
              `: wait${end}${lines.map((it) => `data: ${it}${end}`).join("")}id: 1${end}${end}`,
          )
          .join("");
        expect(split(text, sizes)).toEqual(events.map((lines) => lines.join("\n")));
      },
    ),
  );
});

test("a space behind the colon is optional and only one is taken", () => {
  expect(split("data:a\n\ndata:  b\n\n", [])).toEqual(["a", " b"]);
});

test("an event that the end of the stream leaves open is not lost", () => {
  expect(split("data: a\n\ndata: [DONE]", [3])).toEqual(["a", "[DONE]"]);
});

test("an event without end is refused instead of being collected for ever", () => {
  const splitter = createSseSplitter(100);
  splitter.push(Buffer.from("data: "));
  expect(() => {
    for (let i = 0; i < 20; i++) splitter.push(Buffer.from("0123456789"));
  }).toThrow("larger than 100 bytes");
});
