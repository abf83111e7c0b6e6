import { hash } from "node:crypto";
import { refuseField } from "../base/errors.js";

const HEADER = "Idempotency-Key";
const MAX_LENGTH = 255;

/**
 * The Idempotency-Key of a request, as its header or metadata has it.
 *
 * @returns undefined where there is none
 * @throws invalid_request_error
 */
export function checkIdempotencyKey(value: string | undefined): string | undefined {
  if (value === undefined) return undefined;
  if (/^[\x21-\x7e]+$/.test(value) && value.length <= MAX_LENGTH) return value;
  throw refuseField(HEADER, `must be 1 to ${MAX_LENGTH} visible ASCII characters`);
}

/** What is stored of a key, in hex: it may tell more than its caller thinks. */
export const hashOfKey = (...parts: readonly string[]): string =>
  hash("sha256", parts.join("\0"), "hex");
