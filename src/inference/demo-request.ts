import { DEMO_MODELS, type DemoModel } from "./demo-models.js";

/** A chat completion as the demo upstream understands it. */
export interface DemoRequest {
  model: DemoModel;
  /** Texts of all messages. */
  prompt: string;
  images: number;
  maxTokens: number;
  n: number;
  stream: boolean;
  includeUsage: boolean;
  /** Alternatives to tell of each token; undefined: no probabilities are asked for. */
  topLogprobs: number | undefined;
  /** The tools that it will call. */
  calls: DemoTool[];
  /** The JSON Schema that its text must fit; undefined: free text. */
  schema: Json | undefined;
}

export interface DemoTool {
  name: string;
  /** JSON Schema of its arguments. */
  parameters: Json;
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
/** What fits `{"type":"json_object"}`. */
const ANY_OBJECT: Json = { type: "object", properties: { answer: { type: "string" } } };

export type Json = Record<string, unknown>;

/**
 * Reads a request as strictly as real gateways do: a parameter that it does not know is refused.
 */
export function readDemoRequest(text: string): DemoRequest | DemoRefusal {
  const body = parsed(text);
  if (!isObject(body)) return invalid("the body is not a JSON object", null);
  const unknown = Object.keys(body).find((name) => !KNOWN.has(name));
  if (unknown !== undefined) return invalid(`unknown parameter: ${unknown}`, unknown);
  const model = findDemoModel(body.model, false);
  if ("status" in model) return model;
  const { messages } = body;
  if (!Array.isArray(messages) || messages.length === 0) {
    return invalid("messages must be a list of at least one", "messages");
  }
  const images = messages.flatMap(partsOf).filter(({ type }) => type === "image_url").length;
  if (images > 0 && !model.sees) return invalid(`${model.id} takes no images`, "messages");
  if (body.stream_options !== undefined && body.stream !== true) {
    return invalid("stream_options is only allowed when stream is true", "stream_options");
  }
  const maxTokens = positive(body.max_tokens, DEFAULT_MAX_TOKENS);
  if (maxTokens === undefined) return invalid("max_tokens must be positive", "max_tokens");
  const n = positive(body.n, 1);
  if (n === undefined || n > MAX_N) return invalid(`n must be 1 to ${MAX_N}`, "n");
  const calls = readCalls(body, messages);
  if ("status" in calls) return calls;

  return {
    model,
    prompt: messages.map(textOf).join(" "),
    images,
    maxTokens,
    n,
    stream: body.stream === true,
    includeUsage: isObject(body.stream_options) && body.stream_options.include_usage === true,
    topLogprobs: body.logprobs === true ? (positive(body.top_logprobs, 0) ?? 0) : undefined,
    calls,
    schema: readSchema(body.response_format),
  };
}

/** A model by its id: one that writes, or one that embeds. */
export function findDemoModel(id: unknown, embeds: boolean): DemoModel | DemoRefusal {
  const model = DEMO_MODELS.find((each) => each.id === id);
  if (model !== undefined) {
    if ((model.embeds === true) === embeds) return model;
    return invalid(`${model.id} does not support this path`, "model");
  }
  const message = `the model ${JSON.stringify(id)} does not exist`;
  return { status: 404, message, param: "model", code: "model_not_found" };
}

/**
 * Which tools are called: the named one, or the first (with `parallel_tool_calls: true` all), until
 * their answers have come.
 */
function readCalls(body: Json, messages: unknown[]): DemoTool[] | DemoRefusal {
  const { tool_choice: choice } = body;
  const tools = Array.isArray(body.tools) ? body.tools.flatMap(toolOf) : [];
  if (isObject(choice)) {
    const wanted = isObject(choice.function) ? choice.function.name : undefined;
    const named = tools.filter(({ name }) => name === wanted);
    return named.length > 0 ? named : invalid("tool_choice names no tool", "tool_choice");
  }
  const last = messages.at(-1);
  const answered = isObject(last) && last.role === "tool";
  if (choice === "none" || (answered && choice !== "required")) return [];
  return tools.slice(0, body.parallel_tool_calls === true ? undefined : 1);
}

function toolOf(tool: unknown): DemoTool[] {
  if (!isObject(tool) || !isObject(tool.function)) return [];
  const { name, parameters } = tool.function;
  return [{ name: String(name), parameters: isObject(parameters) ? parameters : {} }];
}

function readSchema(format: unknown): Json | undefined {
  if (!isObject(format)) return undefined;
  if (format.type === "json_object") return ANY_OBJECT;
  const { json_schema: wanted } = format;
  return isObject(wanted) && isObject(wanted.schema) ? wanted.schema : undefined;
}

export function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const partsOf = (message: unknown): Json[] =>
  isObject(message) && Array.isArray(message.content) ? message.content.filter(isObject) : [];

function textOf(message: unknown): string {
  if (!isObject(message)) return "";
  if (typeof message.content === "string") return message.content;
  return partsOf(message)
    .flatMap(({ text }) => (typeof text === "string" ? text : []))
    .join(" ");
}

function positive(value: unknown, fallback: number): number | undefined {
  if (value === undefined || value === null) return fallback;
  return Number.isInteger(value) && (value as number) > 0 ? (value as number) : undefined;
}

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const invalid = (message: string, param: string | null): DemoRefusal => ({
  status: 400,
  message,
  param,
  code: null,
});
