import { refuse } from "../base/errors.js";
import { type Id, newId } from "../base/ids.js";
import type { Line, Signal } from "../base/line.js";
import type { Log } from "../base/log.js";
import { MAX_NGONKA, type Ngonka, priceOf } from "../base/money.js";
import type { Delivery } from "../holds/delivery/deliver.js";
import type { OwnCapture } from "../holds/delivery/ending.js";
import type { HoldRequest, Holds } from "../holds/holds.js";
import type { AliasBook } from "../keys/aliases.js";
import type { CostFields } from "../keys/caller.js";
import type { Price, PriceBook } from "../pricing/prices.js";
import { type Cover, createCover, type Growth } from "./cover.js";
import {
  affordableTokens,
  type Estimate,
  estimate,
  type FirstPart,
  firstPartOf,
} from "./estimate.js";
import { HOLD_SECONDS, type Keeper } from "./keeper.js";
import type { Asked, Dialect } from "./kind.js";
import type { Route } from "./route.js";
import type { Upstreams } from "./upstreams.js";
import type { Usage } from "./usage.js";

export interface Paying {
  holds: Holds;
  delivery: Delivery;
  prices: PriceBook;
  aliases: AliasBook;
  upstreams: Upstreams;
  keeper: Keeper;
  log: Log;
}

/** Who pays: a child key that has authenticated. */
export interface Payer {
  account: Id;
  child: Id;
  secretVersion: number;
  /** Models that the key may use, by their ids or aliases; null: all. */
  models: readonly string[] | null;
  /** How answers tell their cost. */
  costFields: CostFields;
}

/** A request with a durable open hold. It must be captured or voided, once. */
export interface Payment {
  id: Id;
  route: Route;
  /** How its cost is told to whoever asked. */
  costFields: CostFields;
  /** Tokens that each answer may have. */
  maxTokens: number;
  /** Tokens of the prompt by our count, for when the upstream does not report. */
  promptTokens: number;
  /** What pays for a stream whose hold grows; undefined where all is held. */
  cover: Cover | undefined;
  /** Aborts when the caller hangs up, when the hold is lost, or when it took too long. */
  signal: Signal;
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
 * Opens the hold of a request, so that nothing is asked of an upstream which is not paid for. That
 * of a stream covers only the first step of its answers where the model's price says so, and grows
 * with what is streamed: see cover.ts.
 *
 * @param line aborted when the caller hangs up, and by us when the hold is lost
 * @param id   of the hold, a new one
 * @param streams whether its hold may grow
 * @throws model_not_found  not priced, not enabled, not served (in this dialect) or not on this
 *   key's list
 * @throws whatever Holds.authorize refuses, and what the estimate refuses
 */
export async function openPayment(
  paying: Paying,
  payer: Payer,
  dialect: Dialect,
  request: Asked,
  line: Line,
  id: Id = newId(),
  streams = false,
): Promise<Payment> {
  const { price, route } = await findModel(paying, payer, request.model, dialect);
  const estimated = estimate(request, price);
  const first = streams ? firstPartOf(estimated, price, request.n) : undefined;
  const asked = holdOf(payer, id, request, price, first ?? estimated);
  const { amount: held, repeated } = await paying.holds.authorize(asked);
  // Taken while the database was away, and swept before we learnt of it: nothing may be spent on it
  if (repeated === "ended") throw refuse("not_ready", { retryAfter: 1, shouldRetry: true });
  const cover =
    first && createCover(paying.holds, asked, held, growthOf(estimated, price, request, first));
  return paymentOf(paying, {
    account: payer.account,
    id,
    route,
    costFields: payer.costFields,
    maxTokens: cover ? estimated.maxTokens : affordableTokens(estimated, price, request.n, held),
    promptTokens: estimated.promptTokens,
    held,
    cover,
    request,
    price,
    line,
  });
}

const holdOf = (
  { account, child, secretVersion }: Payer,
  id: Id,
  { fingerprint }: Asked,
  price: Price,
  { amount, floor }: Pick<Estimate, "amount" | "floor">,
): HoldRequest => ({
  account,
  child,
  id,
  part: 0,
  amount,
  floor,
  secretVersion,
  seconds: HOLD_SECONDS,
  fingerprint,
  own: true,
  model: price.model,
  priceVersion: price.version,
});

const growthOf = (
  { inputTokens, maxTokens, amount: whole }: Estimate,
  price: Price,
  { n }: Asked,
  { step }: FirstPart,
): Growth => ({ price, inputTokens, most: maxTokens * n, step: step * n, whole });

type Told = "id" | "route" | "costFields" | "maxTokens" | "promptTokens" | "cover";

interface Opened extends Pick<Payment, Told> {
  account: Id;
  held: Ngonka;
  request: Asked;
  price: Price;
  line: Line;
}

function paymentOf({ delivery, keeper, log }: Paying, opened: Opened): Payment {
  const { account, id, held, cover, request, price, line } = opened;
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
    overdue() {
      log.warn({ hold: id }, "a request takes too long: it is cut");
      line.abort(refuse("upstream_timeout"));
    },
  });
  return {
    id,
    route: opened.route,
    costFields: opened.costFields,
    maxTokens: opened.maxTokens,
    promptTokens: opened.promptTokens,
    cover,
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
      try {
        // A part that is being asked for belongs to what is held, or is refused
        if (cover !== undefined) await cover.settled();
        const end: OwnCapture = {
          account,
          id,
          cost,
          inputTokens: usage.inputTokens,
          outputTokens: usage.outputTokens,
          estimated: usage.estimated,
          fingerprint: request.fingerprint,
          own: true,
        };
        return await delivery.capture(end, cover?.held ?? held);
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
  { prices, aliases, upstreams }: Paying,
  payer: Payer,
  asked: string,
  dialect: Dialect,
) {
  const known = aliases.of(payer.account);
  const model = ("then" in known ? await known : known).modelOf(asked);
  if (model === undefined || !mayUse(payer, asked, model)) throw refuse("model_not_found");
  const price = await prices.find(model);
  const route = upstreams.route(model, dialect);
  if (!price?.enabled || route === undefined) throw refuse("model_not_found");
  return { price, route };
}

/** Whether a key may use a model that is asked for by a name: its list may have either. */
export const mayUse = ({ models }: Pick<Payer, "models">, name: string, model: string): boolean =>
  models === null || models.includes(name) || models.includes(model);
