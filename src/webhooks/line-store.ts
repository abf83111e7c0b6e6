import type { Id } from "../base/ids.js";
import { type Db, only, type Tx } from "../db/sql.js";

/** A delivery that is to be made, and where. */
export interface Due {
  id: Id;
  endpoint: Id;
  account: Id;
  url: string;
  event: Id;
  type: string;
  sequence: bigint | null;
  at: Date;
  data: unknown;
  apart: boolean;
  attempts: number;
  lastStatus: number | null;
  lastError: string | null;
  /** Milliseconds until it may be tried, zero or less once it may. */
  waitMs: number;
  /** Seconds since its first try; null where there was none. */
  triedForSeconds: number | null;
}

const DUE = (db: Db) => db`
  select d.id, d.endpoint_id as endpoint, e.account_id as account, e.url, d.event_id as event,
         v.type, d.sequence, v.at, v.data, d.apart, d.attempts, d.last_status as "lastStatus",
         d.last_error as "lastError",
         ceil(extract(epoch from d.next_at - keytoll_clock()) * 1000)::float8 as "waitMs",
         extract(epoch from keytoll_clock() - d.first_attempt_at)::float8 as "triedForSeconds"
    from webhook_delivery d
    join webhook_event v on v.id = d.event_id
    join webhook_endpoint e on e.id = d.endpoint_id`;

export interface EndpointState {
  id: Id;
  account: Id;
  url: string;
  status: "active" | "paused" | "disabled" | "deleted";
  statusReason: string | null;
}

export async function findState(db: Db, id: Id): Promise<EndpointState | undefined> {
  const [row] = await db<EndpointState[]>`
    select id, account_id as account, url, status, status_reason as "statusReason"
      from webhook_endpoint where id = ${id}`;
  return row;
}

/** The first of an endpoint's line. */
export async function firstInLine(db: Db, endpoint: Id): Promise<Due | undefined> {
  const [row] = await db<Due[]>`
    ${DUE(db)}
     where d.endpoint_id = ${endpoint} and d.status = 'pending' and not d.apart
     order by d.sequence limit 1`;
  return row;
}

/** A delivery that waits, in the line or apart. */
export async function findDue(db: Db, id: Id): Promise<Due | undefined> {
  const [row] = await db<Due[]>`${DUE(db)} where d.id = ${id} and d.status = 'pending'`;
  return row;
}

export async function countApart(db: Db, endpoint: Id): Promise<number> {
  const rows = await db<{ count: number }[]>`
    select count(*)::int as count from webhook_delivery
     where endpoint_id = ${endpoint} and status = 'pending' and apart`;
  return only(rows).count;
}

export async function writeDelivered(tx: Tx, due: Due, status: number): Promise<void> {
  await tx`
    update webhook_endpoint
       set delivered_total = delivered_total + 1, failing_since = null, failures = 0
     where id = ${due.endpoint}`;
  await tx`
    update webhook_delivery
       set status = 'delivered', attempts = attempts + 1, last_status = ${status},
           last_error = null, delivered_at = keytoll_clock(),
           first_attempt_at = coalesce(first_attempt_at, keytoll_clock())
     where id = ${due.id}`;
}

export interface InVain {
  status: number | null;
  problem: string;
  /** Milliseconds until the next try; null: it is given up. */
  waitMs: number | null;
  /** Leaves its endpoint's line. */
  apart: boolean;
}

/** Notes a try in vain. @returns for how many seconds all tries of the endpoint were */
export async function noteFailing(tx: Tx, endpoint: Id): Promise<number> {
  const { seconds } = only(
    await tx<{ seconds: number }[]>`
      update webhook_endpoint
         set failing_since = coalesce(failing_since, keytoll_clock()), failures = failures + 1
       where id = ${endpoint}
      returning extract(epoch from keytoll_clock() - failing_since)::float8 as seconds`,
  );
  return seconds;
}

export async function writeInVain(tx: Tx, due: Due, failed: InVain): Promise<void> {
  const givenUp = failed.waitMs === null;
  if (givenUp) await countFailed(tx, due.endpoint);
  await tx`
    update webhook_delivery
       set status = ${givenUp ? "failed" : "pending"}, attempts = attempts + 1,
           last_status = ${failed.status}, last_error = ${failed.problem}, apart = ${failed.apart},
           first_attempt_at = coalesce(first_attempt_at, keytoll_clock()),
           next_at = keytoll_clock() + ${failed.waitMs ?? 0} * interval '1 millisecond'
     where id = ${due.id} and status = 'pending'`;
}

async function countFailed(tx: Tx, endpoint: Id): Promise<void> {
  await tx`update webhook_endpoint set failed_total = failed_total + 1 where id = ${endpoint}`;
}

/** @returns the database's time, or undefined where it was not active any more */
export async function disableEndpoint(tx: Tx, id: Id, reason: string): Promise<Date | undefined> {
  const [row] = await tx<{ at: Date }[]>`
    update webhook_endpoint
       set status = 'disabled', status_reason = ${reason}, disabled_at = keytoll_clock(),
           updated_at = keytoll_clock()
     where id = ${id} and status = 'active'
    returning updated_at as at`;
  return row?.at;
}

/** Gives a delivery up. @returns whose, and when; undefined where it did not wait any more */
export async function writeGivenUp(tx: Tx, id: Id, reason: string) {
  const [given] = await tx<{ account: Id; endpoint: Id; at: Date }[]>`
    update webhook_delivery d set status = 'failed', last_error = ${reason}
      from webhook_endpoint e
     where d.id = ${id} and d.status = 'pending' and e.id = d.endpoint_id
    returning e.account_id as account, e.id as endpoint, keytoll_clock() as at`;
  if (given) await countFailed(tx, given.endpoint);
  return given;
}

export async function lastError(db: Db, id: Id): Promise<string | null | undefined> {
  const [row] = await db<{ error: string | null }[]>`
    select last_error as error from webhook_delivery where id = ${id}`;
  return row?.error;
}

/**
 * Notes endpoints whose line should have moved minutes ago, and deliveries apart likewise, as
 * reminded of now. @returns what to remind of, at most `limit` of each
 */
export async function overdue(db: Db, limit: number): Promise<{ lines: Id[]; apart: Id[] }> {
  const lines = await db<{ id: Id }[]>`
    update webhook_endpoint set reminded_at = keytoll_clock()
     where id in (
       select e.id from webhook_endpoint e
        where e.status = 'active'
          and (e.reminded_at is null or e.reminded_at < keytoll_clock() - interval '1 minute')
          and exists (
            select from (
              select d.next_at from webhook_delivery d
               where d.endpoint_id = e.id and d.status = 'pending' and not d.apart
               order by d.sequence limit 1) head
             where head.next_at < keytoll_clock() - interval '1 minute')
        limit ${limit})
    returning id`;
  const apart = await db<{ id: Id }[]>`
    update webhook_delivery set reminded_at = keytoll_clock()
     where id in (
       select d.id from webhook_delivery d join webhook_endpoint e on e.id = d.endpoint_id
        where d.status = 'pending' and d.apart and e.status = 'active'
          and d.next_at < keytoll_clock() - interval '1 minute'
          and (d.reminded_at is null or d.reminded_at < keytoll_clock() - interval '1 minute')
        limit ${limit})
    returning id`;
  return { lines: lines.map(({ id }) => id), apart: apart.map(({ id }) => id) };
}
