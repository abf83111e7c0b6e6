import type { TokenPrice } from "../base/money.js";
import type { PriceBook } from "../pricing/prices.js";
import type { Payer } from "./payment.js";
import type { Upstreams } from "./upstreams.js";

/** A model that can be paid for. */
export interface Model {
  id: string;
  /** Since when its price is in force. */
  since: Date;
  /** Null where it is not known. */
  contextTokens: number | null;
  maxOutputTokens: number | null;
  takesImages: boolean;
  price: TokenPrice;
}

/** What every model is owned by, to a caller: nobody in particular. */
export const OWNED_BY = "system";

/** The models that are priced, enabled, served and on the key's list, by id. */
export async function listModels(
  prices: PriceBook,
  upstreams: Upstreams,
  { models }: Pick<Payer, "models">,
): Promise<Model[]> {
  const priced = await prices.list();
  return priced
    .filter(({ enabled, model }) => enabled && upstreams.serves(model))
    .filter(({ model }) => models === null || models.includes(model))
    .map(({ model, since, contextTokens, maxOutputTokens, imageTokens, ...price }) => ({
      id: model,
      since,
      contextTokens,
      maxOutputTokens,
      takesImages: imageTokens !== null,
      price: { inputPerMtok: price.inputPerMtok, outputPerMtok: price.outputPerMtok },
    }))
    .sort((a, b) => (a.id < b.id ? -1 : 1));
}
