import type { Sql } from "../db/sql.js";
import { examine, type Finding, INVARIANTS } from "./invariants.js";

/**
 * Recomputes every invariant from the rows, all in one snapshot, so that it may run beside load.
 *
 * @returns a finding for each, in order
 */
export async function checkBooks(sql: Sql): Promise<Finding[]> {
  return (await sql.begin("isolation level repeatable read read only", async (tx) => {
    const findings: Finding[] = [];
    for (const invariant of INVARIANTS) findings.push(await examine(tx, invariant));
    return findings;
  })) as Finding[];
}

/** A finding as the lines that an operator reads. */
export function inLines({ no, name, counted, violations }: Finding): string[] {
  const verdict = violations.length === 0 ? "ok  " : "FAIL";
  return [
    `${verdict} ${String(no).padStart(2)}  ${name} (${counted})`,
    ...violations.map((violation) => `          ${violation}`),
  ];
}
