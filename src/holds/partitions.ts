import type { Sql } from "../db/sql.js";
import { archivePartition, ensurePartitions, monthsBefore, whyNeeded } from "./partition-store.js";
import type { Period } from "./periods.js";

/** Makes the monthly partitions around now that are missing. @returns how many were made */
export const makePartitions = (sql: Sql): Promise<number> => ensurePartitions(sql);

/**
 * Runs what ends holds. Where their month has no partition, because nobody has made any for months,
 * it is made and `work` runs once more: nothing of it was done.
 */
export async function withPartitions<T>(sql: Sql, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isWithoutPartition(error)) throw error;
    await makePartitions(sql);
    return await work();
  }
}

/** Told by the place in Postgres that says so: its words depend on the server's language. */
const isWithoutPartition = (error: unknown): boolean =>
  error instanceof Error && "routine" in error && error.routine === "ExecFindPartition";

/** What became of a month: taken off with so many holds, or why it stays. */
export type Archived =
  | { month: string; kind: "archived"; holds: bigint; table: string }
  | { month: string; kind: "free" }
  | { month: string; kind: "needed"; reason: string };

/**
 * Takes the months before one off, oldest first, each with its sums in one transaction, until one
 * is still needed: by an open hold, by settlement, by a roll-up, or by the proof. Needs the login
 * that owns the tables.
 *
 * @param before  the first month that stays
 * @param dryRun  only tells which could go
 */
export async function* archiveMonths(
  sql: Sql,
  before: Period,
  { dryRun = false }: { dryRun?: boolean } = {},
): AsyncGenerator<Archived> {
  for (const { name, month } of await monthsBefore(sql, before.begins)) {
    const reason = await whyNeeded(sql, name);
    if (reason !== null) {
      yield { month, kind: "needed", reason };
      return;
    }
    if (dryRun) yield { month, kind: "free" };
    else {
      const holds = await archivePartition(sql, name);
      yield { month, kind: "archived", holds, table: `archive.${name}` };
    }
  }
}
