import { hash } from "node:crypto";
import { demoTokenCount } from "./demo-models.js";
import { type DemoRefusal, findDemoModel, invalid, isObject, parsed } from "./demo-request.js";

const KNOWN = ["model", "input", "encoding_format", "dimensions"];
const DIMENSIONS = 64;
const MAX_INPUTS = 2_048;
const FLOAT_BYTES = 4;

/** Answers a request for embeddings, or says why not. */
export function embed(text: string): object | DemoRefusal {
  const body = parsed(text);
  if (!isObject(body)) return invalid("the body is not a JSON object", null);
  const unknown = Object.keys(body).find((name) => !KNOWN.includes(name));
  if (unknown !== undefined) return invalid(`unknown parameter: ${unknown}`, unknown);
  const model = findDemoModel(body.model, true);
  if ("status" in model) return model;
  const { dimensions = DIMENSIONS, encoding_format: format = "float" } = body;
  if (!Number.isInteger(dimensions) || (dimensions as number) < 1) {
    return invalid("dimensions must be positive", "dimensions");
  }
  const inputs = inputsOf(body.input);
  if (inputs.length === 0 || inputs.length > MAX_INPUTS) return invalid("bad input", "input");
  const data = inputs.map((input, index) => {
    const vector = vectorOf(JSON.stringify(input), dimensions as number);
    return { object: "embedding", index, embedding: format === "base64" ? base64(vector) : vector };
  });
  const prompt_tokens = inputs.reduce((sum, input) => sum + tokensIn(input), 0);
  const usage = { prompt_tokens, total_tokens: prompt_tokens };
  return { object: "list", data, model: model.id, usage };
}

/** A text or a list of tokens is one input; a list of either is several. */
function inputsOf(input: unknown): (string | number[])[] {
  if (typeof input === "string") return [input];
  if (!Array.isArray(input) || input.length === 0) return [];
  return typeof input[0] === "number" ? [input] : input;
}

const tokensIn = (input: string | number[]): number =>
  typeof input === "string" ? demoTokenCount(input) : input.length;

/** A vector of length 1 that is the same for the same input, and another for any other. */
function vectorOf(text: string, dimensions: number): number[] {
  const numbers = Array.from({ length: dimensions }, (_, i) => {
    return hash("sha256", `${i} ${text}`, "buffer").readInt32BE(0) / 2 ** 31;
  });
  const length = Math.hypot(...numbers);
  return numbers.map((number) => Math.fround(number / length));
}

function base64(vector: number[]): string {
  const bytes = Buffer.alloc(vector.length * FLOAT_BYTES);
  for (const [i, number] of vector.entries()) bytes.writeFloatLE(number, i * FLOAT_BYTES);
  return bytes.toString("base64");
}
