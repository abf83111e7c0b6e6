import type { Ngonka } from "../base/money.js";
import { type Db, only, type Tx } from "../db/sql.js";

/** What an operator sets for a model. Prices in ngonka per 1,000,000 tokens; null: not known. */
export interface PriceTerms {
  model: string;
  inputPerMtok: Ngonka;
  outputPerMtok: Ngonka;
  /** Tokens that prompt and answer may have together. */
  contextTokens: number | null;
  /** Most tokens of an answer. */
  maxOutputTokens: number | null;
  /** Tokens that a stream is held ahead; null: every answer is held as a whole. */
  holdStepTokens: number | null;
  /** Most tokens that one image costs; null: the model takes none. */
  imageTokens: number | null;
  /** Most tokens that its template adds to a prompt. */
  promptOverheadTokens: number | null;
  /** Tokens of an answer whose length the caller leaves open. */
  defaultMaxTokens: number | null;
  /** False: the model is refused as if it were not there. */
  enabled: boolean;
}

export interface Price extends PriceTerms {
  version: number;
  since: Date;
}

const COLUMNS = (db: Db) => db`
  model, version, input_per_mtok as "inputPerMtok", output_per_mtok as "outputPerMtok",
  context_tokens as "contextTokens", max_output_tokens as "maxOutputTokens",
  hold_step_tokens as "holdStepTokens", image_tokens as "imageTokens",
  prompt_overhead_tokens as "promptOverheadTokens", default_max_tokens as "defaultMaxTokens",
  enabled, since`;

/** The newest version of each model, by model. */
export async function selectPrices(db: Db): Promise<Price[]> {
  return await db<Price[]>`
    select distinct on (model) ${COLUMNS(db)} from model_price order by model, version desc`;
}

/** One version of a model's price. */
export async function selectPriceVersion(
  db: Db,
  model: string,
  version: number,
): Promise<Price | undefined> {
  const [row] = await db<Price[]>`
    select ${COLUMNS(db)} from model_price where model = ${model} and version = ${version}`;
  return row;
}

/** Makes other writers of this model's price wait, then tells its newest version. */
export async function lockPrice(tx: Tx, model: string): Promise<Price | undefined> {
  await tx`select pg_advisory_xact_lock(hashtext('model_price'), hashtext(${model}))`;
  const [row] = await tx<Price[]>`
    select ${COLUMNS(tx)} from model_price where model = ${model} order by version desc limit 1`;
  return row;
}

export async function insertPrice(tx: Tx, terms: PriceTerms, version: number): Promise<Price> {
  return only(
    await tx<Price[]>`
      insert into model_price (model, version, input_per_mtok, output_per_mtok, context_tokens,
        max_output_tokens, hold_step_tokens, image_tokens, prompt_overhead_tokens,
        default_max_tokens, enabled)
      values (${terms.model}, ${version}, ${terms.inputPerMtok}, ${terms.outputPerMtok},
        ${terms.contextTokens}, ${terms.maxOutputTokens}, ${terms.holdStepTokens},
        ${terms.imageTokens}, ${terms.promptOverheadTokens}, ${terms.defaultMaxTokens},
        ${terms.enabled})
      returning ${COLUMNS(tx)}`,
  );
}

/** Tells every gateway that a price changed, once this commits. */
export async function announcePrice(tx: Tx, model: string): Promise<void> {
  await tx`select pg_notify('price_changed', ${model})`;
}
