import type { JsonObject } from "@bufbuild/protobuf";
import type { Refusal } from "../base/errors.js";
import { refuseField } from "../base/errors.js";
import { now, SECOND } from "../base/time.js";
import { showTokenPrice, type Unit } from "../base/unit.js";
import { newAnswerId } from "../inference/answer-id.js";
import type { Model } from "../inference/models.js";
import { modelBody, type Words } from "./openai.js";
import { OPENAI_WORDS } from "./openai-stream.js";
import { openRouterChat, readOpenRouterChat } from "./openrouter-chat.js";
import { openRouterError, openRouterRefusal } from "./openrouter-errors.js";
import { readCount } from "./openrouter-requests.js";

const MAX_PAGE = 1_000;
const MAX_OFFSET = 1_000_000_000;
const QUERY = ["limit", "offset", "supported_parameters", "input_modalities", "output_modalities"];

/** What is passed on; whether a model heeds it is its own affair. */
const PARAMETERS = [
  ...["max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "top_a"],
  ...["frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "seed", "stop"],
  ...["logprobs", "top_logprobs", "response_format", "structured_outputs", "reasoning_effort"],
  ...["reasoning", "tools", "tool_choice", "parallel_tool_calls"],
];
const NEITHER = ["text"];

/** How callers of /api/v1 are spoken to: as OpenRouter's clients expect it. @param unit of amounts */
export const openRouterWords = (unit: Unit): Words => ({
  chat: openRouterChat(unit),
  readChat: readOpenRouterChat,
  model: (model) => openRouterModel(model, unit),
  models: (all, query) => {
    const { data, total } = pageOf(all, query);
    return {
      object: "list",
      data: data.map((model) => openRouterModel(model, unit)),
      total_count: total,
      links: { next: null },
    };
  },
  refusal: openRouterRefusal,
  stream: { heartbeat: OPENAI_WORDS.heartbeat, error: broken },
});

/** A chunk that says of its answer that it ended in an error. */
function broken(refusal: Refusal): string {
  const chunk = {
    id: newAnswerId(),
    object: "chat.completion.chunk",
    created: Math.floor(now() / SECOND),
    model: "",
    choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: "error" }],
    error: openRouterError(refusal),
  };
  return `data: ${JSON.stringify(chunk)}\n\n`;
}

function openRouterModel(model: Model, unit: Unit): JsonObject {
  const { id, contextTokens, maxOutputTokens, price } = model;
  return {
    ...modelBody(model),
    canonical_slug: id,
    name: id,
    description: "",
    context_length: contextTokens,
    architecture: {
      modality: "text->text",
      input_modalities: NEITHER,
      output_modalities: NEITHER,
      tokenizer: "Other",
      instruct_type: null,
    },
    pricing: {
      prompt: showTokenPrice(unit, price.inputPerMtok),
      completion: showTokenPrice(unit, price.outputPerMtok),
      ...{ request: "0", image: "0", web_search: "0", internal_reasoning: "0" },
    },
    top_provider: {
      context_length: contextTokens,
      max_completion_tokens: maxOutputTokens,
      is_moderated: false,
    },
    per_request_limits: null,
    supported_parameters: PARAMETERS,
    supported_voices: null,
    default_parameters: null,
    links: { details: `/api/v1/models/${id}` },
  };
}

/** The models that a query asks for. All take the same parameters, and texts only. */
function pageOf(all: Model[], query: URLSearchParams): { data: Model[]; total: number } {
  const unknown = [...query.keys()].find((name) => !QUERY.includes(name));
  if (unknown !== undefined) throw refuseField(unknown.slice(0, 60), "unknown query parameter");
  const offset = readCount(query, "offset", 0, MAX_OFFSET);
  const limit = readCount(query, "limit", MAX_PAGE, MAX_PAGE);
  const wanted = wordsOf(query, "supported_parameters");
  const modalities = ["input_modalities", "output_modalities"].map((name) => wordsOf(query, name));
  const fits =
    wanted.every((name) => PARAMETERS.includes(name)) &&
    modalities.every(
      (words) => words.length === 0 || words.some((word) => /^(text|all)$/.test(word)),
    );
  const found = fits ? all : [];
  return { data: found.slice(offset, offset + limit), total: found.length };
}

const wordsOf = (query: URLSearchParams, name: string): string[] =>
  (query.get(name) ?? "").split(",").filter((word) => word !== "");
