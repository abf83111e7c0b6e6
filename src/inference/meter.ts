import type { Json } from "./parameters.js";
import { reportedUsage, tokensOf, type Usage } from "./usage.js";

/** Measures what a stream has produced, event by event. */
export interface Meter {
  /** Takes the usage of an event that was parsed, if it reports any; the last report wins. */
  note(event: Json): void;
  /** Counts an event that carries something, by the bytes of its `choices`. */
  count(bytes: number): void;
  /** True once something was produced. */
  readonly started: boolean;
  /**
   * What to charge for.
   *
   * @param whole true when the stream came to its end: then the last report is the whole truth. A
   *   stream that was cut is charged at least for what we saw of it.
   */
  usage(whole: boolean): Usage;
}

const NEEDLE = Buffer.from('"usage"');
const NOT_YET = Buffer.from(":null");
/** Bytes of JSON that stand around the text of one event at the most. */
const MOST_WRAPPING = 120;

/**
 * @param promptBytes of the request, for when the upstream does not report
 * @param most        tokens that all answers may have together
 */
export function createMeter(promptBytes: number, most: number): Meter {
  let reported: Usage | undefined;
  let events = 0;
  let bytes = 0;
  // The shortest event has next to no text: what it has, all have around theirs
  let wrapping = MOST_WRAPPING;
  const seen = () => BigInt(Math.min(most, Math.max(events, tokensOf(bytes - events * wrapping))));
  return {
    note(event) {
      reported = reportedUsage(event) ?? reported;
    },
    count(size) {
      events += 1;
      bytes += size;
      wrapping = Math.min(wrapping, size);
    },
    get started() {
      return events > 0 || reported !== undefined;
    },
    usage(whole) {
      if (whole && reported !== undefined) return reported;
      const inputTokens = reported?.inputTokens ?? BigInt(tokensOf(promptBytes));
      const outputTokens = [seen(), reported?.outputTokens ?? 0n].reduce(larger);
      return { inputTokens, outputTokens, estimated: true };
    },
  };
}

const larger = (a: bigint, b: bigint) => (a > b ? a : b);

/**
 * Whether an event may report usage. Only a sieve, which spares parsing what cannot: a text that
 * happens to hold the word passes it too, and so the answer is always read from the parsed event.
 */
export const mayReportUsage = (event: Buffer): boolean => hasValue(event, NEEDLE);

/**
 * True where a quoted name stands in the bytes with anything but `:null` behind it, in the plainest
 * spacing.
 */
export function hasValue(bytes: Buffer, name: Buffer): boolean {
  for (let at = bytes.indexOf(name); at !== -1; at = bytes.indexOf(name, at)) {
    at += name.length;
    if (!bytes.subarray(at, at + NOT_YET.length).equals(NOT_YET)) return true;
  }
  return false;
}
