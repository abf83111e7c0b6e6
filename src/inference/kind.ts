import type { CostFields } from "../keys/caller.js";
import type { ChunkReader } from "./chunks.js";
import type { Meter } from "./meter.js";
import type { Usage } from "./usage.js";
import type { Json } from "./values.js";

/** The words that an upstream understands. */
export type Dialect = "openai" | "anthropic";

/** What the paid path must know of a request, whatever was asked and in whichever words. */
export interface Asked {
  model: string;
  /** Answers to write; each is paid for. */
  n: number;
  /**
   * Tokens that each answer may have, as the caller set it: undefined where the model's default
   * applies, 0 where nothing is written (embeddings).
   */
  maxTokens: number | undefined;
  /** Where `maxTokens` is more than the model can write, as much as it can is meant. */
  fits?: true;
  /** Bytes of the body: no text has more tokens than bytes. */
  bytes: number;
  /** Characters that the prompt has at least, where known: no token has very many. */
  textLength?: number;
  /** Images of the prompt; undefined: none. What one costs is the model's to say, not its bytes. */
  images?: number;
  /** Of `bytes`, those of images that stand in the body: read as no text. */
  imageBytes?: number;
  /** Of the body, to tell a repeat from a conflict. */
  fingerprint: bigint;
  /** Parameters that go to the upstream as they are: only their names may come back in an error. */
  passed: Json;
}

/**
 * A kind of inference, the paid path's only variable: how an upstream is asked for it, and how its
 * answers are read and shown.
 */
export interface Kind<Request extends Asked> {
  dialect: Dialect;
  /** Below the base URL of an upstream. */
  path: string;
  /**
   * The body for the upstream, written anew from what was read.
   *
   * @param model     the model's id there
   * @param maxTokens tokens that each answer may have
   */
  body(request: Request, model: string, maxTokens: number): string;
  /** @throws Error where the upstream's answer is not of this kind */
  check(answer: Json): void;
  /**
   * What to charge for an answer in one piece: as reported, else as counted.
   *
   * @param maxTokens    tokens that each answer may have
   * @param promptTokens of the request by our own count
   */
  usage(request: Request, answer: Json, maxTokens: number, promptTokens: number): Usage;
  /** The answer as the caller sees it, without a word of the upstream. */
  show(request: Request, answer: Json, bill: Bill): Json;
  /** Reads a stream of it. */
  reader(request: Request, meter: Meter): ChunkReader;
}

/** What an answer cost. */
export interface Bill {
  usage: Usage;
  /** Ngonka, captured. */
  cost: bigint;
  costFields: CostFields;
}
