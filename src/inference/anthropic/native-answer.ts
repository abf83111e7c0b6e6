import { isObject, type Json } from "../values.js";
import { type Ending, newToolUseId } from "./message.js";

const CACHED = ["cache_creation_input_tokens", "cache_read_input_tokens"] as const;

/**
 * A report of usage in OpenAI's words, `prompt_tokens` and `completion_tokens`. All input is paid
 * for, also what the upstream wrote to its cache or read from there.
 */
export function reportOf(usage: unknown): Json | undefined {
  if (!isObject(usage)) return undefined;
  const { input_tokens, output_tokens } = usage;
  const cached = Object.values(cachedOf(usage)).reduce((sum, tokens) => sum + tokens, 0);
  return { prompt_tokens: Number(input_tokens) + cached, completion_tokens: output_tokens };
}

/** Input tokens that were written to a cache, or read from there. */
export function cachedOf(usage: unknown): Record<(typeof CACHED)[number], number> {
  const of = (name: (typeof CACHED)[number]) => {
    const tokens = isObject(usage) ? usage[name] : undefined;
    return typeof tokens === "number" ? tokens : 0;
  };
  return {
    cache_creation_input_tokens: of("cache_creation_input_tokens"),
    cache_read_input_tokens: of("cache_read_input_tokens"),
  };
}

const REASONS = new Set(
  "end_turn max_tokens stop_sequence tool_use pause_turn refusal model_context_window_exceeded".split(
    " ",
  ),
);

/** Why a message ended, as it was said there: in words that callers know, or that are theirs. */
export function endingOf({ stop_reason, stop_sequence }: Json, stopSequences: string[]): Ending {
  const known = typeof stop_reason === "string" && REASONS.has(stop_reason);
  const met = typeof stop_sequence === "string" && stopSequences.includes(stop_sequence);
  return {
    stop_reason: known ? stop_reason : "end_turn",
    stop_sequence: met ? stop_sequence : null,
  };
}

/**
 * A block of an answer as callers see it: what they may read, and ids of ours. A kind that nobody
 * asked for is an empty text, so that the others keep their places.
 */
export function shownBlock(block: Json): Json {
  const { type, text, thinking, signature, data, name, input } = block;
  switch (type) {
    case "text":
      return { type, text };
    case "thinking":
      return { type, thinking, signature };
    case "redacted_thinking":
      return { type, data };
    case "tool_use":
      return { type, id: newToolUseId(), name, input };
    default:
      return { type: "text", text: "" };
  }
}

/** What a delta adds to its block; undefined for what callers do not see. */
export function shownDelta({
  type,
  text,
  thinking,
  signature,
  partial_json,
}: Json): Json | undefined {
  switch (type) {
    case "text_delta":
      return { type, text };
    case "thinking_delta":
      return { type, thinking };
    case "signature_delta":
      return { type, signature };
    case "input_json_delta":
      return { type, partial_json };
    default:
      return undefined;
  }
}
