import type { Sql } from "../db/sql.js";
import { withPartitions } from "./partitions.js";
import { sweepPage } from "./store.js";

const PAGE = 500;

/**
 * Ends every open hold that is past its deadline or whose gateway is gone: charged at its
 * checkpoint if it has one, else given back. May run anywhere, by several at once.
 *
 * @param onPage called after each page of 500
 */
export async function sweepHolds(
  sql: Sql,
  onPage: () => void = () => {},
): Promise<{ captured: number; voided: number }> {
  const all = { captured: 0, voided: 0 };
  for (;;) {
    const { captured, voided } = await withPartitions(sql, () => sweepPage(sql, PAGE));
    all.captured += captured;
    all.voided += voided;
    onPage();
    if (captured + voided === 0) return all;
  }
}
