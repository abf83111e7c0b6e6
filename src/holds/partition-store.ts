import { type Db, only, type Sql } from "../db/sql.js";

/** A month of ended holds: the partition's name and the month. */
export interface Month {
  name: string;
  month: string;
}

/** @returns how many months were missing, from the oldest that may be needed to three ahead */
export async function ensurePartitions(sql: Sql): Promise<number> {
  const { made } = only(await sql<{ made: number }[]>`select ensure_hold_partitions(3) as made`);
  return made;
}

/** Months whose ids all lie before `until`, oldest first. */
export async function monthsBefore(db: Db, until: Date): Promise<Month[]> {
  return await db<Month[]>`
    select name, to_char(begins at time zone 'UTC', 'YYYY-MM') as month
      from hold_partitions(${until}) order by begins`;
}

/** @returns why the month has to stay; null where nothing needs it any more */
export async function whyNeeded(db: Db, name: string): Promise<string | null> {
  const { reason } = only(
    await db<{ reason: string | null }[]>`select hold_partition_needed(${name}) as reason`,
  );
  return reason;
}

/** @returns how many holds were in it */
export async function archivePartition(sql: Sql, name: string): Promise<bigint> {
  const { holds } = only(
    await sql<{ holds: bigint }[]>`select archive_hold_partition(${name}, '5 minutes') as holds`,
  );
  return holds;
}
