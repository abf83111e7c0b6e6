import { createHash } from "node:crypto";
import type { HoldEnding } from "../../../workflows/contract.js";

/** The end of a hold as a spool keeps it. */
export interface SpoolRecord {
  ending: HoldEnding;
  /** When it came, in milliseconds since 1970. */
  since: number;
}

const LENGTH = 4;
const SUM = 8;
const HEAD = LENGTH + SUM;
/** No record is longer: a length beyond it was never written by us. */
const LONGEST = 64 * 1_024;

/** Four bytes of length, eight of the text's SHA-256, the text as JSON. */
export function encodeRecord(record: SpoolRecord): Buffer {
  const text = Buffer.from(JSON.stringify(record));
  const head = Buffer.alloc(HEAD);
  head.writeUInt32LE(text.length);
  sumOf(text).copy(head, LENGTH);
  return Buffer.concat([head, text]);
}

/**
 * Reads records from the beginning up to the first that is torn or damaged.
 *
 * @returns the records, and how many bytes they fill; fewer than there are where the tail is torn
 */
export function readRecords(bytes: Buffer): { records: SpoolRecord[]; sound: number } {
  const records: SpoolRecord[] = [];
  let at = 0;
  while (at + HEAD <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    const end = at + HEAD + length;
    if (length > LONGEST || end > bytes.length) break;
    const text = bytes.subarray(at + HEAD, end);
    if (!sumOf(text).equals(bytes.subarray(at + LENGTH, at + HEAD))) break;
    records.push(JSON.parse(text.toString()) as SpoolRecord);
    at = end;
  }
  return { records, sound: at };
}

const sumOf = (text: Buffer): Buffer => createHash("sha256").update(text).digest().subarray(0, SUM);
