import { parseBody } from "../request.js";
import { tokensOf } from "../usage.js";
import { readMessagesRequest } from "./request.js";
import { toChatRequest } from "./to-chat.js";

/**
 * Counts the input tokens of a message as we count where an upstream does not report: by the bytes
 * of what would be sent. What a model's own tokenizer makes of it may be more or less.
 *
 * @throws invalid_request_error  whatever could not be asked for either; `max_tokens` may be absent
 */
export function countTokens(raw: Buffer): { model: string; tokens: number } {
  const { model, bytes } = toChatRequest(readMessagesRequest(parseBody(raw), raw));
  return { model, tokens: tokensOf(bytes) };
}
