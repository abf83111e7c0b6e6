import type { Reason } from "../base/errors.js";
import { now, SECOND } from "../base/time.js";
import { shownPiece } from "./choices.js";
import { type ChunkTemplate, learn, textIn, textOf } from "./chunk-template.js";
import type { Meter } from "./meter.js";
import { isObject, type Json } from "./values.js";

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

/** Ways of writing that are learnt of one stream: its answers and texts in all their turns. */
const MOST_TEMPLATES = 16;

/**
 * Turns an upstream's chunks into ours. Most chunks differ from an earlier one only in their text:
 * all around it is exchanged as bytes, without parsing. Whatever differs in anything else is parsed
 * and built anew from the fields that callers may see. The chunk that ends the last answer, and all
 * after it, wait for `finale`.
 */
export function createChunkReader(face: Face, meter: Meter): ChunkReader {
  const templates: ChunkTemplate[] = [];
  const learnt = new Set<string>();
  let created: number | undefined;
  const unfinished = new Set(Array(face.n).keys());
  let done = false;
  let ready: Buffer[] = [];
  const held: Buffer[] = [];

  const put = (...pieces: Buffer[]) => (unfinished.size === 0 ? held : ready).push(...pieces);
  const head = () => headOf(face, created ?? Math.floor(now() / SECOND));
  const show = ({ choices }: Json) =>
    `${BEFORE}${head()}${JSON.stringify((choices as unknown[]).map(shownPiece))}${tailOf(face)}${AFTER}`;

  const learnFrom = (payload: Buffer, chunk: Json) => {
    const text = face.logprobs || learnt.size >= MOST_TEMPLATES ? undefined : textOf(chunk);
    if (text === undefined || learnt.has(`${text.name} ${text.index}`)) return;
    learnt.add(`${text.name} ${text.index}`);
    const template = learn(payload, chunk, text.name, show);
    if (template !== undefined) templates.push(template);
  };
  const takeParsed = (payload: Buffer): boolean => {
    const chunk = parseChunk(payload);
    meter.note(chunk);
    const { choices } = chunk;
    if (!Array.isArray(choices) || choices.length === 0) return true;
    if (!meter.count(carriedIn(choices, face))) return false;
    if (Number.isSafeInteger(chunk.created)) created ??= chunk.created as number;
    learnFrom(payload, chunk);
    for (const choice of choices.filter(isFinished)) unfinished.delete(choice.index ?? 0);
    put(Buffer.from(show(chunk)));
    return true;
  };
  const takeAlike = (payload: Buffer): boolean | undefined => {
    for (const template of templates) {
      const text = textIn(template, payload);
      if (text === undefined) continue;
      if (!meter.count(payload.subarray(template.head, payload.length - template.tail)))
        return false;
      put(template.before, text, template.after);
      return true;
    }
    return undefined;
  };
  const ending = (usage: Json) => {
    const last = `${head()}[],"usage":${JSON.stringify(usage)}}`;
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
      return takeAlike(payload) ?? takeParsed(payload);
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
      const last = `${head()}${JSON.stringify(choices)}${why}${tailOf(face)}`;
      return Buffer.concat([...ready, BEFORE, Buffer.from(last), AFTER, ...ending(usage)]);
    },
  };
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

/** The odds of tokens are many bytes and no tokens. */
const carriedIn = (choices: unknown[], { logprobs }: Face): Buffer =>
  Buffer.from(
    JSON.stringify(choices, (name, value) => (logprobs && name === "logprobs" ? null : value)),
  );

const headOf = ({ id, model }: Face, created: number) =>
  `{"id":"${id}","object":"chat.completion.chunk","created":${created},"model":${JSON.stringify(model)},"choices":`;

const tailOf = ({ includeUsage }: Face) => (includeUsage === true ? ',"usage":null}' : "}");
