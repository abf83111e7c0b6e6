import { refuse, refuseField } from "../base/errors.js";
import type { Asked } from "./kind.js";

export type Json = Record<string, unknown>;

/** A chat completion as it was asked for, everything that decides its cost read and checked. */
export interface ChatRequest extends Asked {
  stream: boolean;
  /** Whether the caller wants the usage at the end of its stream. */
  includeUsage: boolean;
}

const MAX_N = 5;
const MAX_STREAM_OPTIONS = ["include_usage", "include_obfuscation"];

/** Ours to decide. */
const OURS = new Set([
  "model",
  "messages",
  "n",
  "max_tokens",
  "max_completion_tokens",
  "stream",
  "stream_options",
]);

/**
 * They keep things at the upstream, or name the caller to it, and change no answer: not passed on.
 */
const DROPPED = new Set([
  "store",
  "metadata",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
]);

/** They change what a request costs in ways that its estimate does not cover. */
const COSTLY = new Set([
  "audio",
  "modalities",
  "prediction",
  "web_search_options",
  "service_tier",
  "best_of",
  "use_beam_search",
  "num_beams",
  "models",
  "route",
  "provider",
  "plugins",
  "transforms",
  "fallbacks",
  "background",
  "max_output_tokens",
  "max_new_tokens",
  "max_length",
  "num_predict",
  "n_predict",
  "num_return_sequences",
  "chat_template",
  "prompt_logprobs",
  "prompt",
  "prompt_embeds",
  "extra_body",
]);

/**
 * Reads a chat completion's parameters. What changes its cost is checked or refused by name;
 * everything else passes.
 *
 * @param body what the caller sent, parsed
 * @throws invalid_request_error with the parameter's path
 */
export function readChatRequest(body: unknown, bytes: number, fingerprint: bigint): ChatRequest {
  if (!isObject(body)) {
    throw refuse("invalid_request_error", { message: "the body must be a JSON object" });
  }
  if (typeof body.model !== "string" || body.model === "") {
    throw refuseField("model", "must be the id of a model");
  }
  const stream = flag(body.stream, "stream");
  const includeUsage = readStreamOptions(body.stream_options, stream);
  checkMessages(body.messages);
  checkTools(body.tools);
  return {
    model: body.model,
    n: readN(body.n),
    maxTokens: readMaxTokens(body),
    stream,
    includeUsage,
    passed: { messages: body.messages, ...passedOn(body) },
    bytes,
    fingerprint,
  };
}

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const isAbsent = (value: unknown) => value === undefined || value === null;

function passedOn(body: Json): Json {
  const passed: Json = {};
  for (const [name, value] of Object.entries(body)) {
    if (OURS.has(name) || DROPPED.has(name) || value === null) continue;
    if (name === "service_tier" && (value === "auto" || value === "default")) continue;
    if (name === "modalities" && JSON.stringify(value) === '["text"]') continue;
    if (COSTLY.has(name)) throw refuseField(name, "is not supported");
    Object.defineProperty(passed, name, { value, enumerable: true });
  }
  return passed;
}

function readMaxTokens(body: Json): number | undefined {
  const one = positive(body.max_tokens, "max_tokens");
  const other = positive(body.max_completion_tokens, "max_completion_tokens");
  if (one !== undefined && other !== undefined && one !== other) {
    throw refuseField("max_tokens", "differs from max_completion_tokens; set one of them");
  }
  return one ?? other;
}

function readN(value: unknown): number {
  const n = positive(value, "n") ?? 1;
  if (n > MAX_N) throw refuseField("n", `must be at most ${MAX_N}`);
  return n;
}

function positive(value: unknown, name: string): number | undefined {
  if (isAbsent(value)) return undefined;
  if (!Number.isSafeInteger(value) || (value as number) < 1) {
    throw refuseField(name, "must be a positive whole number");
  }
  return value as number;
}

function flag(value: unknown, name: string): boolean {
  if (isAbsent(value)) return false;
  if (typeof value !== "boolean") throw refuseField(name, "must be true or false");
  return value;
}

function readStreamOptions(options: unknown, stream: boolean): boolean {
  if (isAbsent(options)) return false;
  if (!isObject(options)) throw refuseField("stream_options", "must be an object");
  if (!stream) throw refuseField("stream_options", 'is only allowed with "stream": true');
  const unknown = Object.keys(options).find((name) => !MAX_STREAM_OPTIONS.includes(name));
  if (unknown !== undefined) throw refuseField(`stream_options.${unknown}`, "is not supported");
  return flag(options.include_usage, "stream_options.include_usage");
}

function checkMessages(messages: unknown): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw refuseField("messages", "must be a list of at least one message");
  }
  for (const [i, message] of messages.entries()) {
    const path = `messages[${i}]`;
    if (!isObject(message)) throw refuseField(path, "must be an object");
    if (!isAbsent(message.audio)) throw refuseField(`${path}.audio`, "is not supported");
    checkContent(message.content, `${path}.content`);
  }
}

/**
 * Only text is bounded by the bytes of the request: an image's few bytes of address may cost
 * thousands of tokens.
 */
function checkContent(content: unknown, path: string): void {
  if (isAbsent(content) || typeof content === "string") return;
  if (!Array.isArray(content)) throw refuseField(path, "must be a text or a list of parts");
  for (const [i, part] of content.entries()) {
    const isText = isObject(part) && (part.type === "text" || part.type === "refusal");
    if (!isText) throw refuseField(`${path}[${i}]`, "only text parts are supported");
  }
}

function checkTools(tools: unknown): void {
  if (isAbsent(tools)) return;
  if (!Array.isArray(tools)) throw refuseField("tools", "must be a list");
  for (const [i, tool] of tools.entries()) {
    const known = isObject(tool) && (tool.type === "function" || tool.type === "custom");
    if (!known) throw refuseField(`tools[${i}]`, "only functions are supported");
  }
}
