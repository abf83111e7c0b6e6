import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";

/** A name for a model, as an owner's clients see it. */
export interface ModelAlias {
  alias: string;
  model: string;
  createdAt: Date;
  updatedAt: Date;
}

const COLUMNS = (db: Db) => db`alias, model, created_at as "createdAt", updated_at as "updatedAt"`;

/** Those in use, by name. */
export async function selectAliases(db: Db, account: Id): Promise<ModelAlias[]> {
  return await db<ModelAlias[]>`
    select ${COLUMNS(db)} from model_alias
     where account_id = ${account} and model is not null order by alias`;
}

/** Those in use, of all accounts. */
export async function selectAllAliases(
  db: Db,
): Promise<{ account: Id; alias: string; model: string }[]> {
  return await db`
    select account_id as account, alias, model from model_alias
     where model is not null order by account_id, alias`;
}

export async function putAlias(
  tx: Tx,
  row: { account: Id; alias: string; model: string; at: Date },
): Promise<ModelAlias> {
  return only(
    await tx<ModelAlias[]>`
      insert into model_alias (account_id, alias, model, created_at, updated_at)
      values (${row.account}, ${row.alias}, ${row.model}, ${row.at}, ${row.at})
      on conflict (account_id, alias)
        do update set model = excluded.model, updated_at = excluded.updated_at
      returning ${COLUMNS(tx)}`,
  );
}

export async function removeAlias(tx: Tx, account: Id, alias: string, at: Date): Promise<void> {
  await tx`
    update model_alias set model = null, updated_at = ${at}
     where account_id = ${account} and alias = ${alias}`;
}

/** Tells every gateway that an account's aliases changed, once this commits. */
export async function announceAliases(tx: Tx, account: Id): Promise<void> {
  await tx`select pg_notify('alias_changed', ${account})`;
}
