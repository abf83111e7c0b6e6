import { refuse, refuseField } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import { elapsed, MINUTE } from "../base/time.js";
import { recordAudit } from "../db/change.js";
import { listen } from "../db/listen.js";
import type { Db, Sql } from "../db/sql.js";
import { listPrices } from "../pricing/prices.js";
import {
  announceAliases,
  type ModelAlias,
  putAlias,
  removeAlias,
  selectAliases,
  selectAllAliases,
} from "./alias-store.js";
import { actorOf, type OwnerCaller } from "./caller.js";
import { changeKeys } from "./changes.js";

export type { ModelAlias };

const ALIAS = /^[A-Za-z0-9._:/-]{1,200}$/;
const MAX_ALIASES = 100;
const TTL = MINUTE;

/** The names that an owner gave to models, by name. */
export const listAliases = (db: Db, { account }: OwnerCaller): Promise<ModelAlias[]> =>
  selectAliases(db, account);

/**
 * Gives a model a name that the owner's clients see in its place. The same again changes nothing.
 *
 * @throws invalid_request_error  not a name, no model with a price, or more names than may be
 */
export async function setAlias(
  sql: Sql,
  owner: OwnerCaller,
  alias: string,
  model: string,
): Promise<ModelAlias> {
  if (!ALIAS.test(alias)) {
    throw refuseField("alias", "must be 1 to 200 of the characters A-Z a-z 0-9 . _ : / -");
  }
  if (model === "") throw refuseField("model", "is required");
  return await changeKeys(sql, owner, async (tx, at) => {
    const priced = await listPrices(tx);
    if (!priced.some((price) => price.model === model)) {
      throw refuseField("model", "is no model that has a price");
    }
    const { account } = owner;
    const aliases = await selectAliases(tx, account);
    const before = aliases.find((each) => each.alias === alias);
    if (before?.model === model) return before;
    if (before === undefined && aliases.length >= MAX_ALIASES) {
      throw refuseField("alias", `there are ${MAX_ALIASES} already, and no more may be`);
    }
    const after = await putAlias(tx, { account, alias, model, at });
    await announceAliases(tx, account);
    const change = { model, before: before?.model ?? null };
    const action = "model_alias.set";
    await recordAudit(tx, { account, at, actor: actorOf(owner), action, subject: alias, change });
    return after;
  });
}

/** Takes a name back. @throws not_found where it is not in use */
export async function deleteAlias(sql: Sql, owner: OwnerCaller, alias: string): Promise<void> {
  await changeKeys(sql, owner, async (tx, at) => {
    const { account } = owner;
    const before = (await selectAliases(tx, account)).find((each) => each.alias === alias);
    if (!before) throw refuse("not_found");
    await removeAlias(tx, account, alias, at);
    await announceAliases(tx, account);
    const change = { model: before.model };
    const action = "model_alias.deleted";
    await recordAudit(tx, { account, at, actor: actorOf(owner), action, subject: alias, change });
  });
}

/** What the models are called by one owner's clients. */
export interface Names {
  /** The model that a name stands for; undefined where it is hidden behind another name. */
  modelOf(name: string): string | undefined;
  /** The names of a model: its aliases, or its own id. */
  namesOf(model: string): string[];
}

export interface AliasBook {
  /** The names of an account; a promise only where they must be read first. */
  of(account: Id): Names | Promise<Names>;
  stop(): Promise<void>;
}

/** Where an owner has named nothing: each model by its own id. */
const PLAIN: Names = { modelOf: (name) => name, namesOf: (model) => [model] };

/**
 * The aliases of all accounts, kept in memory and read again when Postgres tells of a change, or
 * after a minute.
 */
export function createAliasBook(sql: Sql): AliasBook {
  let book: { names: Map<Id, Names>; readAt: number } | undefined;
  let reading: Promise<Map<Id, Names>> | undefined;

  const forget = (): void => {
    book = undefined;
    reading = undefined;
  };
  const ear = listen(sql, "alias_changed", { heard: forget, connected: forget });

  function read(): Promise<Map<Id, Names>> {
    const mine = selectAllAliases(sql)
      .then((rows) => {
        const names = namesByAccount(rows);
        // What was read before a change must not stay behind it
        if (reading === mine) book = { names, readAt: elapsed() };
        return names;
      })
      .finally(() => {
        if (reading === mine) reading = undefined;
      });
    reading = mine;
    return mine;
  }

  return {
    of(account) {
      if (book && elapsed() - book.readAt < TTL) return book.names.get(account) ?? PLAIN;
      return (reading ?? read()).then((names) => names.get(account) ?? PLAIN);
    },
    stop: () => ear.stop(),
  };
}

function namesByAccount(rows: { account: Id; alias: string; model: string }[]): Map<Id, Names> {
  const books = new Map<Id, { models: Map<string, string>; names: Map<string, string[]> }>();
  for (const { account, alias, model } of rows) {
    const { models, names } = books.get(account) ?? { models: new Map(), names: new Map() };
    models.set(alias, model);
    names.set(model, [...(names.get(model) ?? []), alias]);
    books.set(account, { models, names });
  }
  return new Map(
    [...books].map(([account, { models, names }]) => [
      account,
      {
        modelOf: (name) => models.get(name) ?? (names.has(name) ? undefined : name),
        // A model's own id may be the name of another one
        namesOf: (model) => names.get(model) ?? (models.has(model) ? [] : [model]),
      },
    ]),
  );
}
