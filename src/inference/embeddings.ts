import { refuseField } from "../base/errors.js";
import type { Asked, Kind } from "./kind.js";
import { passedOn, readModel } from "./parameters.js";
import { fingerprintOf, parseBody } from "./request.js";
import { reportedUsage, tokensOf, usageBody } from "./usage.js";
import { isAbsent, isObject, type Json, positive } from "./values.js";

/** Texts to turn into vectors. Nothing is written, so only what is read is paid for. */
export type EmbeddingRequest = Asked;

const MAX_INPUTS = 2_048;
const OURS = new Set(["model", "input", "encoding_format", "dimensions"]);
/** Other ways to say what to embed, pictures among them, and what makes no sense here. */
const NOT_HERE = ["messages", "inputs", "texts", "images", "stream", "n", "max_tokens"];

/** OpenAI's embeddings: in one piece, never as a stream. */
export const EMBEDDINGS: Kind<EmbeddingRequest> = {
  dialect: "openai",
  path: "/embeddings",
  body: (request, model) => JSON.stringify({ model, ...request.passed }),
  check({ data }) {
    if (!Array.isArray(data) || !data.every(isVector)) throw new Error("no embeddings");
  },
  usage(request, { usage }) {
    const reported = isObject(usage) ? { ...usage, completion_tokens: 0 } : undefined;
    return (
      reportedUsage({ usage: reported }) ?? {
        inputTokens: BigInt(tokensOf(request.bytes)),
        outputTokens: 0n,
        estimated: true,
      }
    );
  },
  show(request, answer, bill) {
    const { completion_tokens: _, ...shown } = usageBody(bill, answer.usage);
    return {
      object: "list",
      data: (answer.data as Json[]).map(({ index, embedding }, i) => ({
        object: "embedding",
        index: Number.isSafeInteger(index) ? index : i,
        embedding,
      })),
      model: request.model,
      usage: shown,
    };
  },
  reader() {
    throw new Error("embeddings are no stream");
  },
};

/** A list of numbers, or their bytes in base64. */
const isVector = (item: unknown): boolean =>
  isObject(item) &&
  (Array.isArray(item.embedding)
    ? item.embedding.every((number) => typeof number === "number")
    : typeof item.embedding === "string" && /^[A-Za-z0-9+/=]*$/.test(item.embedding));

/**
 * Reads a request for embeddings from the bytes of its body. What changes its cost is understood or
 * refused by name; everything else passes.
 *
 * @throws invalid_request_error with the parameter's path
 */
export function parseEmbeddingRequest(raw: Buffer): EmbeddingRequest {
  const body = parseBody(raw);
  const { input, encoding_format, dimensions } = body;
  const model = readModel(body.model);
  checkInput(input);
  if (!isAbsent(encoding_format) && encoding_format !== "float" && encoding_format !== "base64") {
    throw refuseField("encoding_format", 'must be "float" or "base64"');
  }
  positive(dimensions, "dimensions");
  const other = NOT_HERE.find((name) => !isAbsent(body[name]) && body[name] !== false);
  if (other !== undefined) throw refuseField(other, "is not supported for embeddings");
  return {
    model,
    n: 1,
    maxTokens: 0,
    passed: {
      input,
      ...(!isAbsent(encoding_format) && { encoding_format }),
      ...(!isAbsent(dimensions) && { dimensions }),
      ...passedOn(body, OURS),
    },
    bytes: raw.length,
    fingerprint: fingerprintOf(raw),
  };
}

/** A text, a list of token numbers, or a list of either: each no more tokens than bytes. */
function checkInput(input: unknown): void {
  if (typeof input === "string") return;
  if (!Array.isArray(input) || input.length === 0) {
    throw refuseField("input", "must be a text, tokens, or a list of at least one of either");
  }
  if (input.every(isToken)) return;
  if (input.length > MAX_INPUTS) throw refuseField("input", `has more than ${MAX_INPUTS} texts`);
  const wrong = input.findIndex((one) => typeof one !== "string" && !isTokens(one));
  if (wrong >= 0) throw refuseField(`input[${wrong}]`, "must be a text or a list of tokens");
}

const isToken = (one: unknown): boolean => Number.isSafeInteger(one) && (one as number) >= 0;
const isTokens = (one: unknown): boolean =>
  Array.isArray(one) && one.length > 0 && one.every(isToken);
