import { recordAudit } from "../db/change.js";
import { type Db, only, type Sql } from "../db/sql.js";
import { OUTBOX_CHANNEL } from "./outbox.js";

/** An entry that was given up. */
export interface GivenUp {
  id: bigint;
  kind: string;
  key: string;
  attempts: number;
  createdAt: Date;
  lastError: string | null;
}

const COLUMNS = (db: Db) =>
  db`id, kind, key, attempts, created_at as "createdAt", last_error as "lastError"`;

/** Entries that were given up, oldest first. */
export async function listGivenUp(db: Db, limit: number): Promise<GivenUp[]> {
  return await db<GivenUp[]>`
    select ${COLUMNS(db)} from outbox where set_aside order by id limit ${limit}`;
}

interface Orders {
  by: string;
  reason: string;
}

/**
 * Has relays try entries that were given up anew, and notes who wanted it and why.
 *
 * @param id of one; null: all of them
 * @returns those
 */
export async function retryGivenUp(
  sql: Sql,
  id: bigint | null,
  orders: Orders,
): Promise<GivenUp[]> {
  return await sql.begin(async (tx) => {
    const rows = await tx<GivenUp[]>`
      update outbox set set_aside = false, attempts = 0, next_at = keytoll_clock()
       where set_aside and (${id}::bigint is null or id = ${id}::bigint)
      returning ${COLUMNS(tx)}`;
    await audit(tx, "outbox.retried", rows, orders);
    await tx`select pg_notify(${OUTBOX_CHANNEL}, '')`;
    return rows;
  });
}

/** Removes an entry that was given up for good, and notes who wanted it and why. */
export async function dropGivenUp(
  sql: Sql,
  id: bigint,
  orders: Orders,
): Promise<GivenUp | undefined> {
  return await sql.begin(async (tx) => {
    const rows = await tx<GivenUp[]>`
      delete from outbox where set_aside and id = ${id} returning ${COLUMNS(tx)}`;
    await audit(tx, "outbox.dropped", rows, orders);
    return rows[0];
  });
}

async function audit(
  tx: Parameters<typeof recordAudit>[0],
  action: string,
  entries: readonly GivenUp[],
  { by, reason }: Orders,
): Promise<void> {
  const { at } = only(await tx<{ at: Date }[]>`select keytoll_clock() as at`);
  for (const { id, kind, key, lastError } of entries) {
    const change = { by, reason, kind, key, lastError };
    await recordAudit(tx, { at, actor: "admin", action, subject: id.toString(), change });
  }
}
