import { refuse, refuseField } from "../base/errors.js";
import { MAX_NGONKA, type Ngonka, outputTokensFor, priceOf } from "../base/money.js";
import type { Price } from "../pricing/prices.js";
import type { Asked } from "./kind.js";
import type { ChatRequest } from "./parameters.js";
import { tokensOf } from "./usage.js";
import type { Json } from "./values.js";

/** What a request is held for before it runs. */
export interface Estimate {
  /** The ceiling of its cost. */
  amount: Ngonka;
  /** Least amount that will do where the caller left the length open; 0n: all or nothing. */
  floor: Ngonka;
  /** Most input tokens that the prompt can have. */
  inputTokens: bigint;
  /** Tokens of the prompt by our count, for when the upstream does not report. */
  promptTokens: number;
  /** Tokens that each answer may have. */
  maxTokens: number;
  /** Tokens of each answer that the floor pays for. */
  shortest: number;
}

/** Tokens that a chat template or a model's own preamble adds to a prompt, unless it is known. */
const PROMPT_OVERHEAD = 256;
const DEFAULT_MAX_TOKENS = 4_096;
/** Where the length is open, an answer cut shorter than this would help nobody. */
const SHORTEST_ANSWER = 256;
/** Characters that no token has more of. */
const LONGEST_TOKEN = 256;
/** Parts that the hold of one stream may have. */
const MOST_PARTS = 1_000;

/**
 * The ceiling of a request's cost: a token for every byte of the body, the template's overhead, the
 * declared tokens of each image in place of its bytes, and every answer as long as it may be, at
 * the model's price, rounded up once; never more than fits the model's context.
 *
 * @throws invalid_request_error  max_tokens above what the model can write, a prompt that it can't
 *   read, images where it takes none
 */
export function estimate(request: Asked, price: Price): Estimate {
  const { bytes, images = 0, imageBytes = 0, n } = request;
  if (images > 0 && price.imageTokens === null) {
    throw refuseField("messages", "images are not supported by this model");
  }
  const maxTokens = lengthOf(request, price);
  const pictured = images * (price.imageTokens ?? 0);
  const overhead = price.promptOverheadTokens ?? PROMPT_OVERHEAD;
  const context = price.contextTokens ?? Number.POSITIVE_INFINITY;
  const inputTokens = BigInt(Math.min(bytes - imageBytes + pictured + overhead, context));
  const shortest = Math.min(SHORTEST_ANSWER, maxTokens);
  return {
    amount: ceilingOf(price, inputTokens, maxTokens, n),
    floor: request.maxTokens === undefined ? ceilingOf(price, inputTokens, shortest, n) : 0n,
    inputTokens,
    promptTokens: Math.min(tokensOf(bytes - imageBytes) + pictured, context),
    maxTokens,
    shortest,
  };
}

/** Tokens that each answer may have: as asked for, else the model's default. */
function lengthOf({ maxTokens, fits, textLength = 0 }: Asked, price: Price): number {
  const most = price.maxOutputTokens ?? Number.POSITIVE_INFINITY;
  if (maxTokens !== undefined && maxTokens > most && !fits) {
    throw refuseField("max_tokens", `must be at most ${most} for this model`);
  }
  const context = price.contextTokens ?? Number.POSITIVE_INFINITY;
  const room = context - Math.max(1, Math.ceil(textLength / LONGEST_TOKEN));
  if (room < (maxTokens === 0 ? 0 : 1)) {
    throw refuseField("messages", `do not fit into the ${context} tokens of this model`);
  }
  if (maxTokens !== undefined && maxTokens > room && !fits) {
    throw refuseField("max_tokens", `leaves no room for the prompt: both share ${context} tokens`);
  }
  const wanted = maxTokens ?? price.defaultMaxTokens ?? DEFAULT_MAX_TOKENS;
  return Math.min(wanted, most, room);
}

/** A hold is of at least one unit, also where the model is free, and fits a bigint column. */
function ceilingOf(price: Price, inputTokens: bigint, tokens: number, n: number): Ngonka {
  const amount = mostCost(price, inputTokens, BigInt(tokens), BigInt(n));
  if (amount < 1n) return 1n;
  if (amount > MAX_NGONKA) return MAX_NGONKA;
  return amount;
}

/**
 * Most that a prompt of up to so many tokens and its answers can cost. Where each answer shares a
 * context with the prompt, either the longest prompt costs most, or the longest one that leaves the
 * answers their full length.
 */
function mostCost(price: Price, inputTokens: bigint, tokens: bigint, n: bigint): Ngonka {
  if (price.contextTokens === null) return priceOf(price, inputTokens, tokens * n);
  const context = BigInt(price.contextTokens);
  const costWith = (input: bigint) => priceOf(price, input, least(tokens, context - input) * n);
  const roomy = least(inputTokens, context > tokens ? context - tokens : 1n);
  return larger(costWith(inputTokens), costWith(roomy));
}

const larger = (a: bigint, b: bigint) => (a > b ? a : b);
const least = (a: bigint, b: bigint) => (a < b ? a : b);

/**
 * Tokens that each answer may have when `granted` is all that was reserved: never more than was
 * estimated.
 */
export function affordableTokens(
  { amount, maxTokens, shortest, floor, inputTokens }: Estimate,
  price: Price,
  n: number,
  granted: Ngonka,
): number {
  if (granted >= amount) return maxTokens;
  const affordable = outputTokensFor(price, inputTokens, granted);
  if (affordable === null) return maxTokens;
  const surely = floor > 0n && granted >= floor ? shortest : 1;
  return Math.max(surely, Math.min(maxTokens, Number(affordable / BigInt(n))));
}

/** The first of several parts that a growing hold has. */
export interface FirstPart {
  amount: Ngonka;
  /** As of an estimate. */
  floor: Ngonka;
  /** Tokens that each answer is held ahead. */
  step: number;
}

/**
 * What a stream is held for at first, where its hold grows: the prompt, and one step of each
 * answer. Undefined where all is held at once: the model has no step, its answers are no longer
 * than one, or cost nothing.
 */
export function firstPartOf(estimated: Estimate, price: Price, n: number): FirstPart | undefined {
  const { inputTokens, maxTokens, shortest } = estimated;
  if (price.holdStepTokens === null || price.outputPerMtok === 0n) return undefined;
  const step = Math.max(price.holdStepTokens, Math.ceil(maxTokens / MOST_PARTS));
  if (step >= maxTokens) return undefined;
  const held = (tokens: number) =>
    least(ceilingOf(price, inputTokens, tokens, n), estimated.amount);
  return {
    amount: held(step),
    floor: estimated.floor > 0n ? held(Math.min(shortest, step)) : 0n,
    step,
  };
}

/**
 * The body that goes to the upstream. It is written anew from what was read, so that a parameter
 * that stands twice cannot mean one thing to us and another to the upstream.
 *
 * @throws invalid_request_error  nested too deeply to be written
 */
export function upstreamBody(request: ChatRequest, model: string, maxTokens: number): string {
  const body: Json = { model, ...request.passed };
  body.max_tokens = maxTokens;
  if (request.n > 1) body.n = request.n;
  if (request.stream) {
    body.stream = true;
    body.stream_options = { include_usage: true };
  }
  try {
    return JSON.stringify(body);
  } catch {
    throw refuse("invalid_request_error", { message: "the body is nested too deeply" });
  }
}
