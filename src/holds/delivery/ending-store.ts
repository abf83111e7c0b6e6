import type { Id } from "../../base/ids.js";
import type { Ngonka } from "../../base/money.js";
import { only, type Sql } from "../../db/sql.js";

/**
 * Puts what a request cost above what a sweep captured of it on record as the house's loss, once.
 *
 * @returns that part of the cost
 */
export async function recordLateCapture(
  sql: Sql,
  { account, id, cost }: { account: Id; id: Id; cost: Ngonka },
): Promise<Ngonka> {
  const { missed } = only(
    await sql<{ missed: bigint }[]>`
      select late_capture(${account}, ${id}, ${cost}) as missed`,
  );
  return missed;
}
