import type { Page } from "../base/field.js";
import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import { type Db, only, type Tx } from "../db/sql.js";

export interface Endpoint {
  id: Id;
  account: Id;
  url: string;
  /** Null: all. */
  events: string[] | null;
  status: "active" | "paused" | "disabled" | "deleted";
  statusReason: string | null;
  secretVersion: number;
  failingSince: Date | null;
  pending: number;
  createdAt: Date;
  updatedAt: Date;
}

const ENDPOINTS = (db: Db) => db`
  select e.id, e.account_id as account, e.url, e.events, e.status,
         e.status_reason as "statusReason", e.secret_version as "secretVersion",
         e.failing_since as "failingSince", e.created_at as "createdAt",
         e.updated_at as "updatedAt",
         (select count(*)::int from webhook_delivery d
           where d.endpoint_id = e.id and d.status = 'pending') as pending
    from webhook_endpoint e`;

/** An endpoint that is not deleted. */
export async function findEndpoint(db: Db, account: Id, id: Id): Promise<Endpoint | undefined> {
  const [row] = await db<Endpoint[]>`
    ${ENDPOINTS(db)} where e.id = ${id} and e.account_id = ${account} and e.status <> 'deleted'`;
  return row;
}

/** Newest first, one row more than the page has. */
export async function selectEndpoints(db: Db, account: Id, page: Page): Promise<Endpoint[]> {
  return await db<Endpoint[]>`
    ${ENDPOINTS(db)}
     where e.account_id = ${account} and e.status <> 'deleted'
       and (${page.after}::uuid is null or e.id < ${page.after}::uuid)
     order by e.id desc limit ${page.limit + 1}`;
}

export async function countEndpoints(tx: Tx, account: Id): Promise<number> {
  const rows = await tx<{ count: number }[]>`
    select count(*)::int as count from webhook_endpoint
     where account_id = ${account} and status <> 'deleted'`;
  return only(rows).count;
}

interface NewEndpoint {
  id: Id;
  account: Id;
  url: string;
  events: string[] | null;
  at: Date;
}

export async function insertEndpoint(tx: Tx, row: NewEndpoint): Promise<void> {
  await tx`
    insert into webhook_endpoint (id, account_id, url, events, created_at, updated_at)
    values (${row.id}, ${row.account}, ${row.url}, ${row.events}, ${row.at}, ${row.at})`;
}

/** What is waiting for an endpoint counts from now on anew when it works again. */
export async function updateEndpoint(
  tx: Tx,
  id: Id,
  { url, events, status }: Pick<Endpoint, "url" | "events" | "status">,
  at: Date,
): Promise<void> {
  await tx`
    update webhook_endpoint
       set url = ${url}, events = ${events}, status = ${status}, status_reason = null,
           disabled_at = null, failing_since = null, failures = 0, updated_at = ${at}
     where id = ${id}`;
  await tx`
    update webhook_delivery
       set next_at = keytoll_clock(), first_attempt_at = null, attempts = 0, apart = false
     where endpoint_id = ${id} and status = 'pending' and sequence is not null`;
}

/** Removes an endpoint, its secrets, and what was on its way to it. */
export async function removeEndpoint(tx: Tx, id: Id, at: Date): Promise<void> {
  await tx`
    update webhook_endpoint set status = 'deleted', updated_at = ${at} where id = ${id}`;
  await tx`update webhook_secret set sealed = '' where endpoint_id = ${id}`;
  await tx`
    update webhook_delivery set status = 'failed', last_error = 'the endpoint was removed'
     where endpoint_id = ${id} and status = 'pending'`;
}

export interface Delivery {
  id: Id;
  endpoint: Id;
  account: Id;
  event: Id;
  type: string;
  sequence: bigint | null;
  status: "pending" | "delivered" | "failed";
  apart: boolean;
  attempts: number;
  lastStatus: number | null;
  lastError: string | null;
  nextAt: Date;
  deliveredAt: Date | null;
  createdAt: Date;
  data: unknown;
  at: Date;
}

