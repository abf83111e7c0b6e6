import { refuse, refuseField } from "../base/errors.js";
import { checkId, checkInteger } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { MAX_NGONKA, type Ngonka, priceOf } from "../base/money.js";
import type { Sql } from "../db/sql.js";
import type { AuthorizeRequest } from "../gen/keytoll/v1/hold_pb.js";
import type { Keyring } from "../keys/authenticate.js";
import type { Manager } from "../keys/caller.js";
import type { PriceBook } from "../pricing/prices.js";
import type { HoldRequest } from "./holds.js";
import { checkHeldAmount, checkNewHoldId, checkSeconds, fingerprintOf } from "./requests.js";
import { findHoldParts } from "./store.js";

interface Sources {
  sql: Sql;
  prices: PriceBook;
  keyring: Keyring;
}

/**
 * What a backend asks to be held, in the engine's words.
 *
 * @throws invalid_request_error, not_found, invalid_api_key, wrong_key_kind, model_not_found
 */
export async function readAuthorize(
  sources: Sources,
  manager: Manager,
  request: AuthorizeRequest,
): Promise<HoldRequest> {
  const id = checkNewHoldId(request.holdId);
  const payer = await readPayer(sources, manager, request.key);
  const price = request.model === undefined ? undefined : await sources.prices.find(request.model);
  // What was accepted once is answered again, whatever became of the model: the engine knows it by
  // its fingerprint
  if (!mayUse(request.model, payer, price) && !(await isHeld(sources.sql, manager, id))) {
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
  { keyring }: Sources,
  manager: Manager,
  key: AuthorizeRequest["key"],
): Promise<PayingChild> {
  if (key.case === "childKeyId") {
    const child = checkId("child_key_id", key.value);
    const row = await keyring.findChild(child);
    const foreign = manager.kind === "management" && row?.managementKey !== manager.managementKey;
    if (row?.account !== manager.account || foreign) {
      throw refuse("not_found", { param: "child_key_id" });
    }
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

/** Tokens of a request. @throws invalid_request_error */
export const checkTokens = (param: string, tokens: number): bigint =>
  BigInt(checkInteger(param, tokens, 0, 2_147_483_647));
