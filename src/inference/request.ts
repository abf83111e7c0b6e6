import { hash } from "node:crypto";
import { refuse } from "../base/errors.js";
import { type ChatRequest, readChatRequest } from "./parameters.js";

/**
 * Reads a chat completion from the bytes of its body.
 *
 * @throws invalid_request_error  not JSON, or a parameter that is wrong or would change the cost
 */
export function parseChatRequest(raw: Buffer): ChatRequest {
  let body: unknown;
  try {
    body = JSON.parse(raw.toString("utf8"));
  } catch {
    throw refuse("invalid_request_error", { message: "the body is not valid JSON" });
  }
  return readChatRequest(body, raw.length, fingerprintOf(raw));
}

/** The first 8 bytes of the body's SHA-256, as a signed number. */
const fingerprintOf = (raw: Buffer): bigint => hash("sha256", raw, "buffer").readBigInt64BE(0);
