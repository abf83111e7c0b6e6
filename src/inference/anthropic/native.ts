import { refuse } from "../../base/errors.js";
import type { Kind } from "../kind.js";
import { reportedUsage, tokensOf, type Usage, usageBody } from "../usage.js";
import { isObject, type Json } from "../values.js";
import { messageBody, messagesUsage, UNSIGNED } from "./message.js";
import { cachedOf, endingOf, reportOf, shownBlock } from "./native-answer.js";
import { createNativeReader } from "./native-reader.js";
import type { MessagesRequest } from "./request.js";

/** Anthropic's messages, answered by an upstream that speaks of them too. */
export const MESSAGES: Kind<MessagesRequest> = {
  dialect: "anthropic",
  path: "/messages",
  body({ passed, stream }, model, maxTokens) {
    const messages = withoutUnsigned(passed.messages);
    const body = { model, max_tokens: maxTokens, ...passed, messages, ...(stream && { stream }) };
    try {
      return JSON.stringify(body);
    } catch {
      throw refuse("invalid_request_error", { message: "the body is nested too deeply" });
    }
  },
  check({ content }) {
    if (!Array.isArray(content)) throw new Error("no message");
  },
  usage: (_, { usage, content }, maxTokens, promptTokens) =>
    reportedUsage({ usage: reportOf(usage) }) ?? countedUsage(content, maxTokens, promptTokens),
  show({ model, stopSequences }, answer, bill) {
    const blocks = (answer.content as unknown[]).filter(isObject).map(shownBlock);
    const paid = usageBody(bill, undefined);
    const cached = bill.usage.estimated ? undefined : cachedOf(answer.usage);
    const ending = endingOf(answer, stopSequences);
    return messageBody(model, blocks, ending, messagesUsage(paid, cached));
  },
  reader: createNativeReader,
};

/** Thoughts that one upstream signed go back to it; those that nobody signed, it would refuse. */
function withoutUnsigned(messages: unknown): unknown {
  if (!Array.isArray(messages)) return messages;
  return messages.map((message: unknown) => {
    if (!isObject(message) || !Array.isArray(message.content)) return message;
    const content = message.content.filter((block) => !isUnsigned(block));
    return content.length === message.content.length ? message : { ...message, content };
  });
}

const isUnsigned = (block: unknown): boolean =>
  isObject(block) && block.type === "thinking" && block.signature === UNSIGNED;

function countedUsage(content: unknown, maxTokens: number, promptTokens: number): Usage {
  const blocks = Array.isArray(content) ? content.filter(isObject) : [];
  const written = blocks.reduce((sum, block) => sum + bytesOf(block), 0);
  return {
    inputTokens: BigInt(promptTokens),
    outputTokens: BigInt(Math.min(tokensOf(written), maxTokens)),
    estimated: true,
  };
}

const bytesOf = ({ text, thinking, input }: Json): number =>
  [text, thinking, input && JSON.stringify(input)]
    .filter((part): part is string => typeof part === "string")
    .reduce((sum, part) => sum + Buffer.byteLength(part), 0);
