import type { Reason } from "../base/errors.js";
import { now, SECOND } from "../base/time.js";
import { hasValue, type Meter, mayReportUsage } from "./meter.js";
import { isObject, type Json } from "./parameters.js";

/** What the caller's chunks say in place of the upstream's. */
export interface Face {
  id: string;
  model: string;
  /** Answers that must finish before the stream is whole. */
  n: number;
  /**
   * Whether the caller asked for usage: then every chunk has the field, null but in the last one,
   * or only that one has it.
   */
  includeUsage: boolean | "last";
  /** Whether chunks carry the odds of tokens, which are many bytes and no tokens. */
  logprobs: boolean;
}

/** Why we have ended a stream before its answers were whole, for its caller. */
export interface StopReason {
  /** The word of the refusal that a new request would meet. */
  code: Reason;
  message: string;
  /** When the limit that was reached begins anew, ISO 8601; absent for those that never do. */
  resets_at?: string;
}

/**
 * Reads one stream of a kind. Everything that carries something passes `Meter.count` before it is
 * taken; what ends the last answer, and all after it, waits for the bill.
 */
export interface ChunkReader {
  /**
   * Takes the payload of one event.
   *
   * @returns false where the meter does not cover what it carries: then nothing was taken, and the
   *   event is offered again once more is held
   * @throws Error where it is neither a chunk nor the end, or where it reports an error
   */
  take(payload: Buffer): boolean;
  /** What may be forwarded now, as server-sent events; undefined when there is nothing. */
  forward(): Buffer | undefined;
  /** True when every answer has finished, or the upstream has said so. */
  readonly finished: boolean;
  /** True when the upstream has said that nothing follows. */
  readonly done: boolean;
  /** The events held back, and the end: only for a caller whose bill is written. */
  finale(usage: Json): Buffer;
  /**
   * The end, in place of `finale`, of a stream that we have cut: what may be forwarded, and then
   * every answer that has not finished ends as one that reached its length.
   *
   * @param stop undefined where the answers had all the tokens that were asked for
   */
  cut(usage: Json, stop: StopReason | undefined): Buffer;
}

