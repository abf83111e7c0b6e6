import { refuseField } from "../base/errors.js";
import { checkAmount, checkInteger } from "../base/field.js";
import { elapsed, MINUTE } from "../base/time.js";
import { recordAudit } from "../db/change.js";
import { listen } from "../db/listen.js";
import { type Db, inTransaction, type Sql } from "../db/sql.js";
import {
  announcePrice,
  insertPrice,
  lockPrice,
  type Price,
  type PriceTerms,
  selectPrices,
  selectPriceVersion,
} from "./store.js";

export type { Price, PriceTerms };

const MODEL_ID = /^[A-Za-z0-9._:/-]{1,200}$/;
const MAX_TOKENS = 2_147_483_647;
const TTL = MINUTE;

/** What is taken to be unknown where it is not given. */
const UNKNOWN = {
  contextTokens: null,
  maxOutputTokens: null,
  holdStepTokens: null,
  imageTokens: null,
  promptOverheadTokens: null,
  defaultMaxTokens: null,
};

/** Terms as they are set: all but the price and whether it is enabled may be left out. */
export type GivenTerms = Omit<PriceTerms, keyof typeof UNKNOWN> &
  Partial<Pick<PriceTerms, keyof typeof UNKNOWN>>;

/**
 * Sets the price of a model from now on: a new version, or the present one where nothing differs.
 * Holds keep the version that they were authorized with.
 *
 * @throws invalid_request_error  by the field's name
 */
export async function setModelPrice(db: Db, given: GivenTerms): Promise<Price> {
  const terms: PriceTerms = { ...UNKNOWN, ...given };
  checkTerms(terms);
  return await inTransaction(db, async (tx) => {
    const before = await lockPrice(tx, terms.model);
    if (before && isSame(before, terms)) return before;
    const price = await insertPrice(tx, terms, (before?.version ?? 0) + 1);
    await announcePrice(tx, terms.model);
    const { model: subject, version, since: at } = price;
    const change = { ...terms, version };
    await recordAudit(tx, { at, actor: "admin", action: "model_price.set", subject, change });
    return price;
  });
}

/** The price in force of each model, by its id, disabled ones included. */
export const listPrices = (db: Db): Promise<Price[]> => selectPrices(db);

/** The price that a hold was authorized with, whatever it is now. */
export const findPriceVersion = (
  db: Db,
  model: string,
  version: number,
): Promise<Price | undefined> => selectPriceVersion(db, model, version);

export interface PriceBook {
  /** The price in force; undefined for a model that has none. It may be disabled. */
  find(model: string): Promise<Price | undefined>;
  /** By model id, disabled ones included. */
  list(): Promise<Price[]>;
  stop(): Promise<void>;
}

/**
 * The prices in force, kept in memory and read again when Postgres tells of a change, or after a
 * minute.
 */
export function createPriceBook(sql: Sql): PriceBook {
  let book: { prices: Map<string, Price>; readAt: number } | undefined;
  let reading: Promise<Map<string, Price>> | undefined;

  const forget = (): void => {
    book = undefined;
    reading = undefined;
  };
  const ear = listen(sql, "price_changed", { heard: forget, connected: forget });

  function read(): Promise<Map<string, Price>> {
    const mine = selectPrices(sql)
      .then((rows) => {
        const prices = new Map(rows.map((price) => [price.model, price]));
        // What was read before a change must not stay behind it
        if (reading === mine) book = { prices, readAt: elapsed() };
        return prices;
      })
      .finally(() => {
        if (reading === mine) reading = undefined;
      });
    reading = mine;
    return mine;
  }

  async function current(): Promise<Map<string, Price>> {
    if (book && elapsed() - book.readAt < TTL) return book.prices;
    return await (reading ?? read());
  }

  return {
    find: async (model) => (await current()).get(model),
    list: async () => [...(await current()).values()],
    stop: () => ear.stop(),
  };
}

function checkTerms(terms: PriceTerms): void {
  if (terms.model === "") throw refuseField("model", "is required");
  if (!MODEL_ID.test(terms.model)) {
    throw refuseField("model", "must be 1 to 200 of the characters A-Z a-z 0-9 . _ : / -");
  }
  checkAmount("input_ngonka_per_mtok", terms.inputPerMtok);
  checkAmount("output_ngonka_per_mtok", terms.outputPerMtok);
  checkTokens("context_tokens", terms.contextTokens);
  checkTokens("max_output_tokens", terms.maxOutputTokens);
  checkTokens("hold_step_tokens", terms.holdStepTokens);
  checkTokens("image_tokens", terms.imageTokens);
  checkTokens("prompt_overhead_tokens", terms.promptOverheadTokens, 0);
  checkTokens("default_max_tokens", terms.defaultMaxTokens);
}

function checkTokens(param: string, tokens: number | null, least = 1): void {
  if (tokens !== null) checkInteger(param, tokens, least, MAX_TOKENS);
}

function isSame(price: Price, terms: PriceTerms): boolean {
  return (Object.keys(terms) as (keyof PriceTerms)[]).every((name) => price[name] === terms[name]);
}
