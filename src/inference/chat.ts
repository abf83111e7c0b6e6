import { now, SECOND } from "../base/time.js";
import { newAnswerId } from "./answer-id.js";
import { shownChoice } from "./choices.js";
import { createChunkReader } from "./chunks.js";
import { upstreamBody } from "./estimate.js";
import type { Kind } from "./kind.js";
import type { ChatRequest } from "./parameters.js";
import { reportedUsage, tokensOf, type Usage, usageBody } from "./usage.js";
import { isObject } from "./values.js";

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
  reader({ model, n, includeUsage, passed, answerId: id = newAnswerId() }, meter) {
    const logprobs = Boolean(passed.logprobs ?? passed.top_logprobs);
    return createChunkReader({ id, model, n, includeUsage, logprobs }, meter);
  },
};

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
