import { refuse, refuseField } from "./errors.js";
import { type Id, isId } from "./ids.js";
import { MAX_NGONKA, type Ngonka } from "./money.js";

/** Control characters, and halves of a surrogate pair, which no database stores. */
const UNPRINTABLE = /[\p{Cc}\p{Cs}]/u;

const lengthOf = (text: string): number => [...text].length;

/**
 * A line of text without the blanks around it.
 *
 * @param min least characters (code points), 0 where it may be empty
 * @throws invalid_request_error with the field's name
 */
export function checkText(param: string, value: string, min: number, max: number): string {
  const text = value.trim();
  const length = lengthOf(text);
  if (length < min)
    throw refuseField(param, length === 0 ? "is required" : `has fewer than ${min} characters`);
  if (length > max) throw refuseField(param, `has more than ${max} characters`);
  if (UNPRINTABLE.test(text)) throw refuseField(param, "has a control character");
  return text;
}

/**
 * An id that the caller names.
 *
 * @throws invalid_request_error where it is missing, not_found where it is no id at all: no such
 *   thing can be there
 */
export function checkId(param: string, value: string): Id {
  if (value === "") throw refuseField(param, "is required");
  const id = value.toLowerCase();
  if (!isId(id)) throw refuse("not_found", { param });
  return id;
}

/** An amount of ngonka from zero to int64. @throws invalid_request_error */
export function checkAmount(param: string, value: Ngonka): Ngonka {
  if (value < 0n) throw refuseField(param, "must not be negative");
  if (value > MAX_NGONKA) throw refuseField(param, `must not be above ${MAX_NGONKA}`);
  return value;
}

/** A whole number within bounds, both included. @throws invalid_request_error */
export function checkInteger(param: string, value: number, min: number, max: number): number {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw refuseField(param, `must be a whole number from ${min} to ${max}`);
  }
  return value;
}

const DEFAULT_PAGE = 50;
const MAX_PAGE = 100;

/** Which part of a list is wanted: rows after `after`, in the list's order. */
export interface Page {
  after: Id | null;
  limit: number;
}

/**
 * Reads `cursor` and `limit` of a list (1 to 100 rows, 50 where absent). @throws
 * invalid_request_error
 */
export function checkPage(request: {
  cursor?: string | undefined;
  limit?: number | undefined;
}): Page {
  const limit = checkInteger("limit", request.limit ?? DEFAULT_PAGE, 1, MAX_PAGE);
  if (request.cursor === undefined || request.cursor === "") return { after: null, limit };
  const after = Buffer.from(request.cursor, "base64url").toString("latin1");
  if (!isId(after)) throw refuseField("cursor", "is not a next_cursor of this list");
  return { after, limit };
}

/** One page of a list. */
export interface Paged<Row> {
  data: Row[];
  /** For the next page; absent on the last one. */
  nextCursor?: string;
}

/** Cuts the page from rows that were read with one more than its limit. */
export function toPage<Row extends { id: Id }>(rows: Row[], { limit }: Page): Paged<Row> {
  const data = rows.slice(0, limit);
  const last = data.at(-1);
  if (rows.length <= limit || last === undefined) return { data };
  return { data, nextCursor: Buffer.from(last.id, "latin1").toString("base64url") };
}
