import { DEMO_MODELS, type DemoModel } from "./demo-models.js";

/** A chat completion as the demo upstream understands it. */
export interface DemoRequest {
  model: DemoModel;
  /** Texts of all messages. */
  prompt: string;
  maxTokens: number;
  n: number;
  stream: boolean;
  includeUsage: boolean;
}

/** A refusal in the words of an OpenAI-compatible server. */
export interface DemoRefusal {
  status: number;
  message: string;
  param: string | null;
  code: string | null;
}

const KNOWN = new Set(
  (
    "model messages max_tokens temperature top_p stop n seed presence_penalty frequency_penalty " +
    "tools tool_choice parallel_tool_calls response_format user stream stream_options logprobs " +
    "top_logprobs logit_bias reasoning_effort top_k min_p repetition_penalty"
  ).split(" "),
);
const DEFAULT_MAX_TOKENS = 3_072;
const MAX_N = 5;

type Json = Record<string, unknown>;

/**
 * Reads a request as strictly as real gateways do: a parameter that it does not know is refused.
 */
export function readDemoRequest(text: string): DemoRequest | DemoRefusal {
  const body = parsed(text);
  if (!isObject(body)) return invalid("the body is not a JSON object", null);
  const unknown = Object.keys(body).find((name) => !KNOWN.has(name));
  if (unknown !== undefined) return invalid(`unknown parameter: ${unknown}`, unknown);
  const model = DEMO_MODELS.find((each) => each.id === body.model);
  if (!model) {
    const message = `the model ${JSON.stringify(body.model)} does not exist`;
    return { status: 404, message, param: "model", code: "model_not_found" };
  }
  if (!Array.isArray(body.messages) || body.messages.length === 0) {
    return invalid("messages must be a list of at least one", "messages");
  }
  if (body.stream_options !== undefined && body.stream !== true) {
    return invalid("stream_options is only allowed when stream is true", "stream_options");
  }
  const maxTokens = positive(body.max_tokens, DEFAULT_MAX_TOKENS);
  if (maxTokens === undefined) return invalid("max_tokens must be positive", "max_tokens");
  const n = positive(body.n, 1);
  if (n === undefined || n > MAX_N) return invalid(`n must be 1 to ${MAX_N}`, "n");

  return {
    model,
    prompt: body.messages.map(textOf).join(" "),
    maxTokens,
    n,
    stream: body.stream === true,
    includeUsage: isObject(body.stream_options) && body.stream_options.include_usage === true,
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function textOf(message: unknown): string {
  if (!isObject(message)) return "";
  if (typeof message.content === "string") return message.content;
  if (!Array.isArray(message.content)) return "";
  return message.content
    .map((part: unknown) => (isObject(part) && typeof part.text === "string" ? part.text : ""))
    .join(" ");
}

function positive(value: unknown, fallback: number): number | undefined {
  if (value === undefined || value === null) return fallback;
  return Number.isInteger(value) && (value as number) > 0 ? (value as number) : undefined;
}

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const invalid = (message: string, param: string | null): DemoRefusal => ({
  status: 400,
  message,
  param,
  code: null,
});
