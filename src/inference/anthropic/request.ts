import { refuseField } from "../../base/errors.js";
import type { Asked } from "../kind.js";
import { readModel } from "../parameters.js";
import { fingerprintOf, parseBody } from "../request.js";
import { flag, isAbsent, isObject, type Json, positive } from "../values.js";
import { measured, readSystem, readTurns, type Turn } from "./blocks.js";
import { readToolChoice, readTools, type Tool, type ToolChoice } from "./tools.js";

/** A message as it was asked for in Anthropic's words, everything in it read and checked. */
export interface MessagesRequest extends Asked {
  stream: boolean;
  system: string[];
  turns: Turn[];
  tools: Tool[];
  toolChoice: ToolChoice | undefined;
  stopSequences: string[];
  thinking: Thinking;
  /** A JSON schema that the answer must follow. */
  schema: Json | undefined;
}

export interface Thinking {
  /** Whether the caller wants to read it. */
  shown: boolean;
  /** How hard, where the caller says so. */
  effort: Effort | undefined;
}

/** In OpenAI's words. */
export type Effort = "low" | "medium" | "high";

/** They reach an upstream that understands these words as they are. */
const PASSED = [
  "messages",
  "system",
  "tools",
  "tool_choice",
  "stop_sequences",
  "temperature",
  "top_p",
  "top_k",
  "thinking",
  "output_config",
];

/** They change what a request costs, or what it is about, in ways that we cannot see. */
const COSTLY = [
  "container",
  "mcp_servers",
  "inference_geo",
  "fallbacks",
  "fallback_credit_token",
  "billing_policy",
  "thread",
];

/** The values of these that change nothing. */
const HARMLESS: Record<string, readonly string[]> = {
  service_tier: ["auto", "standard_only"],
  speed: ["standard"],
};

/** The same bytes at another door ask for something else. */
const IN_THESE_WORDS = 0x6d657373_61676573n;

const EFFORTS: Record<string, Effort> = {
  low: "low",
  medium: "medium",
  high: "high",
  xhigh: "high",
  max: "high",
};
/** Budgets in tokens from which on thought is no longer little, and then much. */
const SOME_THOUGHT = 4_096;
const MUCH_THOUGHT = 16_384;

/**
 * Reads a message from the bytes of its body. What changes its cost is checked or refused by name;
 * `metadata`, `context_management` and whatever else changes no cost is accepted and not passed on.
 *
 * @throws invalid_request_error  not JSON, or a parameter that is wrong or would change the cost
 */
export function parseMessagesRequest(raw: Buffer): MessagesRequest {
  const body = parseBody(raw);
  if (isAbsent(body.max_tokens)) throw refuseField("max_tokens", "must be set");
  return readMessagesRequest(body, raw);
}

/** As `parseMessagesRequest`, for a request that may leave `max_tokens` out. */
export function readMessagesRequest(body: Json, raw: Buffer): MessagesRequest {
  const model = readModel(body.model);
  refuseCostly(body);
  const turns = readTurns(body.messages);
  const { textLength, ...pictures } = measured(turns);
  const tools = readTools(body.tools);
  const maxTokens = positive(body.max_tokens, "max_tokens");
  return {
    model,
    n: 1,
    maxTokens,
    // Callers must set it, and know no limits of ours
    fits: true,
    bytes: raw.length,
    textLength,
    fingerprint: fingerprintOf(raw) ^ IN_THESE_WORDS,
    stream: flag(body.stream, "stream"),
    system: readSystem(body.system),
    turns,
    tools,
    toolChoice: readToolChoice(body.tool_choice, tools),
    stopSequences: readStopSequences(body.stop_sequences),
    thinking: readThinking(body, maxTokens),
    schema: readSchema(body),
    passed: passedOn(body),
    ...(pictures.images > 0 && pictures),
  };
}

function refuseCostly(body: Json): void {
  const costly = COSTLY.find((name) => !isAbsent(body[name]) && !isEmptyList(body[name]));
  if (costly !== undefined) throw refuseField(costly, "is not supported");
  for (const [name, values] of Object.entries(HARMLESS)) {
    const value = body[name];
    if (!isAbsent(value) && !values.includes(String(value))) {
      throw refuseField(name, `must be ${values.join(" or ")}`);
    }
  }
}

const isEmptyList = (value: unknown) => Array.isArray(value) && value.length === 0;

function passedOn(body: Json): Json {
  const passed: Json = {};
  for (const name of PASSED) {
    if (!isAbsent(body[name])) passed[name] = body[name];
  }
  for (const name of ["temperature", "top_p", "top_k"]) {
    if (passed[name] !== undefined && !Number.isFinite(passed[name])) {
      throw refuseField(name, "must be a number");
    }
  }
  return passed;
}

function readStopSequences(value: unknown): string[] {
  if (isAbsent(value)) return [];
  if (!Array.isArray(value)) throw refuseField("stop_sequences", "must be a list of texts");
  return value.map((each: unknown, i) => {
    if (typeof each !== "string" || each === "") {
      throw refuseField(`stop_sequences[${i}]`, "must be a text that is not empty");
    }
    return each;
  });
}

function readThinking(body: Json, maxTokens: number | undefined): Thinking {
  const { thinking } = body;
  const effort = readEffort(body.output_config);
  if (isAbsent(thinking)) return { shown: false, effort };
  if (!isObject(thinking)) throw refuseField("thinking", "must be an object");
  const shown = thinking.display !== "omitted";
  switch (thinking.type) {
    case "disabled":
      return { shown: false, effort: undefined };
    case "adaptive":
    case "between_tools":
      return { shown, effort };
    case "enabled": {
      const budget = positive(thinking.budget_tokens, "thinking.budget_tokens");
      if (budget === undefined) throw refuseField("thinking.budget_tokens", "must be set");
      if (maxTokens !== undefined && budget >= maxTokens) {
        throw refuseField("thinking.budget_tokens", "must be less than max_tokens");
      }
      return { shown, effort: effort ?? effortOf(budget) };
    }
    default:
      throw refuseField("thinking.type", "must be enabled, disabled or adaptive");
  }
}

function readEffort(config: unknown): Effort | undefined {
  if (isAbsent(config)) return undefined;
  if (!isObject(config)) throw refuseField("output_config", "must be an object");
  const { effort } = config;
  if (isAbsent(effort)) return undefined;
  const known = typeof effort === "string" && Object.hasOwn(EFFORTS, effort);
  if (!known) throw refuseField("output_config.effort", "must be low, medium, high, xhigh or max");
  return EFFORTS[effort];
}

/** A budget of tokens as a word, for upstreams that know only words. */
function effortOf(budget: number): Effort {
  if (budget < SOME_THOUGHT) return "low";
  return budget < MUCH_THOUGHT ? "medium" : "high";
}

function readSchema({ output_config: config }: Json): Json | undefined {
  if (!isObject(config)) return undefined;
  const { format } = config;
  if (isAbsent(format)) return undefined;
  if (!isObject(format) || format.type !== "json_schema" || !isObject(format.schema)) {
    throw refuseField("output_config.format", "must have the type json_schema and a schema");
  }
  return format.schema;
}
