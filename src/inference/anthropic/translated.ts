import { CHAT } from "../chat.js";
import type { Kind } from "../kind.js";
import { usageBody } from "../usage.js";
import { isObject } from "../values.js";
import { blocksOf, endingOf, messageBody, messagesUsage } from "./message.js";
import type { TranslatedRequest } from "./to-chat.js";
import { createTranslatedReader } from "./translated-reader.js";

/** Anthropic's messages, answered by an upstream that speaks of chat completions. */
export const TRANSLATED_MESSAGES: Kind<TranslatedRequest> = {
  ...CHAT,
  show({ model, thinking, stopSequences }, answer, bill) {
    const [first] = answer.choices as unknown[];
    const choice = isObject(first) ? first : {};
    const message = isObject(choice.message) ? choice.message : {};
    const blocks = blocksOf(message, thinking.shown);
    const calls = blocks.some(({ type }) => type === "tool_use");
    return messageBody(
      model,
      blocks,
      endingOf(choice, calls, stopSequences),
      messagesUsage(usageBody(bill, undefined)),
    );
  },
  reader: createTranslatedReader,
};
