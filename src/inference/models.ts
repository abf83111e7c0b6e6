import type { TokenPrice } from "../base/money.js";
import type { Dialect } from "./kind.js";
import { mayUse, type Payer, type Paying } from "./payment.js";

/** A model that can be paid for. */
export interface Model {
  /** What the caller asks for: an alias, where the owner gave it one. */
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

/** The models of a key's list by the names that its holder may know; null: all. */
export async function namesOnList(
  { aliases }: Pick<Paying, "aliases">,
  { account, models }: Pick<Payer, "account" | "models">,
): Promise<string[] | null> {
  if (models === null) return null;
  const names = await aliases.of(account);
  const shown = models.flatMap((id) => (names.modelOf(id) === undefined ? names.namesOf(id) : id));
  return [...new Set(shown)];
}

/**
 * The models that are priced, enabled, served and on the key's list, by the names that they are
 * asked for.
 *
 * @param dialect only those that are served in these words
 */
export async function listModels(
  { prices, aliases, upstreams }: Pick<Paying, "prices" | "aliases" | "upstreams">,
  payer: Pick<Payer, "account" | "models">,
  dialect?: Dialect,
): Promise<Model[]> {
  const [priced, names] = await Promise.all([prices.list(), aliases.of(payer.account)]);
  return priced
    .filter(({ enabled, model }) => enabled && upstreams.serves(model, dialect))
    .flatMap(({ model, since, contextTokens, maxOutputTokens, imageTokens, ...price }) =>
      names
        .namesOf(model)
        .filter((id) => mayUse(payer, id, model))
        .map((id) => ({
          id,
          since,
          contextTokens,
          maxOutputTokens,
          takesImages: imageTokens !== null,
          price: { inputPerMtok: price.inputPerMtok, outputPerMtok: price.outputPerMtok },
        })),
    )
    .sort((a, b) => (a.id < b.id ? -1 : 1));
}
