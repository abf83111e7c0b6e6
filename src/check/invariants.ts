import type { Db } from "../db/sql.js";
import { AMOUNTS } from "./amounts.js";
import type { Invariant, Scope } from "./invariant.js";
import { RECORDS } from "./records.js";

/**
 * One invariant, recomputed. `violations` name the rows by id; an empty list means that it holds.
 */
export interface Finding {
  no: number;
  name: string;
  /** What was looked at, in words: `1,204 transfers`. */
  counted: string;
  violations: string[];
}

export const INVARIANTS: readonly Invariant[] = [...AMOUNTS, ...RECORDS];

/** Recomputes one invariant inside a snapshot. */
export async function examine(tx: Db, scope: Scope, invariant: Invariant): Promise<Finding> {
  const { no, name, count, find } = invariant;
  const [counts] = await count(tx, scope);
  const found = await find(tx, scope);
  const counted = Object.entries(counts ?? {})
    .map(([what, number]) => `${Number(number).toLocaleString("en-US")} ${what}`)
    .join(", ");
  return { no, name, counted, violations: found.map((row) => row.problem) };
}
