import { refuse, refuseField } from "../base/errors.js";
import { checkAmount, checkId, checkInteger } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { MAX_NGONKA, type Ngonka, priceOf } from "../base/money.js";
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
import { findPriceVersion, type PriceBook } from "../pricing/prices.js";
import { encodeHold, encodeNewHold, encodeRemaining } from "./encode.js";
import type { Authorized, HoldRequest, Holds } from "./holds.js";
import {
  checkHeldAmount,
  checkHoldId,
  checkNewHoldId,
  checkPart,
  checkSeconds,
  fingerprintOf,
} from "./requests.js";
import { findChildOfAccount, findHoldParts, type HoldPart } from "./store.js";

interface Call {
  authorization: string | undefined;
}

export interface HoldHandling {
  sql: Sql;
  holds: Holds;
  prices: PriceBook;
  keyring: Keyring;
  requireOwnerOrManager(
    authorization: string | undefined,
    need: "read" | "write",
  ): Promise<Manager>;
}

/** The handlers of HoldService: the money core's own door. */
export const holdHandlers = (handling: HoldHandling) => ({
  async authorize(request: AuthorizeRequest, call: Call) {
    const manager = await handling.requireOwnerOrManager(call.authorization, "write");
    const asked = await readAuthorize(handling, manager, request);
    const authorized = await handling.holds.authorize(asked);
    const hold = authorized.repeated
      ? encodeHold(asked.id, await partsOf(handling.sql, manager, asked.id))
      : encodeNewHold(asked, authorized);
    return { hold, remaining: encodeRemaining(authorized.remaining) };
  },

  async capture(request: CaptureRequest, call: Call) {
    const manager = await handling.requireOwnerOrManager(call.authorization, "write");
    const id = checkHoldId(request.holdId);
    const parts = await backendPartsOf(handling.sql, manager, id);
    const actual = await readActual(handling.sql, parts, request.actual);
    await handling.holds.capture({
      account: manager.account,
      id,
      ...actual,
      estimated: false,
      fingerprint: fingerprintOf(actual.cost, actual.inputTokens ?? "", actual.outputTokens ?? ""),
      own: false,
    });
    return { hold: encodeHold(id, await partsOf(handling.sql, manager, id)) };
  },

  async void(request: VoidRequest, call: Call) {
    const manager = await handling.requireOwnerOrManager(call.authorization, "write");
    const id = checkHoldId(request.holdId);
    await backendPartsOf(handling.sql, manager, id);
    await handling.holds.void({ account: manager.account, id });
    return { hold: encodeHold(id, await partsOf(handling.sql, manager, id)) };
  },

  async extend(request: ExtendRequest, call: Call) {
    const manager = await handling.requireOwnerOrManager(call.authorization, "write");
    const id = checkHoldId(request.holdId);
    // Checked before anything is added: what is refused must change nothing
    const { deadlineSeconds } = request;
    const seconds = deadlineSeconds === undefined ? undefined : checkSeconds(deadlineSeconds);
    const parts = await backendPartsOf(handling.sql, manager, id);
    const added = await addPart(handling.holds, manager.account, id, parts, request);
    if (seconds !== undefined) {
      await handling.holds.extend({ account: manager.account, id, seconds, checkpoint: null });
    }
    const hold = encodeHold(id, await partsOf(handling.sql, manager, id));
    return { hold, ...(added && { remaining: encodeRemaining(added.remaining) }) };
  },

  async getHold(request: GetHoldRequest, call: Call) {
    const manager = await handling.requireOwnerOrManager(call.authorization, "read");
    const id = checkHoldId(request.holdId);
    return { hold: encodeHold(id, await partsOf(handling.sql, manager, id)) };
  },
});

/** @throws not_found, also for a hold below another management key than the caller's */
async function partsOf(sql: Sql, manager: Manager, id: Id): Promise<HoldPart[]> {
  const parts = await findHoldParts(sql, manager.account, id);
  const [first] = parts;
  if (!first) throw refuse("not_found", { message: "no such hold", param: "hold_id" });
  await checkChildOf(sql, manager, first.child_key_id);
  return parts;
}

/**
 * As partsOf, but only of holds that a backend opened: those of running inference are their
 * gateway's to end.
 */
async function backendPartsOf(sql: Sql, manager: Manager, id: Id): Promise<HoldPart[]> {
  const parts = await partsOf(sql, manager, id);
  if (parts[0]?.gateway_id) {
    throw refuse("not_found", { message: "no such hold", param: "hold_id" });
  }
  return parts;
}

async function checkChildOf(sql: Sql, manager: Manager, child: Id): Promise<void> {
  if (manager.kind === "owner") return;
  const row = await findChildOfAccount(sql, manager.account, child);
  if (row?.managementKey !== manager.managementKey) {
    throw refuse("not_found", { message: "no such hold", param: "hold_id" });
  }
}

