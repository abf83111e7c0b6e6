import { only, type Sql } from "../db/sql.js";

const PAGE = 500;

/**
 * Ends every open hold that is past its deadline or whose gateway is gone: charged at its checkpoint if it has one,
 * else given back. May run anywhere, by several at once.
 *
 * @param onPage called after each page of 500
 */
export async function sweepHolds(
  sql: Sql,
  onPage: () => void = () => {},
): Promise<{ captured: number; voided: number }> {
  const all = { captured: 0, voided: 0 };
  for (;;) {
    const { captured, voided } = await sweepPage(sql);
    all.captured += captured;
    all.voided += voided;
    onPage();
    if (captured + voided === 0) return all;
  }
}

async function sweepPage(sql: Sql) {
  return only(
    await sql<{ captured: number; voided: number }[]>`
      select captured, voided from sweep_holds(${PAGE})`,
  );
}

/** Makes the monthly partitions around now that are missing. @returns how many were made */
export async function makePartitions(sql: Sql): Promise<number> {
  const { made } = only(await sql<{ made: number }[]>`select ensure_hold_partitions(3) as made`);
  return made;
}
