import type { Page } from "../base/field.js";
import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";
import type { ChildFields, ChildKey, KeyStatus, StoredStatus } from "./key.js";

/**
 * Children as they stand by the database's clock: counters of a past period show zero, and a key
 * that its management key stops does not show as active.
 */
const CHILDREN = (db: Db) => db`
  select c.id, c.account_id as account, c.management_key_id as "managementKey", c.name, c.hint,
    c.status,
         c.limit_daily as "limitDaily", c.limit_monthly as "limitMonthly",
           c.limit_total as "limitTotal",
         c.rate_limit_rpm as "rateLimitRpm", c.expires_at as "expiresAt", c.models, c.metadata,
         c.secret_version as "secretVersion", c.previous_secret_until as "previousSecretUntil",
         case when c.day >= t.day then c.used_daily else 0 end as "usedDaily",
         case when c.month >= t.month then c.used_monthly else 0 end as "usedMonthly",
         c.used_total as "usedTotal",
         (greatest(c.day, t.day) + 1)::timestamp at time zone 'UTC' as "dailyResetsAt",
         (greatest(c.month, t.month) + interval '1 month') at time zone 'UTC' as "monthlyResetsAt",
         c.requests_total as "requestsTotal", c.last_used_at as "lastUsedAt",
         c.created_at as "createdAt", c.updated_at as "updatedAt",
         case when 'deleted' in (c.status, m.status) then 'deleted'
              when 'disabled' in (c.status, m.status) then 'disabled'
              when c.expires_at <= t.now or m.expires_at <= t.now then 'expired'
              else 'active' end as "shownStatus"
    from child_key c
    join management_key m on m.id = c.management_key_id
   cross join (
     select n.now, (n.now at time zone 'UTC')::date as day,
            date_trunc('month', n.now at time zone 'UTC')::date as month
       from (select keytoll_clock() as now) n) t`;

export async function findChild(
  db: Db,
  account: Id,
  managementKey: Id,
  child: Id,
): Promise<ChildKey | undefined> {
  const [row] = await db<ChildKey[]>`
    ${CHILDREN(db)}
     where c.id = ${child} and c.management_key_id = ${managementKey}
       and c.account_id = ${account}`;
  return row;
}

export interface ChildFilter {
  status: KeyStatus | null;
  /** Part of the name, without regard to case. */
  q: string | null;
}

/** Newest first, one row more than the page has. */
export async function selectChildren(
  db: Db,
  managementKey: Id,
  { status, q }: ChildFilter,
  page: Page,
): Promise<ChildKey[]> {
  return await db<ChildKey[]>`
    select * from (
      ${CHILDREN(db)}
       where c.management_key_id = ${managementKey}
         and (${page.after}::uuid is null or c.id < ${page.after}::uuid)
         and (${q}::text is null or strpos(lower(c.name), lower(${q}::text)) > 0)) v
     where ${status}::text is null or v."shownStatus" = ${status}::text
     order by v.id desc limit ${page.limit + 1}`;
}

/** Newest first, without deleted ones; `disabled` tells whether disabled ones are among them. */
export async function selectChildrenFrom(
  db: Db,
  managementKey: Id,
  { offset, limit, disabled }: { offset: number; limit: number; disabled: boolean },
): Promise<ChildKey[]> {
  return await db<ChildKey[]>`
    ${CHILDREN(db)}
     where c.management_key_id = ${managementKey} and c.status <> 'deleted'
       and (${disabled} or c.status <> 'disabled')
     order by c.id desc limit ${limit} offset ${offset}`;
}

interface NewChildRow {
  id: Id;
  account: Id;
  managementKey: Id;
  hint: string;
  at: Date;
}

export async function insertChild(tx: Tx, row: NewChildRow, fields: ChildFields): Promise<void> {
  const day = row.at.toISOString().slice(0, 10);
  const month = `${day.slice(0, 8)}01`;
  await tx`
    insert into child_key (id, account_id, management_key_id, name, hint, limit_daily,
      limit_monthly,
      limit_total, rate_limit_rpm, expires_at, models, metadata, day, month, created_at, updated_at)
    values (${row.id}, ${row.account}, ${row.managementKey}, ${fields.name}, ${row.hint},
      ${fields.limitDaily}, ${fields.limitMonthly}, ${fields.limitTotal}, ${fields.rateLimitRpm},
      ${fields.expiresAt}, ${fields.models}, ${tx.json(fields.metadata)}, ${day}, ${month},
      ${row.at}, ${row.at})`;
}

export async function updateChild(
  tx: Tx,
  child: Id,
  to: ChildFields & { status: StoredStatus },
  at: Date,
): Promise<void> {
  await tx`
    update child_key
       set name = ${to.name}, status = ${to.status}, limit_daily = ${to.limitDaily},
           limit_monthly = ${to.limitMonthly}, limit_total = ${to.limitTotal},
           rate_limit_rpm = ${to.rateLimitRpm}, expires_at = ${to.expiresAt}, models = ${to.models},
           metadata = ${tx.json(to.metadata)}, updated_at = ${at}
     where id = ${child}`;
}

/** Adds the limits that are in force from `since` on. */
export async function insertLimits(
  tx: Tx,
  child: Id,
  limits: Pick<ChildFields, "limitDaily" | "limitMonthly" | "limitTotal">,
  since: Date,
): Promise<void> {
  await tx`
    insert into child_limit (child_key_id, since, limit_daily, limit_monthly, limit_total)
    values (${child}, ${since}, ${limits.limitDaily}, ${limits.limitMonthly},
      ${limits.limitTotal})`;
}

/** Makes `version` the key's secret; the one before works until `graceEnd`, or not at all. */
export async function rotateChildRow(
  tx: Tx,
  child: Id,
  to: { version: number; hint: string; graceEnd: Date | null; at: Date },
): Promise<void> {
  await tx`
    update child_key
       set secret_version = ${to.version}, hint = ${to.hint},
         previous_secret_until = ${to.graceEnd},
           updated_at = ${to.at}
     where id = ${child}`;
}

/** The child as it stands now, which must be there. */
export async function readChild(db: Db, child: Id): Promise<ChildKey> {
  return only(await db<ChildKey[]>`${CHILDREN(db)} where c.id = ${child}`);
}
