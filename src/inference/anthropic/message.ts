import { newId } from "../../base/ids.js";
import { isObject, type Json } from "../values.js";

/** Ids of ours, in the forms that Anthropic's clients know. */
export const newMessageId = (): string => `msg_${newId().replaceAll("-", "")}`;
export const newToolUseId = (): string => `toolu_${newId().replaceAll("-", "")}`;

/**
 * The signature of thoughts that nobody signed. Clients keep and send back only thoughts that have
 * one.
 */
export const UNSIGNED = "unsigned";

/** Why a message ended. */
export interface Ending {
  stop_reason: string;
  stop_sequence: string | null;
}

/** Of a message that we cut, for want of money or because it was as long as it may be. */
export const CUT: Ending = { stop_reason: "max_tokens", stop_sequence: null };

/** A message as callers see it. */
export function messageBody(model: string, content: unknown[], ending: Ending, usage: Json): Json {
  return {
    id: newMessageId(),
    type: "message",
    role: "assistant",
    model,
    content,
    ...ending,
    usage,
  };
}

/**
 * Why a message ended, from why a chat completion did.
 *
 * @param choice whose `finish_reason` says it; some upstreams name the stop sequence that they met
 *   in its `stop_reason`
 * @param calls  whether the message calls a tool: some upstreams say "stop" even so
 */
export function endingOf(choice: Json, calls: boolean, stopSequences: readonly string[]): Ending {
  const met = choice.stop_reason;
  switch (choice.finish_reason) {
    case "length":
      return { stop_reason: "max_tokens", stop_sequence: null };
    case "content_filter":
      return { stop_reason: "refusal", stop_sequence: null };
    default:
      if (calls) return { stop_reason: "tool_use", stop_sequence: null };
      if (typeof met === "string" && stopSequences.includes(met)) {
        return { stop_reason: "stop_sequence", stop_sequence: met };
      }
      return { stop_reason: "end_turn", stop_sequence: null };
  }
}

/** What stands in a cache is paid like any other input, so nothing is ever said to come from one. */
const NO_CACHE = { cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };

/**
 * Usage in Anthropic's words.
 *
 * @param usage  as a chat completion's caller reads it, cost included
 * @param cached input tokens that the upstream wrote to its cache, or read from there: shown apart,
 *   and part of the input that is paid for
 */
export function messagesUsage(usage: Json, cached: Json = NO_CACHE): Json {
  const { prompt_tokens, completion_tokens, total_tokens: _, ...rest } = usage;
  const { prompt_tokens_details: _in, completion_tokens_details: _out, ...cost } = rest;
  const apart = Object.values(cached).reduce<number>((sum, tokens) => sum + Number(tokens), 0);
  return {
    input_tokens: Number(prompt_tokens) - apart,
    ...cached,
    output_tokens: completion_tokens,
    ...cost,
  };
}

/** What the assistant of a chat completion wrote, as blocks. */
export function blocksOf(message: Json, thinkingShown: boolean): Json[] {
  const thinking = thinkingOf(message);
  const texts = [message.content, message.refusal].filter(isWritten);
  const calls = Array.isArray(message.tool_calls) ? message.tool_calls.filter(isObject) : [];
  return [
    ...(thinkingShown && isWritten(thinking)
      ? [{ type: "thinking", thinking, signature: UNSIGNED }]
      : []),
    ...texts.map((text) => ({ type: "text", text })),
    ...calls.map((call) => {
      const called = isObject(call.function) ? call.function : {};
      return {
        type: "tool_use",
        id: newToolUseId(),
        name: called.name,
        input: inputOf(called.arguments),
      };
    }),
  ];
}

/** What a model thought, in a message or a delta of it. Upstreams use either name. */
export const thinkingOf = ({ reasoning_content, reasoning }: Json): unknown =>
  reasoning_content ?? reasoning;

export const isWritten = (value: unknown): value is string =>
  typeof value === "string" && value !== "";

/** A model may write arguments that are no object, or be cut in the middle: nothing was said then. */
function inputOf(text: unknown): Json {
  try {
    const input: unknown = JSON.parse(String(text));
    return isObject(input) ? input : {};
  } catch {
    return {};
  }
}