export const DONE = Buffer.from("[DONE]");
const BEFORE = Buffer.from("data: ");
const AFTER = Buffer.from("\n\n");
const FINISH = Buffer.from('"finish_reason"');
const CHOICES = /"choices"\s*:\s*\[/;

/**
 * Turns an upstream's chunks into ours. Most chunks differ from the first only inside `choices`:
 * their head and tail are exchanged as bytes, without parsing. Whatever differs in anything else,
 * may report usage or ends an answer is parsed and built anew from the fields that callers may see.
 * The chunk that ends the last answer, and all after it, wait for `finale`.
 */
export function createChunkReader(face: Face, meter: Meter): ChunkReader {
  let template: Template | undefined;
  let created = Math.floor(now() / SECOND);
  const unfinished = new Set(Array(face.n).keys());
  let done = false;
  let ready: Buffer[] = [];
  const held: Buffer[] = [];

  const put = (...pieces: Buffer[]) => (unfinished.size === 0 ? held : ready).push(...pieces);

  const begin = (payload: Buffer, chunk: Json) => {
    if (Number.isSafeInteger(chunk.created)) created = chunk.created as number;
    if (!face.logprobs) template = templateOf(payload, chunk, face, created);
  };
  const takeParsed = (payload: Buffer): boolean => {
    const chunk = parseChunk(payload);
    meter.note(chunk);
    if (!Array.isArray(chunk.choices) || chunk.choices.length === 0) return true;
    const choices = Buffer.from(JSON.stringify(chunk.choices));
    if (!meter.count(face.logprobs ? withoutLogprobs(chunk.choices) : choices)) return false;
    if (template === undefined) begin(payload, chunk);
    for (const choice of chunk.choices.filter(isFinished)) unfinished.delete(choice.index ?? 0);
    put(BEFORE, Buffer.from(headOf(face, created)), choices, Buffer.from(tailOf(face)), AFTER);
    return true;
  };
  const ending = (usage: Json) => {
    const last = `${headOf(face, created)}[],"usage":${JSON.stringify(usage)}}`;
    const asked = face.includeUsage ? [BEFORE, Buffer.from(last), AFTER] : [];
    return [...asked, BEFORE, DONE, AFTER];
  };

  return {
    take(payload) {
      if (done) return true;
      if (payload.equals(DONE)) {
        done = true;
        return true;
      }
      const inner = template && innerOf(template, payload);
      if (template === undefined || inner === undefined) return takeParsed(payload);
      if (!meter.count(inner)) return false;
      put(template.before, inner, template.after);
      return true;
    },
    forward() {
      if (ready.length === 0) return undefined;
      const bytes = Buffer.concat(ready);
      ready = [];
      return bytes;
    },
    get finished() {
      return unfinished.size === 0 || done;
    },
    get done() {
      return done;
    },
    finale: (usage) => Buffer.concat([...ready, ...held, ...ending(usage)]),
    cut(usage, stop) {
      const choices = [...unfinished].map((index) => ({
        index,
        delta: {},
        finish_reason: "length",
      }));
      const why = stop === undefined ? "" : `,"stop_reason":${JSON.stringify(stop)}`;
      const last = `${headOf(face, created)}${JSON.stringify(choices)}${why}${tailOf(face)}`;
      return Buffer.concat([...ready, BEFORE, Buffer.from(last), AFTER, ...ending(usage)]);
    },
  };
}

/**
 * The bytes around the inside of `choices`: the upstream's, and those that we send in their place.
 */
interface Template {
  head: Buffer;
  tail: Buffer;
  before: Buffer;
  after: Buffer;
}

/** Undefined where the chunk is written in a way that cannot be taken apart as bytes. */
function templateOf(
  payload: Buffer,
  chunk: Json,
  face: Face,
  created: number,
): Template | undefined {
  const text = payload.toString("latin1");
  const choices = CHOICES.exec(text);
  if (choices === null) return undefined;
  const headEnd = choices.index + choices[0].length;
  const tailStart = text.lastIndexOf("]");
  const inner = payload.toString("utf8", headEnd, tailStart);
  if (!isSame(`[${inner}]`, chunk.choices)) return undefined;
  return {
    // Copies: a view would keep the whole piece that it was cut from as long as the stream lives
    head: Buffer.from(payload.subarray(0, headEnd)),
    tail: Buffer.from(payload.subarray(tailStart)),
    before: Buffer.from(`${BEFORE}${headOf(face, created)}[`),
    after: Buffer.from(`]${tailOf(face)}${AFTER}`),
  };
}

/**
 * The inside of `choices`, where the chunk is like the first one around it and says nothing that we
 * must read.
 */
function innerOf({ head, tail }: Template, payload: Buffer): Buffer | undefined {
  const end = payload.length - tail.length;
  if (end < head.length) return undefined;
  if (head.compare(payload, 0, head.length) !== 0) return undefined;
  if (tail.compare(payload, end) !== 0) return undefined;
  const inner = payload.subarray(head.length, end);
  return mayReportUsage(inner) || hasValue(inner, FINISH) ? undefined : inner;
}

function isSame(text: string, value: unknown): boolean {
  try {
    return JSON.stringify(JSON.parse(text)) === JSON.stringify(value);
  } catch {
    return false;
  }
}

/** @throws Error where it is no object, or reports an error */
export function parseChunk(payload: Buffer): Json {
  const chunk: unknown = JSON.parse(payload.toString("utf8"));
  if (!isObject(chunk)) throw new Error("an event is not an object");
  if (chunk.error !== undefined && chunk.error !== null) throw new Error("an event is an error");
  return chunk;
}

const isFinished = (choice: unknown): choice is { index?: number } =>
  isObject(choice) && typeof choice.finish_reason === "string";

const withoutLogprobs = (choices: unknown[]): Buffer =>
  Buffer.from(JSON.stringify(choices, (name, value) => (name === "logprobs" ? null : value)));

const headOf = ({ id, model }: Face, created: number) =>
  `{"id":"${id}","object":"chat.completion.chunk","created":${created},"model":${JSON.stringify(model)},"choices":`;

const tailOf = ({ includeUsage }: Face) => (includeUsage === true ? ',"usage":null}' : "}");
