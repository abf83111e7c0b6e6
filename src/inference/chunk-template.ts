import { TEXTS } from "./choices.js";
import { isObject, type Json } from "./values.js";

/** How an upstream writes a chunk that adds a text to an answer, and how we write it. */
export interface ChunkTemplate {
  /** Bytes before the text and behind it, its quotes included: the upstream's. */
  prefix: Buffer;
  suffix: Buffer;
  /** Of these, what stands around the inside of `choices`. */
  head: number;
  tail: number;
  /** What we send in their place, event marks included. */
  before: Buffer;
  after: Buffer;
}

const CHOICES = /"choices"\s*:\s*\[/;
const [QUOTE, BACKSLASH] = [0x22, 0x5c];
/** A text that no upstream writes. */
const PROBE = "\u0001";
const WRITTEN_PROBE = "\\u0001";

/** The text that a chunk adds, where that is all that it does: what it may be recognised by. */
export function textOf(chunk: Json): { name: string; index: unknown } | undefined {
  const [choice, ...more] = chunk.choices as unknown[];
  if (!isObject(choice) || more.length > 0 || !isObject(choice.delta)) return undefined;
  if (typeof choice.finish_reason === "string" || isObject(chunk.usage)) return undefined;
  const { delta } = choice;
  const said = Object.keys(delta).filter((name) => delta[name] !== null);
  const [name = ""] = said;
  if (said.length !== 1 || !(TEXTS as readonly string[]).includes(name)) return undefined;
  return typeof delta[name] === "string" ? { name, index: choice.index } : undefined;
}

/**
 * Learns how an upstream writes chunks like this one. Undefined where it does so in a way that
 * cannot be taken apart as bytes.
 *
 * @param name the field of `delta` that has the text
 * @param show writes the event for our caller, from the chunk
 */
export function learn(
  payload: Buffer,
  chunk: Json,
  name: string,
  show: (chunk: Json) => string,
): ChunkTemplate | undefined {
  const text = payload.toString("latin1");
  const choices = CHOICES.exec(text);
  const field = new RegExp(`"${name}"\\s*:\\s*"`).exec(text);
  if (choices === null || field === null) return undefined;
  const start = field.index + field[0].length;
  const end = endOfString(payload, start);
  const probed = withText(chunk, name, PROBE);
  // Copies: a view would keep the whole piece that it was cut from as long as the stream lives
  const [prefix, suffix] = [
    Buffer.from(payload.subarray(0, start)),
    Buffer.from(payload.subarray(end)),
  ];
  if (!isSame(`${prefix}${WRITTEN_PROBE}${suffix}`, probed)) return undefined;
  const [before, after, ...none] = show(probed).split(WRITTEN_PROBE);
  if (before === undefined || after === undefined || none.length > 0) return undefined;
  return {
    ...{ prefix, suffix, before: Buffer.from(before), after: Buffer.from(after) },
    head: choices.index + choices[0].length,
    tail: payload.length - text.lastIndexOf("]"),
  };
}

/**
 * The text of a chunk, as it is written, where the chunk is otherwise like the one that was learnt
 * from. Undefined also for a text with a quote or a backslash, which may end it: then the chunk must
 * be parsed.
 */
export function textIn({ prefix, suffix }: ChunkTemplate, payload: Buffer): Buffer | undefined {
  const end = payload.length - suffix.length;
  if (end < prefix.length) return undefined;
  if (prefix.compare(payload, 0, prefix.length) !== 0) return undefined;
  if (suffix.compare(payload, end) !== 0) return undefined;
  const text = payload.subarray(prefix.length, end);
  return text.includes(QUOTE) || text.includes(BACKSLASH) ? undefined : text;
}

function endOfString(json: Buffer, start: number): number {
  let at = start;
  while (at < json.length && json[at] !== QUOTE) at += json[at] === BACKSLASH ? 2 : 1;
  return at;
}

function withText(chunk: Json, name: string, text: string): Json {
  const [choice] = chunk.choices as Json[];
  return {
    ...chunk,
    choices: [{ ...choice, delta: { ...(choice?.delta as Json), [name]: text } }],
  };
}

function isSame(text: string, value: unknown): boolean {
  try {
    return JSON.stringify(JSON.parse(text)) === JSON.stringify(value);
  } catch {
    return false;
  }
}
