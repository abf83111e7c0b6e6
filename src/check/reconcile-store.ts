import { type Db, only, type Tx } from "../db/sql.js";
import type { Difference } from "./backlog.js";

/** A day's pass as it stands. */
export interface RunRow {
  day: string;
  finished: boolean;
  invariants: number;
  records: bigint;
  whole: boolean;
  differences: number;
}

/** The day that is asked for, or that of the database's clock; refuses what is no day. */
export async function dayOf(db: Db, day: string | null): Promise<string> {
  return only(
    await db<{ day: string }[]>`
      select coalesce(${day}::date, (keytoll_clock() at time zone 'UTC')::date) as day`,
  ).day;
}

const RUN = (db: Db) => db`
  day, finished_at is not null as finished, coalesce(invariants, 0) as invariants,
  coalesce(records, 0) as records, coalesce(whole, false) as whole,
  coalesce(differences, 0) as differences`;

export async function findRun(db: Db, day: string): Promise<RunRow | undefined> {
  const [row] = await db<RunRow[]>`select ${RUN(db)} from reconcile_run where day = ${day}`;
  return row;
}

/** Newest first. */
export async function newestRuns(db: Db, limit: number) {
  return await db<(RunRow & { finishedAt: Date | null; passes: number })[]>`
    select ${RUN(db)}, finished_at as "finishedAt", passes
      from reconcile_run order by day desc limit ${limit}`;
}

/** Begins the pass of a day, or another one. */
export async function beginRun(db: Db, day: string): Promise<void> {
  await db`
    insert into reconcile_run (day, passes) values (${day}, 1)
    on conflict (day) do update
       set started_at = keytoll_clock(), finished_at = null, passes = reconcile_run.passes + 1`;
}

interface Proved {
  invariants: number;
  records: bigint;
  holds: bigint;
  whole: boolean;
  digest: string | null;
}

export async function noteProved(tx: Tx, day: string, proved: Proved): Promise<void> {
  await tx`
    update reconcile_run
       set invariants = ${proved.invariants}, records = ${proved.records}, holds = ${proved.holds},
           whole = ${proved.whole}, digest = ${proved.digest}
     where day = ${day}`;
}

/**
 * Notes what a pass has found, each difference once for as long as it lasts: what was there before
 * was seen again, what is no longer found is resolved.
 *
 * @param invariants that were looked at as a whole, so that what is missing is gone
 */
export async function noteDifferences(
  tx: Tx,
  invariants: readonly number[],
  found: readonly Difference[],
): Promise<void> {
  const rows = found.map((it) => ({ ...it, sort: sortOf(it.reason) }));
  const open = await tx<{ id: bigint; invariant: number; subject: string; sort: string }[]>`
    select id, invariant, subject, sort from reconcile_finding
     where resolved_at is null and invariant = any(${[...invariants, ...found.map((it) => it.invariant)]})
     for update`;
  const keyOf = (it: { invariant: number; subject: string; sort: string }) =>
    JSON.stringify([it.invariant, it.subject, it.sort]);
  const wanted = new Map(rows.map((row) => [keyOf(row), row]));
  for (const before of open) {
    const again = wanted.get(keyOf(before));
    wanted.delete(keyOf(before));
    if (again) {
      await tx`
        update reconcile_finding set last_seen = keytoll_clock(), reason = ${again.reason}
         where id = ${before.id}`;
    } else if (invariants.includes(before.invariant)) {
      await tx`
        update reconcile_finding set resolved_at = keytoll_clock() where id = ${before.id}`;
    }
  }
  for (const row of wanted.values()) {
    await tx`
      insert into reconcile_finding (invariant, subject, sort, reason)
      values (${row.invariant}, ${row.subject}, ${row.sort}, ${row.reason})`;
  }
}

/** What makes a reason the same tomorrow, when its amounts and times are others. */
const sortOf = (reason: string): string =>
  reason.replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "#").replace(/\d+/g, "#");

/** Differences that the newest passes still found, books first. */
export async function openDifferences(db: Db, limit: number) {
  return await db<(Difference & { id: bigint; firstSeen: Date; lastSeen: Date })[]>`
    select id, invariant, subject, reason, first_seen as "firstSeen", last_seen as "lastSeen"
      from reconcile_finding where resolved_at is null
     order by invariant = 0, invariant, id limit ${limit}`;
}

/** Finishes a pass with how many differences there are. */
export async function finishRun(tx: Tx, day: string): Promise<RunRow> {
  return only(
    await tx<RunRow[]>`
      update reconcile_run
         set finished_at = keytoll_clock(),
             differences = (select count(*) from reconcile_finding where resolved_at is null)
       where day = ${day}
      returning ${RUN(tx)}`,
  );
}
