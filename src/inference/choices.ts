import { isObject, type Json } from "./values.js";

/** Why an answer may have ended; upstreams have further words of their own. */
const ENDINGS: ReadonlySet<unknown> = new Set([
  "stop",
  "length",
  "tool_calls",
  "content_filter",
  "function_call",
]);
/** What a message carries as text. */
export const TEXTS = ["content", "reasoning_content", "reasoning", "refusal"] as const;

/**
 * An answer with the fields that clients know and no others: what an upstream adds may name it. Ids
 * of tool calls pass, since they come back in the next request and some models read them there.
 */
export function shownChoice(choice: unknown, i: number): Json {
  const { index, message, logprobs, finish_reason } = isObject(choice) ? choice : {};
  return {
    index: Number.isSafeInteger(index) ? index : i,
    message: isObject(message) ? shownMessage(message) : { role: "assistant", content: null },
    logprobs: logprobs ?? null,
    finish_reason: ENDINGS.has(finish_reason) ? finish_reason : "stop",
  };
}

/** A piece of an answer, likewise. Fields that are absent stay so: a piece adds to those before. */
export function shownPiece(choice: unknown, i: number): Json {
  const { index, delta, logprobs, finish_reason } = isObject(choice) ? choice : {};
  const ending = ENDINGS.has(finish_reason) ? finish_reason : "stop";
  return {
    index: Number.isSafeInteger(index) ? index : i,
    delta: isObject(delta) ? shownDelta(delta) : {},
    ...(logprobs !== undefined && { logprobs }),
    finish_reason: typeof finish_reason === "string" ? ending : null,
  };
}

const shownMessage = (message: Json): Json =>
  withSaid({ role: "assistant", content: null }, message);

const shownDelta = (delta: Json): Json =>
  withSaid(delta.role === undefined ? {} : { role: "assistant" }, delta);

function withSaid(shown: Json, delta: Json): Json {
  for (const name of TEXTS) if (delta[name] !== undefined) shown[name] = delta[name];
  if (Array.isArray(delta.tool_calls)) {
    shown.tool_calls = delta.tool_calls.filter(isObject).map(shownCall);
  }
  if (isObject(delta.function_call)) shown.function_call = shownFunction(delta.function_call);
  return shown;
}

const shownCall = ({ index, id, type, function: called, custom }: Json): Json => ({
  ...(index !== undefined && { index }),
  ...(id !== undefined && { id }),
  ...(type !== undefined && { type }),
  ...(isObject(called) && { function: shownFunction(called) }),
  ...(isObject(custom) && { custom: { name: custom.name, input: custom.input } }),
});

const shownFunction = (called: Json): Json => ({ name: called.name, arguments: called.arguments });
