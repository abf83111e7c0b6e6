import type { Ngonka } from "../base/money.js";
import type { Bill } from "./kind.js";
import { isObject, type Json } from "./values.js";

/** Tokens of one request, and whether we had to count them ourselves. */
export interface Usage {
  inputTokens: bigint;
  outputTokens: bigint;
  estimated: boolean;
}

/** Bytes that make a token where nobody counted: what text has on average. */
const BYTES_PER_TOKEN = 4;
/** More tokens than this in one answer are a mistake, not a report. */
const MAX_TOKENS = 2_147_483_647;
const UNITS_PER_CREDIT = 1_000_000_000n;
const CREDIT_DIGITS = 9;
/** Of an upstream's report. */
const DETAILS = ["prompt_tokens_details", "completion_tokens_details"] as const;

/** Tokens of a number of bytes, as we count where the upstream did not. */
export const tokensOf = (bytes: number): number => Math.ceil(bytes / BYTES_PER_TOKEN);

/**
 * What an answer's own top-level `usage` says. Undefined where it says nothing that can be billed;
 * zero is zero.
 */
export function reportedUsage(answer: Json): Usage | undefined {
  const { usage } = answer;
  if (!isObject(usage)) return undefined;
  const { prompt_tokens: input, completion_tokens: output } = usage;
  if (!isCount(input) || !isCount(output)) return undefined;
  return { inputTokens: BigInt(input), outputTokens: BigInt(output), estimated: false };
}

/**
 * The usage as callers read it. `cost` is in credits, for display; `cost_units` is exact. The owner
 * decides whether either is there, and whether `total_cost_gnk` stands beside.
 *
 * @param reported details of the upstream's own report, where it made one
 */
export function usageBody({ usage, cost, costFields }: Bill, reported: unknown): Json {
  const { inputTokens, outputTokens } = usage;
  const details = isObject(reported) && !usage.estimated ? reported : {};
  // Field by field: a spread with more behind it takes microseconds
  const body: Json = {
    prompt_tokens: Number(inputTokens),
    completion_tokens: Number(outputTokens),
    total_tokens: Number(inputTokens + outputTokens),
  };
  for (const name of DETAILS) if (isObject(details[name])) body[name] = counts(details[name]);
  if (costFields !== "none") {
    body.cost = credits(cost);
    body.cost_units = cost.toString();
  }
  if (costFields === "gonka") body.total_cost_gnk = credits(cost);
  if (usage.estimated) body.estimated = true;
  return body;
}

/** Only numbers: a text in there could name whose report it is. */
const counts = (details: Json): Json =>
  Object.fromEntries(Object.entries(details).filter(([, value]) => isCount(value)));

function credits(cost: Ngonka): number {
  const fraction = (cost % UNITS_PER_CREDIT).toString().padStart(CREDIT_DIGITS, "0");
  return Number(`${cost / UNITS_PER_CREDIT}.${fraction}`);
}

const isCount = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_TOKENS;
