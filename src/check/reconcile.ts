import type { Reconciled, ReconcileOrder, ReconcileState } from "../../workflows/contract.js";
import type { Sql } from "../db/sql.js";
import { type Difference, findBacklog } from "./backlog.js";
import { proveBooks, type Verdict } from "./check.js";
import { NAMED } from "./invariant.js";
import {
  beginRun,
  dayOf,
  findRun,
  finishRun,
  noteDifferences,
  noteProved,
  openDifferences,
  type RunRow,
} from "./reconcile-store.js";

/** Most differences that a summary names. */
const TOLD = 20;
const BACKLOG = 0;

/** Begins a day's pass; tells what came of it where it is done and nobody asks for another. */
export async function openReconcile(sql: Sql, order: ReconcileOrder): Promise<ReconcileState> {
  const day = await dayOf(sql, order.day ?? null);
  const run = await findRun(sql, day);
  if (run?.finished && !order.again) return { kind: "finished", done: await toDone(sql, run) };
  await beginRun(sql, day);
  return { kind: "open", day };
}

/**
 * Recomputes every invariant since the newest checkpoint and notes the differences. A green pass is
 * the next checkpoint where the login may note one. Doing it again notes them once.
 *
 * @param books where the invariants are read: at least two connections
 * @param progress called at each step of it
 */
export async function reconcileBooks(
  sql: Sql,
  books: Sql,
  day: string,
  progress: () => void,
): Promise<void> {
  const verdict = await proveBooks(books, { whole: false, note: true, progress });
  const { findings, whole, noted } = verdict;
  // Of one that has more violations than it names, nobody knows which are gone
  const complete = findings.filter((it) => it.violations.length < NAMED);
  await sql.begin(async (tx) => {
    await noteDifferences(
      tx,
      complete.map((it) => it.no),
      findings.flatMap(toDifferences),
    );
    await noteProved(tx, day, {
      ...{ invariants: findings.length, whole, digest: noted?.digest ?? null },
      ...{ records: verdict.records, holds: verdict.holds },
    });
  });
}

function toDifferences({ no, violations }: Verdict["findings"][number]): Difference[] {
  return violations.map((reason) => ({ invariant: no, subject: subjectOf(reason), reason }));
}

/** The row that a violation is about: the first id that it names. */
function subjectOf(reason: string): string {
  const [id] = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/.exec(reason) ?? [];
  return id ?? "the books";
}

/** Looks for what waits too long or was set aside, and notes it. */
export async function reconcileBacklog(sql: Sql): Promise<void> {
  const found = await findBacklog(sql);
  await sql.begin((tx) => noteDifferences(tx, [BACKLOG], found));
}

/** Finishes a day's pass. */
export async function closeReconcile(sql: Sql, day: string): Promise<Reconciled> {
  const run = await sql.begin((tx) => finishRun(tx, day));
  return await toDone(sql, run);
}

async function toDone(sql: Sql, run: RunRow): Promise<Reconciled> {
  const told = await openDifferences(sql, TOLD);
  return {
    day: run.day,
    invariants: run.invariants,
    records: Number(run.records),
    whole: run.whole,
    count: run.differences,
    differences: told.map(({ invariant, subject, reason }) => ({ invariant, subject, reason })),
  };
}
