import { refuse, refuseField } from "../base/errors.js";
import { MAX_NGONKA, type Ngonka, outputTokensFor, priceOf } from "../base/money.js";
import type { Price } from "../pricing/prices.js";
import type { Asked } from "./kind.js";
import type { ChatRequest } from "./parameters.js";

/** What a request is held for before it runs. */
export interface Estimate {
  /** The ceiling of its cost. */
  amount: Ngonka;
  /** Least amount that will do where the caller left the length open; 0n: all or nothing. */
  floor: Ngonka;
  /** Most input tokens that the prompt can have. */
  inputTokens: bigint;
  /** Tokens that each answer may have. */
  maxTokens: number;
}

/** Tokens that a chat template or a model's own preamble adds to a prompt. */
const PROMPT_OVERHEAD = 256;
const DEFAULT_MAX_TOKENS = 4_096;
/** Where the length is open, an answer cut shorter than this would help nobody. */
const SHORTEST_ANSWER = 256;

/**
 * The ceiling of a request's cost: a token for every byte of the body, the template's overhead, and
 * every answer as long as it may be, at the model's price, rounded up once.
 *
 * @throws invalid_request_error  max_tokens above what the model can write; images
 */
export function estimate(request: Asked, price: Price): Estimate {
  const most = price.maxOutputTokens ?? Number.POSITIVE_INFINITY;
  if (request.maxTokens !== undefined && request.maxTokens > most) {
    throw refuseField("max_tokens", `must be at most ${most} for this model`);
  }
  if (request.images !== undefined) {
    throw refuseField("messages", "images are not supported by this model");
  }
  const maxTokens = request.maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, most);
  const inputTokens = BigInt(request.bytes + PROMPT_OVERHEAD);
  const shortest = Math.min(SHORTEST_ANSWER, maxTokens);
  return {
    amount: ceilingOf(price, inputTokens, maxTokens, request.n),
    floor:
      request.maxTokens === undefined ? ceilingOf(price, inputTokens, shortest, request.n) : 0n,
    inputTokens,
    maxTokens,
  };
}

/** A hold is of at least one unit, also where the model is free, and fits a bigint column. */
function ceilingOf(price: Price, inputTokens: bigint, tokens: number, n: number): Ngonka {
  const amount = priceOf(price, inputTokens, BigInt(tokens) * BigInt(n));
  if (amount < 1n) return 1n;
  if (amount > MAX_NGONKA) return MAX_NGONKA;
  return amount;
}

/**
 * Tokens that each answer may have when `granted` is all that was reserved: never more than was
 * estimated.
 */
export function affordableTokens(
  estimated: Estimate,
  price: Price,
  n: number,
  granted: Ngonka,
): number {
  if (granted >= estimated.amount) return estimated.maxTokens;
  const affordable = outputTokensFor(price, estimated.inputTokens, granted);
  if (affordable === null) return estimated.maxTokens;
  return Math.max(1, Math.min(estimated.maxTokens, Number(affordable / BigInt(n))));
}

/**
 * The body that goes to the upstream. It is written anew from what was read, so that a parameter
 * that stands twice cannot mean one thing to us and another to the upstream.
 *
 * @throws invalid_request_error  nested too deeply to be written
 */
export function upstreamBody(request: ChatRequest, model: string, maxTokens: number): string {
  const body = {
    model,
    ...request.passed,
    max_tokens: maxTokens,
    ...(request.n > 1 && { n: request.n }),
    ...(request.stream && { stream: true, stream_options: { include_usage: true } }),
  };
  try {
    return JSON.stringify(body);
  } catch {
    throw refuse("invalid_request_error", { message: "the body is nested too deeply" });
  }
}