async function readAuthorize(
  handling: HoldHandling,
  manager: Manager,
  request: AuthorizeRequest,
): Promise<HoldRequest> {
  const id = checkNewHoldId(request.holdId);
  const payer = await readPayer(handling, manager, request.key);
  const price = request.model === undefined ? undefined : await handling.prices.find(request.model);
  // What was accepted once is answered again, whatever became of the model: the engine knows it by
  // its fingerprint
  if (!mayUse(request.model, payer, price) && !(await isHeld(handling.sql, manager, id))) {
    throw refuse("model_not_found", { param: "model" });
  }
  const amount = readSize(request.size, price);
  return {
    account: manager.account,
    child: payer.child,
    id,
    part: 0,
    amount,
    floor: 0n,
    secretVersion: payer.secretVersion,
    seconds: checkSeconds(request.deadlineSeconds),
    fingerprint: fingerprintOf(
      payer.child,
      request.model,
      request.deadlineSeconds,
      ...sizeFacts(request.size),
    ),
    own: false,
    model: price?.model ?? null,
    priceVersion: price?.version ?? null,
  };
}

function mayUse(model: string | undefined, { models }: PayingChild, price: Price): boolean {
  if (model === undefined) return true;
  return price?.enabled === true && (models === null || models.includes(model));
}

const isHeld = async (sql: Sql, { account }: Manager, id: Id): Promise<boolean> =>
  (await findHoldParts(sql, account, id)).length > 0;

interface PayingChild {
  child: Id;
  secretVersion: number;
  models: readonly string[] | null;
}

async function readPayer(
  { sql, keyring }: HoldHandling,
  manager: Manager,
  key: AuthorizeRequest["key"],
): Promise<PayingChild> {
  if (key.case === "childKeyId") {
    const child = checkId("child_key_id", key.value);
    const row = await findChildOfAccount(sql, manager.account, child);
    const foreign = manager.kind === "management" && row?.managementKey !== manager.managementKey;
    if (!row || foreign) throw refuse("not_found", { param: "child_key_id" });
    return { child, secretVersion: 0, models: row.models };
  }
  if (key.case !== "secret") throw refuseField("child_key_id", "or secret is required");
  const caller = await keyring.find(key.value);
  if (caller.kind !== "child") throw refuse("wrong_key_kind", { param: "secret" });
  const { child, secretVersion, models, account, managementKey } = caller;
  const foreign = manager.kind === "management" && managementKey !== manager.managementKey;
  if (account !== manager.account || foreign) throw refuse("invalid_api_key", { param: "secret" });
  return { child, secretVersion, models };
}

type Price = Awaited<ReturnType<PriceBook["find"]>>;

function readSize(size: AuthorizeRequest["size"], price: Price): Ngonka {
  if (size.case === "amountNgonka") return checkHeldAmount(size.value);
  if (size.case !== "tokens") throw refuseField("amount_ngonka", "or tokens is required");
  if (!price) throw refuseField("model", "is required with tokens");
  const { inputTokens, maxOutputTokens } = size.value;
  const input = checkTokens("tokens.input_tokens", inputTokens);
  const output = checkTokens("tokens.max_output_tokens", maxOutputTokens);
  const amount = priceOf(price, input, output);
  if (amount > MAX_NGONKA) throw refuseField("tokens", "cost more than any account can hold");
  return amount === 0n ? 1n : amount;
}

function sizeFacts(size: AuthorizeRequest["size"]): (string | number | bigint)[] {
  if (size.case === "tokens") return ["t", size.value.inputTokens, size.value.maxOutputTokens];
  return ["a", size.value ?? 0n];
}

const checkTokens = (param: string, tokens: number): bigint =>
  BigInt(checkInteger(param, tokens, 0, 2_147_483_647));

/** What a request came to, priced by the version that its hold was authorized with. */
async function readActual(sql: Sql, [first]: HoldPart[], actual: CaptureRequest["actual"]) {
  if (actual.case === "costNgonka") {
    return {
      cost: checkAmount("cost_ngonka", actual.value),
      inputTokens: null,
      outputTokens: null,
    };
  }
  if (actual.case !== "usage") throw refuseField("cost_ngonka", "or usage is required");
  const inputTokens = checkTokens("usage.input_tokens", actual.value.inputTokens);
  const outputTokens = checkTokens("usage.output_tokens", actual.value.outputTokens);
  const { model, price_version } = first ?? {};
  const price = model && price_version && (await findPriceVersion(sql, model, price_version));
  if (!price) throw refuseField("usage", "needs a hold that names its model; give cost_ngonka");
  const cost = priceOf(price, inputTokens, outputTokens);
  // No hold is as large, and no column of the database either
  if (cost > MAX_NGONKA) throw refuse("capture_exceeds_hold");
  return { cost, inputTokens, outputTokens };
}

/** Authorizes a further part of a request, where an amount is asked for. */
async function addPart(
  holds: Holds,
  account: Id,
  id: Id,
  [first]: HoldPart[],
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
  if (!first) throw refuse("not_found");
  const part = checkPart(extension);
  const amount = checkHeldAmount(amountNgonka);
  return await holds.authorize({
    account,
    child: first.child_key_id,
    id,
    part,
    amount,
    floor: 0n,
    secretVersion: 0,
    seconds: checkSeconds(),
    fingerprint: fingerprintOf(part, amount),
    own: false,
    model: first.model,
    priceVersion: first.price_version,
  });
}