const DELIVERIES = (db: Db) => db`
  select d.id, d.endpoint_id as endpoint, v.account_id as account, d.event_id as event, v.type,
         d.sequence, d.status, d.apart, d.attempts, d.last_status as "lastStatus",
         d.last_error as "lastError", d.next_at as "nextAt", d.delivered_at as "deliveredAt",
         d.created_at as "createdAt", v.data, v.at
    from webhook_delivery d join webhook_event v on v.id = d.event_id`;

export async function findDelivery(db: Db, endpoint: Id, id: Id): Promise<Delivery | undefined> {
  const [row] = await db<Delivery[]>`
    ${DELIVERIES(db)} where d.id = ${id} and d.endpoint_id = ${endpoint}`;
  return row;
}

/** Newest first, one row more than the page has. */
export async function selectDeliveries(
  db: Db,
  endpoint: Id,
  status: Delivery["status"] | null,
  page: Page,
): Promise<Delivery[]> {
  return await db<Delivery[]>`
    ${DELIVERIES(db)}
     where d.endpoint_id = ${endpoint} and (${status}::text is null or d.status = ${status}::text)
       and (${page.after}::uuid is null or d.id < ${page.after}::uuid)
     order by d.id desc limit ${page.limit + 1}`;
}

/** Has a delivery made once more, apart from its endpoint's line, at once. */
export async function sendAgain(tx: Tx, id: Id): Promise<void> {
  await tx`
    update webhook_delivery
       set status = 'pending', apart = true, attempts = 0, first_attempt_at = null,
           next_at = keytoll_clock(), delivered_at = null
     where id = ${id}`;
}

/** An event of one endpoint alone, with its delivery. */
export async function insertTest(
  tx: Tx,
  { id, event, endpoint, account }: { id: Id; event: Id; endpoint: Id; account: Id },
  { type, data }: { type: string; data: object },
): Promise<void> {
  await tx`
    insert into webhook_event (id, account_id, natural_key, type, data, at)
    values (${event}, ${account}, ${`${type}/${event}`}, ${type},
            ${JSON.stringify(data)}::text::jsonb, keytoll_clock())`;
  await tx`
    insert into webhook_delivery (id, endpoint_id, event_id, apart, next_at, created_at)
    values (${id}, ${endpoint}, ${event}, true, keytoll_clock(), keytoll_clock())`;
}

export interface Settings {
  /** Null: a tenth of the last payment. */
  balanceLow: Ngonka | null;
  percents: number[];
}

export async function findSettings(db: Db, account: Id): Promise<Settings | undefined> {
  const [row] = await db<Settings[]>`
    select balance_low as "balanceLow", percents from webhook_setting
     where account_id = ${account}`;
  return row;
}

/** A new mark for the balance may be told of again. */
export async function writeSettings(
  tx: Tx,
  account: Id,
  { balanceLow, percents }: Settings,
): Promise<void> {
  await tx`
    insert into webhook_setting (account_id, balance_low, percents)
    values (${account}, ${balanceLow}, ${percents})
    on conflict (account_id) do update
       set low_told = webhook_setting.low_told
             and webhook_setting.balance_low is not distinct from excluded.balance_low,
           balance_low = excluded.balance_low, percents = excluded.percents`;
}

/** What was delivered, what failed, what waits, and how long the oldest has, for metrics. */
export async function readTotals(db: Db) {
  return only(
    await db<{ delivered: bigint; failed: bigint; pending: bigint; oldestSeconds: number }[]>`
      select coalesce(sum(delivered_total), 0)::bigint as delivered,
             coalesce(sum(failed_total), 0)::bigint as failed,
             (select count(*) from webhook_delivery where status = 'pending') as pending,
             (select coalesce(extract(epoch from keytoll_clock() - min(d.created_at)), 0)::float8
                from webhook_delivery d join webhook_endpoint e on e.id = d.endpoint_id
               where d.status = 'pending' and e.status = 'active') as "oldestSeconds"
        from webhook_endpoint`,
  );
}
