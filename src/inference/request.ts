import { isUtf8 } from "node:buffer";
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
  const body = parseBody(raw);
  return readChatRequest(body, bytesOf(raw, body), fingerprintOf(raw));
}

/** A number with an exponent, outside of a text: 1e20. */
const SHORT_NUMBER = /[:,[]\s*-?\d+(?:\.\d+)?[eE]\+?\d/;

/**
 * Bytes of a body as it came or as it goes on, where the numbers of tools and schemas are written
 * out: the larger.
 */
function bytesOf(raw: Buffer, body: Json): number {
  for (const name in body) {
    if (name === "messages" || typeof body[name] !== "object") continue;
    if (!SHORT_NUMBER.test(raw.toString("latin1"))) return raw.length;
    return Math.max(raw.length, Buffer.byteLength(written(body)));
  }
  return raw.length;
}

function written(body: Json): string {
  try {
    return JSON.stringify(body);
  } catch {
    throw refuse("invalid_request_error", { message: "the body is nested too deeply" });
  }
}

/**
 * Fields that a body may have, those of all its objects together: the parser takes microseconds for
 * each name that is new to it, and meanwhile nobody is served.
 */
const MAX_FIELDS = 100_000;
/** The shortest field: `"":1,`. A body below so many times this needs no counting. */
const FIELD_BYTES = 5;
const QUOTE = 0x22;
const COLON = 0x3a;
const BACKSLASH = 0x5c;

/** @throws invalid_request_error  not JSON, no object, or one with too many fields */
export function parseBody(raw: Buffer): Json {
  if (raw.length > FIELD_BYTES * MAX_FIELDS && fieldsIn(raw) > MAX_FIELDS) {
    const message = `the body has more than ${MAX_FIELDS} fields`;
    throw refuse("invalid_request_error", { message });
  }
  let body: unknown;
  try {
    // A byte that is no character would become three
    if (!isUtf8(raw)) throw new Error("no UTF-8");
    body = JSON.parse(raw.toString("utf8"));
  } catch {
    throw refuse("invalid_request_error", { message: "the body is not valid JSON in UTF-8" });
  }
  if (isObject(body)) return body;
  throw refuse("invalid_request_error", { message: "the body must be a JSON object" });
}

/** Colons outside of texts. */
function fieldsIn(raw: Buffer): number {
  let fields = 0;
  let inText = false;
  for (let i = 0; i < raw.length; i++) {
    const byte = raw[i];
    if (byte === QUOTE) inText = !inText;
    else if (inText && byte === BACKSLASH) i += 1;
    else if (!inText && byte === COLON) fields += 1;
  }
  return fields;
}

/** The first 8 bytes of the body's SHA-256, as a signed number. */
export const fingerprintOf = (raw: Buffer): bigint =>
  hash("sha256", raw, "buffer").readBigInt64BE(0);
