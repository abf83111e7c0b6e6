import { reportedUsage, tokensOf, type Usage } from "./usage.js";
import type { Json } from "./values.js";

/** Measures what a stream has produced, event by event. */
export interface Meter {
  /** Takes the usage of an event that was parsed, if it reports any; the last report wins. */
  note(event: Json): void;
  /** Takes the tokens of the prompt, where the upstream reports them before the end. */
  noteInput(tokens: bigint): void;
  /**
   * Counts an event that carries something: the bytes of its `choices`, or of whatever carries it.
   *
   * @returns false where what is held does not pay for it: then it is not counted
   */
  count(carried: Buffer): boolean;
  /** True once something was produced. */
  readonly started: boolean;
  /** True once there is certainly more than was asked for: its writer heeds no limit. */
  readonly endless: boolean;
  /**
   * What to charge for.
   *
   * @param whole true when the stream came to its end: then the last report is the whole truth. A
   *   stream that was cut is charged at least for what we saw of it.
   */
  usage(whole: boolean): Usage;
}

/** What a meter must know of what pays: see cover.ts. */
export interface Covering {
  /** Tokens that all answers may have by what is held; infinite once they are held as a whole. */
  readonly tokens: number;
  /** From so many tokens on, more should be asked for. */
  readonly soon: number;
  /** True where not even what is held may be spent any more. */
  readonly refused: boolean;
  /** Asks for more, where nobody has. Does not wait. */
  ask(): void;
}

/** Bytes of JSON that stand around the text of one event at the most. */
const MOST_WRAPPING = 120;
/** Characters that no token has more of, in any vocabulary. */
const LONGEST_TOKEN = 256;
/** What stands in events and was not written by a model. */
const UNWRITTEN = new Set(["id", "index", "role", "type", "finish_reason", "logprobs"]);
const [QUOTE, BACKSLASH, COLON, SPACE] = [0x22, 0x5c, 0x3a, 0x20];

/**
 * @param promptTokens of the request by our count, for when the upstream does not report
 * @param most         tokens that all answers may have together
 * @param cover        what is held, where that grows with the stream
 */
export function createMeter(promptTokens: number, most: number, cover?: Covering): Meter {
  let reported: Usage | undefined;
  let input = BigInt(promptTokens);
  let events = 0;
  let bytes = 0;
  let ceiling = 0;
  let surplus = 0;
  // The shortest event has next to no text: what it has, all have around theirs
  let wrapping = MOST_WRAPPING;
  const paidFor = () => Math.min(most, cover?.tokens ?? most);
  const seen = () =>
    BigInt(Math.min(paidFor(), Math.max(events, tokensOf(bytes - events * wrapping))));

  const isCovered = (carried: Buffer, covering: Covering): boolean => {
    if (covering.tokens === Number.POSITIVE_INFINITY) return true;
    const after = ceiling + mostTokens(carried);
    if (after > covering.soon) covering.ask();
    if (after > covering.tokens || covering.refused) return false;
    ceiling = after;
    return true;
  };

  return {
    note(event) {
      reported = reportedUsage(event) ?? reported;
    },
    noteInput(tokens) {
      input = tokens;
    },
    count(carried) {
      if (cover !== undefined && !isCovered(carried, cover)) return false;
      events += 1;
      bytes += carried.length;
      wrapping = Math.min(wrapping, carried.length);
      if (events > most || bytes > most * LONGEST_TOKEN) surplus += textIn(carried);
      return true;
    },
    get started() {
      return events > 0 || reported !== undefined;
    },
    get endless() {
      return surplus > most * LONGEST_TOKEN;
    },
    usage(whole) {
      if (whole && reported !== undefined) return reported;
      const inputTokens = reported?.inputTokens ?? input;
      const outputTokens = [seen(), reported?.outputTokens ?? 0n].reduce(larger);
      return { inputTokens, outputTokens, estimated: true };
    },
  };
}

/**
 * Characters that a model has written into an event. Costs as much as parsing it, and so is asked
 * only where there are more events than tokens should be.
 */
function textIn(carried: Buffer): number {
  const text = carried.toString("utf8");
  let length = 0;
  try {
    JSON.parse(text.startsWith("[") ? text : `[${text}]`, (name, value) => {
      if (typeof value === "string" && !UNWRITTEN.has(name)) length += value.length;
      return value;
    });
  } catch {
    return 0;
  }
  return length;
}

/**
 * Most tokens that an event can carry: one for every byte inside its strings, names aside, and one
 * where there are none.
 */
export function mostTokens(json: Buffer): number {
  let inside = 0;
  for (let at = 0; at < json.length; at++) {
    if (json[at] !== QUOTE) continue;
    const start = at + 1;
    for (at = start; at < json.length && json[at] !== QUOTE; at++) {
      if (json[at] === BACKSLASH) at++;
    }
    let next = at + 1;
    while (json[next] === SPACE) next++;
    if (json[next] !== COLON) inside += at - start;
  }
  return Math.max(1, inside);
}

const larger = (a: bigint, b: bigint) => (a > b ? a : b);
