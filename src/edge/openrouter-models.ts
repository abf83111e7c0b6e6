import type { JsonObject } from "@bufbuild/protobuf";
import { refuseField } from "../base/errors.js";
import { showTokenPrice, type Unit } from "../base/unit.js";
import type { Model } from "../inference/models.js";
import { modelBody } from "./openai.js";
import { readCount } from "./openrouter-requests.js";

const MAX_PAGE = 1_000;
const MAX_OFFSET = 1_000_000_000;
const QUERY = ["limit", "offset", "supported_parameters", "input_modalities", "output_modalities"];
const OUTPUTS = ["text"];

/** What is passed on; whether a model heeds it is its own affair. */
const PARAMETERS = [
  ...["max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "top_a"],
  ...["frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "seed", "stop"],
  ...["logprobs", "top_logprobs", "response_format", "structured_outputs", "reasoning_effort"],
  ...["reasoning", "tools", "tool_choice", "parallel_tool_calls"],
];

/** A model in the fields of both kinds of clients. */
export function openRouterModel(model: Model, unit: Unit): JsonObject {
  const { id, contextTokens, maxOutputTokens, takesImages, price } = model;
  return {
    ...modelBody(model),
    canonical_slug: id,
    name: id,
    description: "",
    context_length: contextTokens,
    architecture: {
      modality: takesImages ? "text+image->text" : "text->text",
      input_modalities: inputsOf(model),
      output_modalities: OUTPUTS,
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

/**
 * The models that a query asks for, as a list.
 *
 * @throws invalid_request_error by the parameter's name
 */
export function openRouterModels(all: Model[], query: URLSearchParams, unit: Unit): JsonObject {
  const unknown = [...query.keys()].find((name) => !QUERY.includes(name));
  if (unknown !== undefined) throw refuseField(unknown.slice(0, 60), "unknown query parameter");
  const offset = readCount(query, "offset", 0, MAX_OFFSET);
  const limit = readCount(query, "limit", MAX_PAGE, MAX_PAGE);
  const asked = (name: string) => (query.get(name) ?? "").split(",").filter((word) => word !== "");
  const inputs = asked("input_modalities");
  const outputs = asked("output_modalities").filter((word) => word !== "all");
  const found = all.filter(
    (model) =>
      asked("supported_parameters").every((name) => PARAMETERS.includes(name)) &&
      inputs.every((word) => inputsOf(model).includes(word)) &&
      outputs.every((word) => OUTPUTS.includes(word)),
  );
  return {
    object: "list",
    data: found.slice(offset, offset + limit).map((model) => openRouterModel(model, unit)),
    total_count: found.length,
    links: { next: null },
  };
}

const inputsOf = ({ takesImages }: Model): string[] => (takesImages ? ["text", "image"] : ["text"]);
