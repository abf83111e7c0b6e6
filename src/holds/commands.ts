import { refuse, refuseField } from "../base/errors.js";
import { checkAmount } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { MAX_NGONKA, priceOf } from "../base/money.js";
import type { Sql } from "../db/sql.js";
import type {
  AuthorizeRequest,
  CaptureRequest,
  ExtendRequest,
  GetHoldRequest,
  VoidRequest,
} from "../gen/keytoll/v1/hold_pb.js";
import type { Keyring } from "../keys/authenticate.js";
import type { Manager } from "../keys/caller.js";
import { findPriceVersion, type Price, type PriceBook } from "../pricing/prices.js";
import { checkTokens, readAuthorize } from "./asked.js";
import { encodeCaptured, encodeHold, encodeNewHold, encodeRemaining } from "./encode.js";
import { createHoldBook, type HoldFacts } from "./facts.js";
import type { Authorized, Holds } from "./holds.js";
import {
  checkHeldAmount,
  checkHoldId,
  checkPart,
  checkSeconds,
  fingerprintOf,
} from "./requests.js";

export interface CommandSources {
  sql: Sql;
  holds: Holds;
  prices: PriceBook;
  keyring: Keyring;
}

export type Commands = ReturnType<typeof createCommands>;

/** What a backend may ask of its holds, for a manager whose credential was checked just now. */
export function createCommands(sources: CommandSources) {
  const { sql, holds, keyring } = sources;
  const book = createHoldBook(sql, keyring);
  return {
    async authorize(manager: Manager, request: AuthorizeRequest) {
      const asked = await readAuthorize(sources, manager, request);
      const authorized = await holds.authorize(asked);
      const remaining = encodeRemaining(authorized.remaining);
      if (authorized.repeated) {
        return { hold: encodeHold(asked.id, await book.parts(manager, asked.id)), remaining };
      }
      book.remember(asked, authorized);
      return { hold: encodeNewHold(asked, authorized), remaining };
    },

    async capture(manager: Manager, request: CaptureRequest) {
      const { account } = manager;
      const id = checkHoldId(request.holdId);
      const facts = await book.facts(manager, id);
      const { cost, inputTokens, outputTokens } = await readActual(sources, facts, request.actual);
      const captured = await holds.capture({
        account,
        id,
        cost,
        inputTokens,
        outputTokens,
        estimated: false,
        fingerprint: fingerprintOf(cost, inputTokens ?? "", outputTokens ?? ""),
        own: false,
      });
      book.forget(account, id);
      return { hold: encodeCaptured(id, facts, captured) };
    },

    async void(manager: Manager, request: VoidRequest) {
      const { account } = manager;
      const id = checkHoldId(request.holdId);
      await book.facts(manager, id);
      await holds.void({ account, id });
      book.forget(account, id);
      return { hold: encodeHold(id, await book.parts(manager, id)) };
    },

    async extend(manager: Manager, request: ExtendRequest) {
      const { account } = manager;
      const id = checkHoldId(request.holdId);
      // Checked before anything is added: what is refused must change nothing
      const { deadlineSeconds } = request;
      const seconds = deadlineSeconds === undefined ? undefined : checkSeconds(deadlineSeconds);
      const facts = await book.facts(manager, id);
      const added = await addPart(holds, { account, id }, facts, request);
      if (seconds !== undefined) await holds.extend({ account, id, seconds, checkpoint: null });
      const hold = encodeHold(id, await book.parts(manager, id));
      return { hold, ...(added && { remaining: encodeRemaining(added.remaining) }) };
    },

    async getHold(manager: Manager, request: GetHoldRequest) {
      const id = checkHoldId(request.holdId);
      return { hold: encodeHold(id, await book.parts(manager, id)) };
    },
  };
}

/** What a request came to, priced by the version that its hold was authorized with. */
async function readActual(
  { sql, prices }: CommandSources,
  { model, priceVersion }: HoldFacts,
  actual: CaptureRequest["actual"],
) {
  if (actual.case === "costNgonka") {
    const cost = checkAmount("cost_ngonka", actual.value);
    return { cost, inputTokens: null, outputTokens: null };
  }
  if (actual.case !== "usage") throw refuseField("cost_ngonka", "or usage is required");
  const inputTokens = checkTokens("usage.input_tokens", actual.value.inputTokens);
  const outputTokens = checkTokens("usage.output_tokens", actual.value.outputTokens);
  const price = await priceAt(sql, prices, model, priceVersion);
  if (!price) throw refuseField("usage", "needs a hold that names its model; give cost_ngonka");
  const cost = priceOf(price, inputTokens, outputTokens);
  // No hold is as large, and no column of the database either
  if (cost > MAX_NGONKA) throw refuse("capture_exceeds_hold");
  return { cost, inputTokens, outputTokens };
}

/** A version of a price, which never changes: mostly the one in force, which is at hand. */
async function priceAt(
  sql: Sql,
  prices: PriceBook,
  model: string | null,
  version: number | null,
): Promise<Price | undefined> {
  if (model === null || version === null) return undefined;
  const present = await prices.find(model);
  return present?.version === version ? present : await findPriceVersion(sql, model, version);
}

/** Authorizes a further part of a request, where an amount is asked for. */
async function addPart(
  holds: Holds,
  { account, id }: { account: Id; id: Id },
  { child, model, priceVersion }: HoldFacts,
  request: ExtendRequest,
): Promise<Authorized | undefined> {
  const { extension, amountNgonka } = request;
  if (amountNgonka === undefined && extension === undefined) {
    if (request.deadlineSeconds === undefined) {
      throw refuseField("amount_ngonka", "or deadline_seconds is required");
    }
    return undefined;
  }
  if (extension === undefined) throw refuseField("extension", "is required with amount_ngonka");
  if (amountNgonka === undefined) throw refuseField("amount_ngonka", "is required with extension");
  const part = checkPart(extension);
  const amount = checkHeldAmount(amountNgonka);
  return await holds.authorize({
    account,
    child,
    id,
    part,
    amount,
    floor: 0n,
    secretVersion: 0,
    seconds: checkSeconds(),
    fingerprint: fingerprintOf(part, amount),
    own: false,
    model,
    priceVersion,
  });
}
