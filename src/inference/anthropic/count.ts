import { refuse } from "../../base/errors.js";
import { isObject } from "../parameters.js";
import { parseJson } from "../request.js";
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
  const body = parseJson(raw);
  if (!isObject(body)) {
    throw refuse("invalid_request_error", { message: "the body must be a JSON object" });
  }
  const { model, bytes } = toChatRequest(readMessagesRequest(body, raw));
  return { model, tokens: tokensOf(bytes) };
}
