import type { Id } from "../base/ids.js";
import type { Ngonka } from "../base/money.js";
import type { Db } from "../db/sql.js";
import { selectWeek } from "./week-store.js";

/**
 * What each of an account's children has used since Monday, 00:00 UTC: what was captured on the
 * days before today, and today's own counter, open holds included.
 *
 * @param children with their counters of today
 */
export async function usedThisWeek(
  db: Db,
  account: Id,
  children: readonly { id: Id; usedDaily: Ngonka }[],
): Promise<Map<Id, Ngonka>> {
  const ids = children.map(({ id }) => id);
  const rows = ids.length === 0 ? [] : await selectWeek(db, account, ids);
  const before = new Map(rows.map((row) => [row.child, row.before]));
  return new Map(children.map(({ id, usedDaily }) => [id, usedDaily + (before.get(id) ?? 0n)]));
}
