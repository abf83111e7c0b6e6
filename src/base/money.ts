/** An amount of money: whole ngonka, never a float. 1 GNK = 1,000,000,000 ngonka. */
export type Ngonka = bigint;

export const NGONKA_PER_GNK = 1_000_000_000n;
/** The largest amount that Postgres' bigint and proto's int64 can hold. */
export const MAX_NGONKA: Ngonka = 9_223_372_036_854_775_807n;

const TOKENS_PER_PRICE = 1_000_000n;

/** Ngonka per million tokens, as an operator sets it. */
export interface TokenPrice {
  inputPerMtok: Ngonka;
  outputPerMtok: Ngonka;
}

/**
 * Price of a number of tokens in ngonka, rounded up once for the whole request, so that a request
 * is never free by rounding and never charged twice for it.
 */
export function priceOf(price: TokenPrice, inputTokens: bigint, outputTokens: bigint): Ngonka {
  const exact = inputTokens * price.inputPerMtok + outputTokens * price.outputPerMtok;
  return (exact + TOKENS_PER_PRICE - 1n) / TOKENS_PER_PRICE;
}

/**
 * Most output tokens that `budget` ngonka pay for, beside `inputTokens`. Null where output is free.
 */
export function outputTokensFor(
  price: TokenPrice,
  inputTokens: bigint,
  budget: Ngonka,
): bigint | null {
  if (price.outputPerMtok === 0n) return null;
  const left = budget * TOKENS_PER_PRICE - inputTokens * price.inputPerMtok;
  return left <= 0n ? 0n : left / price.outputPerMtok;
}

/**
 * Reads a decimal string of ngonka. Undefined for anything else: signs, floats, spaces, over int64.
 */
export function parseNgonka(text: string): Ngonka | undefined {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(text)) return undefined;
  const amount = BigInt(text);
  return amount <= MAX_NGONKA ? amount : undefined;
}

/**
 * Reads what an operator types: `5gnk`, `0.25gnk`, `1000ngonka`. Undefined where it is not exactly
 * that, or finer than one ngonka.
 */
export function parseTypedAmount(text: string): Ngonka | undefined {
  const match = /^([0-9]{1,19})(?:\.([0-9]{1,9}))?(gnk|ngonka)$/i.exec(text.trim());
  if (!match?.[1] || !match[3]) return undefined;
  if (match[3].toLowerCase() === "ngonka") {
    return match[2] === undefined ? parseNgonka(match[1]) : undefined;
  }
  const amount = BigInt(match[1]) * NGONKA_PER_GNK + BigInt((match[2] ?? "").padEnd(9, "0"));
  return amount <= MAX_NGONKA ? amount : undefined;
}

/** Ngonka in words for a human: `1.25 GNK`. */
export function inGnk(amount: Ngonka): string {
  const sign = amount < 0n ? "-" : "";
  const abs = amount < 0n ? -amount : amount;
  const fraction = (abs % NGONKA_PER_GNK).toString().padStart(9, "0").replace(/0+$/, "");
  return `${sign}${abs / NGONKA_PER_GNK}${fraction ? `.${fraction}` : ""} GNK`;
}
