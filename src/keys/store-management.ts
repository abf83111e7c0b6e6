import type { Page } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";
import type { Access, CostFields } from "./caller.js";
import type { ManagementKey, StoredStatus } from "./key.js";

const COLUMNS = (db: Db) => db`
  m.id, m.account_id as account, m.name, m.hint, m.access, m.status, m.cost_fields as "costFields",
  m.expires_at as "expiresAt",
  m.secret_version as "secretVersion", m.previous_secret_until as "previousSecretUntil",
  m.created_at as "createdAt", m.updated_at as "updatedAt",
  case when m.status = 'active'
    and m.expires_at <= keytoll_clock() then 'expired' else m.status::text end
    as "shownStatus"`;

interface NewManagementRow {
  id: Id;
  account: Id;
  name: string;
  access: Access;
  costFields: CostFields;
  hint: string;
  expiresAt: Date | null;
  at: Date;
}

export async function insertManagement(tx: Tx, row: NewManagementRow): Promise<ManagementKey> {
  return only(
    await tx<ManagementKey[]>`
      insert into management_key as m
        (id, account_id, name, access, cost_fields, hint, expires_at, created_at, updated_at)
      values (${row.id}, ${row.account}, ${row.name}, ${row.access}, ${row.costFields}, ${row.hint},
              ${row.expiresAt}, ${row.at}, ${row.at})
      returning ${COLUMNS(tx)}`,
  );
}

export async function findManagement(
  db: Db,
  account: Id,
  key: Id,
): Promise<ManagementKey | undefined> {
  const [row] = await db<ManagementKey[]>`
    select ${COLUMNS(db)} from management_key m where m.id = ${key} and m.account_id = ${account}`;
  return row;
}

/** Newest first, one row more than the page has. */
export async function selectManagement(db: Db, account: Id, page: Page): Promise<ManagementKey[]> {
  return await db<ManagementKey[]>`
    select ${COLUMNS(db)} from management_key m
     where m.account_id = ${account} and (${page.after}::uuid is null or m.id < ${page.after}::uuid)
     order by m.id desc limit ${page.limit + 1}`;
}

interface ManagementUpdate {
  name: string;
  access: Access;
  costFields: CostFields;
  status: StoredStatus;
  expiresAt: Date | null;
}

export async function updateManagement(
  tx: Tx,
  key: Id,
  to: ManagementUpdate,
  at: Date,
): Promise<ManagementKey> {
  return only(
    await tx<ManagementKey[]>`
      update management_key m
         set name = ${to.name}, access = ${to.access}, cost_fields = ${to.costFields}, status = ${to.status},
             expires_at = ${to.expiresAt}, updated_at = ${at}
       where m.id = ${key}
      returning ${COLUMNS(tx)}`,
  );
}

/** Makes `version` the key's secret; the one before works until `graceEnd`, or not at all. */
export async function rotateManagementRow(
  tx: Tx,
  key: Id,
  to: { version: number; hint: string; graceEnd: Date | null; at: Date },
): Promise<ManagementKey> {
  return only(
    await tx<ManagementKey[]>`
      update management_key m
         set secret_version = ${to.version}, hint = ${to.hint},
             previous_secret_until = ${to.graceEnd}, updated_at = ${to.at}
       where m.id = ${key}
      returning ${COLUMNS(tx)}`,
  );
}
