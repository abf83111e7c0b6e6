import { only, type Sql } from "../db/sql.js";
import { checkpointProblem, noteCheckpoint } from "./checkpoint.js";
import type { Checkpoint, Scope } from "./invariant.js";
import { examine, type Finding, INVARIANTS } from "./invariants.js";
import { recomputePosts } from "./posts.js";
import { makeRoom, newestCheckpoint, openScope } from "./scope.js";

/** Connections of the pool that a pass needs: its snapshot, and posts beside it. */
const LEAST_CONNECTIONS = 2;

export interface CheckOptions {
  /** From the first row on; else from the newest checkpoint, where there is one. */
  whole: boolean;
  /** Notes a green pass as the checkpoint of the next. */
  note: boolean;
  /** Told what is under way: `invariant 3`, `usage records recomputed: 1,200,000`. */
  progress?: (line: string) => void;
}

export interface Verdict {
  ok: boolean;
  /** From the first row that there is. */
  whole: boolean;
  /** What an incremental pass started from. */
  from: Checkpoint | null;
  /** What it noted; null where something does not hold, or nothing was to be noted. */
  noted: Checkpoint | null;
  /** Ended holds and usage records that were looked at. */
  holds: bigint;
  records: bigint;
  findings: Finding[];
}

/**
 * Recomputes every invariant from all rows, and notes nothing.
 *
 * @returns a finding for each, in order
 */
export async function checkBooks(sql: Sql): Promise<Finding[]> {
  return (await proveBooks(sql, { whole: true, note: false })).findings;
}

/**
 * Recomputes every invariant in one read-only snapshot, so that it may run beside load: from the
 * first row on, or from the newest checkpoint.
 *
 * From a checkpoint it proves that what came after continues what was proved, that all balances,
 * counters, journal lines and links of chains are right as they stand now, and that the checkpoint
 * is as it was noted. Only from the first row on does it prove that the usage records before it are
 * still what they were.
 *
 * @param sql pool of at least two connections
 */
export async function proveBooks(sql: Sql, options: CheckOptions): Promise<Verdict> {
  if (sql.options.max < LEAST_CONNECTIONS) throw new Error("a check needs two connections");
  const say = options.progress ?? (() => {});
  const line = await sql.reserve();
  try {
    await makeRoom(line);
    await line.unsafe("begin isolation level repeatable read read only");
    // Before the snapshot, so that no month is archived between it and the first read
    await line.unsafe("lock table ended_hold in access share mode");
    const { snapshot } = only(
      await line<{ snapshot: string }[]>`select pg_export_snapshot() as snapshot`,
    );
    const from = options.whole ? null : await newestCheckpoint(line);
    say("sums per child key");
    const scope = await openScope(line, from);
    const findings = await findAll(sql, line, scope, say);
    const ok = findings.every((finding) => finding.violations.length === 0);
    const no = ok && options.note ? await noteCheckpoint(sql, scope, snapshot) : undefined;
    await line.unsafe("commit");
    const newest = no === undefined ? null : await newestCheckpoint(line);
    const { whole, holds, records } = scope;
    return { ok, whole, from, noted: newest?.no === no ? newest : null, holds, records, findings };
  } catch (error) {
    await line.unsafe("rollback").catch(() => {});
    throw error;
  } finally {
    line.release();
  }
}

/** The posts are recomputed beside the rest, and then told where they belong. */
async function findAll(
  sql: Sql,
  line: Sql,
  scope: Scope,
  say: (line: string) => void,
): Promise<Finding[]> {
  const examineAll = async () => {
    const findings: Finding[] = [];
    for (const invariant of INVARIANTS) {
      say(`invariant ${invariant.no}`);
      findings.push(await examine(line, scope, invariant));
    }
    return findings;
  };
  const tell = (records: bigint) =>
    say(`usage records recomputed: ${records.toLocaleString("en-US")}`);
  const examining = examineAll();
  const recomputing = recomputePosts(sql, scope, tell);
  await Promise.allSettled([examining, recomputing]);
  const [findings, posts] = [await examining, await recomputing];
  const changed = await checkpointProblem(line);
  return findings.map((finding) => {
    if (finding.no === 8) {
      const hashed = `${posts.posts.toLocaleString("en-US")} posts of ${posts.records.toLocaleString("en-US")} records recomputed`;
      return {
        ...finding,
        counted: `${finding.counted}, ${hashed}`,
        violations: [...posts.broken, ...changed, ...finding.violations],
      };
    }
    if (finding.no !== 9) return finding;
    return { ...finding, violations: [...posts.backwards, ...finding.violations] };
  });
}

/** A finding as the lines that an operator reads. */
export function inLines({ no, name, counted, violations }: Finding): string[] {
  const verdict = violations.length === 0 ? "ok  " : "FAIL";
  return [
    `${verdict} ${String(no).padStart(2)}  ${name} (${counted})`,
    ...violations.map((violation) => `          ${violation}`),
  ];
}
