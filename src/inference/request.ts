import { hash } from "node:crypto";
import { refuse } from "../base/errors.js";
import { type ChatRequest, readChatRequest } from "./parameters.js";
import { isObject, type Json } from "./values.js";

/**
 * Reads a chat completion from the bytes of its body.
 *
 * @throws invalid_request_error  not JSON, or a parameter that is wrong or would change the cost
 */
export function parseChatRequest(raw: Buffer): ChatRequest {
  return readChatRequest(parseBody(raw), raw.length, fingerprintOf(raw));
}

/** @throws invalid_request_error  not JSON, or no object */
export function parseBody(raw: Buffer): Json {
  let body: unknown;
  try {
    body = JSON.parse(raw.toString("utf8"));
  } catch {
    throw refuse("invalid_request_error", { message: "the body is not valid JSON" });
  }
  if (isObject(body)) return body;
  throw refuse("invalid_request_error", { message: "the body must be a JSON object" });
}

/** The first 8 bytes of the body's SHA-256, as a signed number. */
export const fingerprintOf = (raw: Buffer): bigint =>
  hash("sha256", raw, "buffer").readBigInt64BE(0);
