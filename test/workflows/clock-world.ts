import { expect } from "vitest";
import { checkBooks } from "../../src/check/check.js";
import type { Sql } from "../../src/db/sql.js";
import { closePeriod, openPeriod, readPeriod, rollCounters } from "../../src/holds/periods.js";

/** Resets a period as the workflow does it. */
export async function reset(sql: Sql, kind: "day" | "month", name: string) {
  const period = readPeriod(kind, name);
  const state = await openPeriod(sql, period);
  if (state.kind !== "open") return state.kind;
  await rollCounters(sql, period);
  const { requests, cost } = await closePeriod(sql, period);
  return { requests: Number(requests), cost: Number(cost) };
}

/** So many requests of `use`, with their cost. */
export const requests = (count: number) => ({ requests: count, cost: 7 * count });

/** All roll-ups, by day. */
export const usage = async (sql: Sql) => [
  ...(await sql`
    select day, sum(requests)::int as requests, sum(cost)::int as cost
      from usage_rollup group by day order by day`),
];

export async function expectBooksAreRight(sql: Sql): Promise<void> {
  const findings = await checkBooks(sql);
  expect(findings.flatMap((finding) => finding.violations)).toEqual([]);
}
