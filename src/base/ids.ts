import { randomFillSync } from "node:crypto";
import { now } from "./time.js";

/** A UUID of any version, lower case. */
export type Id = string;

const POOL_IDS = 2_048;
const BYTES_PER_ID = 10;
const DIGITS_PER_ID = 2 * BYTES_PER_ID;
const VARIANTS = ["8", "9", "a", "b"];
const pool = Buffer.alloc(POOL_IDS * BYTES_PER_ID);
/** The pool in hex. */
let digits = "";
/** Of these. */
let used = 0;
/** How all ids of one millisecond begin. */
let start = { at: -1, text: "" };

/**
 * A new UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, so ids sort by time and
 * index well. Randomness is drawn from the system for 2,048 ids at once.
 */
export function newId(): Id {
  if (used === digits.length) {
    digits = randomFillSync(pool).toString("hex");
    used = 0;
  }
  const from = used;
  used += DIGITS_PER_ID;
  const variant = VARIANTS[(pool[from / 2 + 1] ?? 0) & 3];
  const random = digits.slice(from + 4, from + 7);
  return `${startOf(now())}${digits.slice(from, from + 3)}-${variant}${random}-${digits.slice(from + 7, from + 19)}`;
}

function startOf(at: number): string {
  if (at !== start.at) {
    const time = at.toString(16).padStart(12, "0");
    start = { at, text: `${time.slice(0, 8)}-${time.slice(8)}-7` };
  }
  return start.text;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

export const isId = (text: string): boolean => UUID.test(text);
export const isTimedId = (text: string): boolean => UUID_V7.test(text);

/** Milliseconds since 1970 that a UUIDv7 carries. */
export function timeOfId(id: Id): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
}
