import { refuse } from "../base/errors.js";
import { type Id, newId } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { MAX_NGONKA, type Ngonka, priceOf } from "../base/money.js";
import type { Delivery } from "../holds/delivery/deliver.js";
import type { Holds } from "../holds/holds.js";
import type { Price, PriceBook } from "../pricing/prices.js";
import { affordableTokens, estimate } from "./estimate.js";
import { HOLD_SECONDS, type Keeper } from "./keeper.js";
import type { Asked, Dialect } from "./kind.js";
import type { Route } from "./route.js";
import type { Upstreams } from "./upstreams.js";
import type { Usage } from "./usage.js";

export interface Paying {
  holds: Holds;
  delivery: Delivery;
  prices: PriceBook;
  upstreams: Upstreams;
  keeper: Keeper;
  log: Log;
}

/** Who pays: a child key that has authenticated. */
export interface Payer {
  account: Id;
  child: Id;
  secretVersion: number;
  /** Models that the key may use; null: all. */
  models: readonly string[] | null;
}

/** A request with a durable open hold. It must be captured or voided, once. */
export interface Payment {
  id: Id;
  route: Route;
  /** Tokens that each answer may have. */
  maxTokens: number;
  /** Aborts when the caller hangs up, or when the hold is lost. */
  signal: AbortSignal;
  /** Tells what a stream has produced, for the checkpoints of its hold. */
  producing(usage: () => Usage | undefined): void;
  /** What `usage` costs, and what of it the customer pays: never more than was held. */
  priceOf(usage: Usage): { cost: Ngonka; paid: Ngonka };
  /** Ends the hold at the cost of `usage`. @returns what the customer pays, durable */
  capture(usage: Usage): Promise<Ngonka>;
  /** Ends the hold at zero. Where even that fails, the hold is swept after its deadline. */
  void(): Promise<void>;
}

/**
 * Opens the hold of a request, so that nothing is asked of an upstream which is not paid for.
 *
 * @param line aborted when the caller hangs up, and by us when the hold is lost
 * @param id   of the hold, a new one
 * @throws model_not_found  not priced, not enabled, not served (in this dialect) or not on this
 *   key's list
 * @throws whatever Holds.authorize refuses, and what the estimate refuses
 */
export async function openPayment(
  paying: Paying,
  payer: Payer,
  dialect: Dialect,
  request: Asked,
  line: AbortController,
  id: Id = newId(),
): Promise<Payment> {
  const { price, route } = await findModel(paying, payer, request.model, dialect);
  const estimated = estimate(request, price);
  const { account, child, secretVersion } = payer;
  const held = await paying.holds.authorize({
    account,
    child,
    id,
    part: 0,
    amount: estimated.amount,
    floor: estimated.floor,
    secretVersion,
    seconds: HOLD_SECONDS,
    fingerprint: request.fingerprint,
    own: true,
    model: price.model,
    priceVersion: price.version,
  });
  // Taken while the database was away, and swept before we learnt of it: nothing may be spent on it
  if (held.repeated === "ended") throw refuse("not_ready", { retryAfter: 1, shouldRetry: true });
  const maxTokens = affordableTokens(estimated, price, request.n, held.amount);
  return {
    id,
    route,
    maxTokens,
    ...lifeOf(paying, { account, id, held: held.amount, request, price, line }),
  };
}

interface Life {
  account: Id;
  id: Id;
  held: Ngonka;
  request: Asked;
  price: Price;
  line: AbortController;
}

function lifeOf({ delivery, keeper, log }: Paying, life: Life) {
  const { account, id, held, request, price, line } = life;
  let produced: () => Usage | undefined = () => undefined;
  const unwatch = keeper.watch({
    account,
    id,
    checkpoint() {
      const usage = produced();
      return usage === undefined ? null : { ...usage, cost: costOf(price, usage) };
    },
    lost() {
      log.error({ hold: id }, "the hold of a running request has ended: the request is cut");
      line.abort(refuse("model_unavailable"));
    },
  });
  return {
    signal: line.signal,
    producing(usage: () => Usage | undefined) {
      produced = usage;
    },
    priceOf(usage: Usage) {
      const cost = costOf(price, usage);
      return { cost, paid: lesser(cost, held) };
    },
    async capture(usage: Usage): Promise<Ngonka> {
      const cost = costOf(price, usage);
      const { fingerprint } = request;
      try {
        return await delivery.capture({ account, id, cost, ...usage, fingerprint }, held);
      } catch (error) {
        const tokens = [usage.inputTokens, usage.outputTokens].map(String);
        log.error({ err: error, hold: id, account, cost: String(cost), tokens }, "not captured");
        throw refuse("not_ready");
      } finally {
        unwatch();
      }
    },
    async void(): Promise<void> {
      try {
        await delivery.void({ account, id });
      } catch (error) {
        log.error({ err: error, hold: id, account }, "not voided");
      } finally {
        unwatch();
      }
    },
  };
}

function costOf(price: Price, { inputTokens, outputTokens }: Usage): Ngonka {
  const cost = priceOf(price, inputTokens, outputTokens);
  // A report beyond all measure must not spoil the batch that its capture travels in
  return lesser(cost, MAX_NGONKA);
}

function lesser(one: Ngonka, other: Ngonka): Ngonka {
  if (one > other) return other;
  return one;
}

async function findModel(
  { prices, upstreams }: Paying,
  payer: Payer,
  model: string,
  dialect: Dialect,
) {
  if (payer.models !== null && !payer.models.includes(model)) throw refuse("model_not_found");
  const price = await prices.find(model);
  const route = upstreams.route(model, dialect);
  if (!price?.enabled || route === undefined) throw refuse("model_not_found");
  return { price, route };
}
