import { refuseField } from "../base/errors.js";
import { checkTools, readMessages } from "./content.js";
import type { Asked } from "./kind.js";
import { flag, isAbsent, isObject, type Json, positive } from "./values.js";

/** A chat completion as it was asked for, everything that decides its cost read and checked. */
export interface ChatRequest extends Asked {
  stream: boolean;
  /** Whether the caller wants the usage at the end of its stream, or nowhere else than there. */
  includeUsage: boolean | "last";
  /** Of its answer, where something beside the answer must name it too; else a new one. */
  answerId?: string;
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
 * They keep things at the upstream, name the caller to it, or ask for the usage that every answer
 * has, and change no answer: not passed on.
 */
export const DROPPED: ReadonlySet<string> = new Set(
  (
    "store metadata user safety_identifier session_id trace usage " +
    "prompt_cache_key prompt_cache_retention"
  ).split(" "),
);

/**
 * They change what a request costs in ways that its estimate does not cover: more answers, another
 * prompt than the one that was sent, another price, another model, or work beside the model's.
 */
export const COSTLY: ReadonlySet<string> = new Set(
  [
    "best_of use_beam_search num_beams num_return_sequences prediction",
    "max_output_tokens max_new_tokens max_length num_predict n_predict max_gen_toks",
    "audio modalities video_url mm_processor_kwargs media_io_kwargs",
    "chat_template prompt prompt_embeds prompt_logprobs prompt_id extra_body",
    "service_tier speed priority background",
    "models route provider plugins transforms fallbacks preset",
    "web_search web_search_options search search_options search_parameters enable_search",
    "tool_resources file_ids data_sources mcp_servers container",
    "vllm_xargs kv_transfer_params lora_request lora adapter",
  ]
    .join(" ")
    .split(" "),
);

/** Values of costly parameters that say what is the case anyway: dropped. */
const HARMLESS: Record<string, readonly string[]> = {
  service_tier: ['"auto"', '"default"', '"standard"'],
  modalities: ['["text"]'],
  background: ["false"],
  use_beam_search: ["false"],
  enable_search: ["false"],
  web_search: ["false"],
  best_of: ["1"],
  num_return_sequences: ["1"],
  models: ["[]"],
  plugins: ["[]"],
  transforms: ["[]"],
};

/**
 * Reads a chat completion's parameters. What changes its cost is understood or refused by name;
 * everything else passes.
 *
 * @param body what the caller sent, parsed
 * @throws invalid_request_error with the parameter's path
 */
export function readChatRequest(body: Json, bytes: number, fingerprint: bigint): ChatRequest {
  const model = readModel(body.model);
  const stream = flag(body.stream, "stream");
  const includeUsage = readStreamOptions(body.stream_options, stream);
  const { textLength, images, imageBytes } = readMessages(body.messages);
  checkTools(body.tools);
  const request: ChatRequest = {
    model,
    n: readN(body.n),
    maxTokens: readMaxTokens(body),
    stream,
    includeUsage,
    passed: passedOn(body, OURS, { messages: body.messages }),
    bytes,
    textLength,
    fingerprint,
  };
  if (images > 0) {
    request.images = images;
    request.imageBytes = imageBytes;
  }
  return request;
}

/** @throws invalid_request_error */
export function readModel(model: unknown): string {
  if (typeof model !== "string" || model === "") {
    throw refuseField("model", "must be the id of a model");
  }
  return model;
}

/**
 * The parameters that go to the upstream as they are.
 *
 * @param ours   those that were read already
 * @param passed what stands before them
 * @throws invalid_request_error with the name of one that changes the cost
 */
export function passedOn(body: Json, ours: ReadonlySet<string>, passed: Json = {}): Json {
  for (const [name, value] of Object.entries(body)) {
    if (ours.has(name) || DROPPED.has(name) || value === null) continue;
    if (COSTLY.has(name)) {
      if (Object.hasOwn(HARMLESS, name) && HARMLESS[name]?.includes(JSON.stringify(value)))
        continue;
      throw refuseField(name, "is not supported");
    }
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

function readStreamOptions(options: unknown, stream: boolean): boolean {
  if (isAbsent(options)) return false;
  if (!isObject(options)) throw refuseField("stream_options", "must be an object");
  if (!stream) throw refuseField("stream_options", 'is only allowed with "stream": true');
  const unknown = Object.keys(options).find((name) => !MAX_STREAM_OPTIONS.includes(name));
  if (unknown !== undefined) throw refuseField(`stream_options.${unknown}`, "is not supported");
  return flag(options.include_usage, "stream_options.include_usage");
}
