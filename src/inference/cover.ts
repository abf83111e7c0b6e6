import { type Reason, Refusal, refuse } from "../base/errors.js";
import type { Signal } from "../base/line.js";
import { type Ngonka, outputTokensFor, priceOf } from "../base/money.js";
import { elapsed, MINUTE, pause, SECOND } from "../base/time.js";
import type { HoldRequest, Holds } from "../holds/holds.js";
import type { Price } from "../pricing/prices.js";
import type { StopReason } from "./chunks.js";
import type { Covering } from "./meter.js";

/** What a running stream's holds pay for. It grows while the stream runs, part by part. */
export interface Cover extends Covering {
  /** Ngonka of all parts. */
  readonly held: Ngonka;
  /** Why nothing more may be spent, not even what is held. */
  readonly refusal: Refusal | undefined;
  /** Tells when `refusal` is set: then the stream is cut at once. */
  onRefused(act: () => void): void;
  /**
   * Resolves once more is held than before. Where Postgres is away or busy it is asked again for a
   * minute.
   *
   * @throws whatever Holds.authorize refuses; the signal's reason
   */
  more(signal: Signal): Promise<void>;
  /** Resolves once no part is being asked for. */
  settled(): Promise<void>;
}

export interface Growth {
  price: Price;
  /** Most input tokens that the prompt can have. */
  inputTokens: bigint;
  /** Tokens that all answers may have together. */
  most: number;
  /** Tokens that all answers are held ahead together. */
  step: number;
  /** What all of it can cost at most. */
  whole: Ngonka;
}

const PATIENCE = MINUTE;
const AGAIN = SECOND / 2;
/** Asked again a little later, these may pass. */
const PASSING: readonly Reason[] = ["busy", "not_ready"];
/** Whoever has no money left may still use what is held for them; these may use nothing. */
const POOR: readonly Reason[] = ["child_key_limit_exceeded", "insufficient_balance"];

/** Refusals of a further part that end a stream as if its answers had reached their length. */
const ENDS: readonly Reason[] = [
  ...POOR,
  ...(["invalid_api_key", "child_key_inactive", "account_suspended"] as const),
];

/** What its caller reads of why a stream was cut; undefined for what is no clean end. */
export function stopReasonOf(error: unknown): StopReason | undefined {
  if (!(error instanceof Refusal) || !ENDS.includes(error.reason)) return undefined;
  const { reason: code, message, details } = error;
  const resetsAt = details.facts?.resets_at;
  return { code, message, ...(resetsAt !== undefined && { resets_at: resetsAt }) };
}

/**
 * Covers a stream whose first hold was authorized. The next part is asked for when half a step is
 * left, so that a stream need not wait for it; each in the period of its own moment. Where that is
 * refused for want of money, it is asked for once more when all that is held is used up.
 *
 * @param first   the first hold, which further parts are authorized like
 * @param granted what was reserved by it
 */
export function createCover(
  holds: Pick<Holds, "authorize">,
  first: HoldRequest,
  granted: Ngonka,
  { price, inputTokens, most, step, whole }: Growth,
): Cover {
  const tokensFor = (amount: Ngonka) => {
    const tokens = outputTokensFor(price, inputTokens, amount);
    if (tokens === null || amount >= whole || tokens >= BigInt(most)) {
      return Number.POSITIVE_INFINITY;
    }
    return Number(tokens);
  };
  let { part } = first;
  let held = granted;
  let tokens = tokensFor(held);
  let asking: Promise<void> | undefined;
  let inVain = false;
  let refusal: Refusal | undefined;
  let refused = () => {};

  async function grow(): Promise<void> {
    const cost = priceOf(price, inputTokens, BigInt(Math.min(most, tokens + step)));
    const more = (cost < whole ? cost : whole) - held;
    const asked = { ...first, part: part + 1, amount: more > 0n ? more : 1n, floor: 0n };
    const { amount, repeated } = await holds.authorize(asked);
    if (repeated === "ended") throw refuse("model_unavailable");
    part += 1;
    held += amount;
    tokens = tokensFor(held);
    inVain = false;
  }
  function note(error: unknown): never {
    inVain = true;
    if (error instanceof Refusal && ![...PASSING, ...POOR].includes(error.reason)) {
      refusal = error.reason === "hold_ended" ? refuse("model_unavailable") : error;
      refused();
    }
    throw refusal ?? error;
  }
  function begin(): Promise<void> {
    asking ??= grow()
      .catch(note)
      .finally(() => {
        asking = undefined;
      });
    return asking;
  }

  return {
    get tokens() {
      return tokens;
    },
    get soon() {
      return tokens - step / 2;
    },
    get refused() {
      return refusal !== undefined;
    },
    get refusal() {
      return refusal;
    },
    get held() {
      return held;
    },
    onRefused(act) {
      refused = act;
    },
    ask() {
      if (asking === undefined && !inVain) begin().catch(() => {});
    },
    async more(signal) {
      const until = elapsed() + PATIENCE;
      for (;;) {
        signal.throwIfAborted();
        if (refusal !== undefined) throw refusal;
        try {
          return await begin();
        } catch (error) {
          const passes = error instanceof Refusal && PASSING.includes(error.reason);
          if (!passes || elapsed() > until) throw error;
        }
        await pause(AGAIN, signal);
      }
    },
    async settled() {
      await asking?.catch(() => {});
    },
  };
}
