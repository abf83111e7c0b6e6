import { now, SECOND } from "../base/time.js";
import { newAnswerId } from "./answer-id.js";
import { createChunkReader } from "./chunks.js";
import { upstreamBody } from "./estimate.js";
import type { Kind } from "./kind.js";
import { type ChatRequest, isObject, type Json } from "./parameters.js";
import { reportedUsage, tokensOf, type Usage, usageBody } from "./usage.js";

/** OpenAI's chat completions. */
export const CHAT: Kind<ChatRequest> = {
  dialect: "openai",
  path: "/chat/completions",
  body: upstreamBody,
  check({ choices }) {
    if (!Array.isArray(choices) || choices.length === 0) throw new Error("no chat completion");
  },
  usage: ({ n }, answer, maxTokens, promptTokens) =>
    reportedUsage(answer) ?? countedUsage(answer.choices as unknown[], maxTokens * n, promptTokens),
  show: (request, answer, bill) => ({
    id: newAnswerId(),
    object: "chat.completion",
    created: Number.isSafeInteger(answer.created) ? answer.created : Math.floor(now() / SECOND),
    model: request.model,
    choices: (answer.choices as unknown[]).map(shownChoice),
    usage: usageBody(bill, answer.usage),
  }),
  reader({ model, n, includeUsage, passed }, meter) {
    const logprobs = Boolean(passed.logprobs ?? passed.top_logprobs);
    return createChunkReader({ id: newAnswerId(), model, n, includeUsage, logprobs }, meter);
  },
};

/** Why an answer may have ended; upstreams have further words of their own. */
const ENDINGS: ReadonlySet<unknown> = new Set([
  "stop",
  "length",
  "tool_calls",
  "content_filter",
  "function_call",
]);

/**
 * An answer with the fields that clients know and no others: what an upstream adds may name it. Ids
 * of tool calls pass, since they come back in the next request and some models read them there.
 */
function shownChoice(choice: unknown, i: number): Json {
  const { index, message, logprobs, finish_reason } = isObject(choice) ? choice : {};
  return {
    index: Number.isSafeInteger(index) ? index : i,
    message: isObject(message) ? shownMessage(message) : { role: "assistant", content: null },
    logprobs: logprobs ?? null,
    finish_reason: ENDINGS.has(finish_reason) ? finish_reason : "stop",
  };
}

function shownMessage(message: Json): Json {
  const shown: Json = { role: "assistant", content: message.content ?? null };
  if (message.refusal !== undefined) shown.refusal = message.refusal;
  if (message.reasoning_content !== undefined) shown.reasoning_content = message.reasoning_content;
  if (message.reasoning !== undefined) shown.reasoning = message.reasoning;
  if (Array.isArray(message.tool_calls)) {
    shown.tool_calls = message.tool_calls.filter(isObject).map(shownCall);
  }
  if (isObject(message.function_call)) shown.function_call = shownFunction(message.function_call);
  return shown;
}

const shownCall = ({ id, type, function: called, custom }: Json): Json => ({
  id,
  type,
  ...(isObject(called) && { function: shownFunction(called) }),
  ...(isObject(custom) && { custom: { name: custom.name, input: custom.input } }),
});

const shownFunction = (called: Json): Json => ({ name: called.name, arguments: called.arguments });

function countedUsage(choices: unknown[], most: number, promptTokens: number): Usage {
  const written = choices.map((choice) => (isObject(choice) ? choice.message : undefined));
  const bytes = written.reduce<number>((sum, message) => sum + textBytes(message), 0);
  return {
    inputTokens: BigInt(promptTokens),
    outputTokens: BigInt(Math.min(tokensOf(bytes), most)),
    estimated: true,
  };
}

/** Bytes of all that a model wrote into one answer: its text, its thoughts, its calls. */
function textBytes(message: unknown): number {
  if (!isObject(message)) return 0;
  const texts = [message.content, message.reasoning_content].filter(
    (text): text is string => typeof text === "string",
  );
  const calls = message.tool_calls ? JSON.stringify(message.tool_calls) : "";
  return [...texts, calls].reduce((sum, text) => sum + Buffer.byteLength(text), 0);
}
