import { randomFillSync } from "node:crypto";
import { now } from "./time.js";

/** A UUID of any version, lower case. */
export type Id = string;

const POOL_IDS = 2_048;
const BYTES_PER_ID = 10;
const pool = Buffer.alloc(POOL_IDS * BYTES_PER_ID);
let used = pool.length;

/**
 * A new UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, so ids sort by time and
 * index well. Randomness is drawn from the system for 2,048 ids at once.
 */
export function newId(): Id {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const random = pool.toString("hex", used, used + BYTES_PER_ID);
  used += BYTES_PER_ID;
  const time = now().toString(16).padStart(12, "0");
  const variant = "89ab"[Number.parseInt(random[3] ?? "0", 16) & 3];
  return `${time.slice(0, 8)}-${time.slice(8)}-7${random.slice(0, 3)}-${variant}${random.slice(4, 7)}-${random.slice(7, 19)}`;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

export const isId = (text: string): boolean => UUID.test(text);
export const isTimedId = (text: string): boolean => UUID_V7.test(text);

/** Milliseconds since 1970 that a UUIDv7 carries. */
export function timeOfId(id: Id): number {
  return Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16);
}
