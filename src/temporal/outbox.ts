import { type Db, only, type Sql } from "../db/sql.js";

/**
 * Something that Temporal must be told: which job, and the natural key that the job re-reads its
 * row by.
 */
export interface OutboxEntry {
  id: bigint;
  kind: string;
  key: string;
  /** Times that it was tried in vain. */
  attempts: number;
}

/** Channel of Postgres that wakes the relays. */
export const OUTBOX_CHANNEL = "outbox";

/**
 * Writes an entry in the transaction of the row that it is about; a relay tells Temporal once that
 * is committed.
 */
export async function enqueue(tx: Db, entry: { kind: string; key: string }): Promise<void> {
  await tx`insert into outbox (kind, key) values (${entry.kind}, ${entry.key})`;
  await tx`select pg_notify(${OUTBOX_CHANNEL}, '')`;
}

/**
 * Takes up to `limit` entries that are due, for `seconds`: other relays pass them by meanwhile, and
 * take them over should this one die.
 */
export async function claim(sql: Sql, limit: number, seconds: number): Promise<OutboxEntry[]> {
  return await sql<OutboxEntry[]>`
    update outbox o set next_at = keytoll_clock() + make_interval(secs => ${seconds})
      from (select id from outbox
             where not set_aside and next_at <= (select keytoll_clock())
             order by next_at, id limit ${limit} for update skip locked) due
     where o.id = due.id
    returning o.id, o.kind, o.key, o.attempts`;
}

/** The entry is done. */
export async function remove(sql: Sql, entry: OutboxEntry): Promise<void> {
  await sql`delete from outbox where id = ${entry.id}`;
}

/** Nothing was wrong with it: it is tried again in `ms`, and that does not count. */
export async function release(sql: Sql, entry: OutboxEntry, ms: number): Promise<void> {
  await sql`
    update outbox set next_at = keytoll_clock() + ${ms} * interval '1 millisecond'
     where id = ${entry.id}`;
}

/** Notes why it failed. It is tried again in `ms`; null: never, an operator has to look. */
export async function postpone(
  sql: Sql,
  entry: OutboxEntry,
  reason: string,
  ms: number | null,
): Promise<void> {
  await sql`
    update outbox
       set attempts = attempts + 1, last_error = ${reason.slice(0, 1_000)},
         set_aside = ${ms === null},
           next_at = keytoll_clock() + ${ms ?? 0} * interval '1 millisecond'
     where id = ${entry.id}`;
}

/** What waits and what was set aside, and the age in seconds of the oldest that waits. */
export async function outboxState(
  db: Db,
): Promise<{ waiting: number; setAside: number; oldestSeconds: number }> {
  return only(
    await db<{ waiting: number; setAside: number; oldestSeconds: number }[]>`
      select (count(*) filter (where not set_aside))::int as waiting,
             (count(*) filter (where set_aside))::int as "setAside",
             coalesce(extract(epoch from keytoll_clock() - min(created_at)
               filter (where not set_aside)),
                      0)::int as "oldestSeconds"
        from outbox`,
  );
}
