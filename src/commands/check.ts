import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { elapsed, SECOND } from "../base/time.js";
import { inLines, proveBooks, type Verdict } from "../check/check.js";
import type { Checkpoint } from "../check/invariant.js";
import { connect } from "../db/sql.js";
import { findDatabase } from "../dev/running.js";
import type { Command } from "./command.js";

/** The snapshot, two that recompute posts, one that notes the checkpoint. */
const CONNECTIONS = 4;
/** A pass that takes longer tells how far it is, as often. */
const TELL_EVERY = 5 * SECOND;

export const command: Command = {
  summary: "prove the books: recompute every invariant from the rows",
  usage: `Usage: keytoll check [--full] [--json]

Reads one snapshot and may run beside load. A line for each invariant with what was counted;
violations are named by their rows. Exit code 1 on any violation.

Goes on from the checkpoint that the last green check noted, and notes the next: that proves what
came since, and every balance, counter, journal line and link of a chain as they stand. That older
usage records are still what they were, only --full proves.

  --full         from the first row on, whatever a checkpoint says
  --json         one JSON object instead of lines
  DATABASE_URL   Postgres; without it, the database of the system that runs on this machine`,

  async run(args) {
    const { values } = parseArgs({
      args,
      options: {
        full: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
      },
    });
    const url = findDatabase(readConfig(process.env));
    const sql = connect(url, { name: "keytoll check", max: CONNECTIONS });
    try {
      const progress = teller();
      const verdict = await proveBooks(sql, { whole: values.full, note: true, progress });
      if (values.json) console.log(inJson(verdict));
      else for (const line of report(verdict)) console.log(line);
      return verdict.ok ? 0 : 1;
    } finally {
      await sql.end();
    }
  },
};

/** Progress goes to stderr, so that the answer stays what scripts read. */
function teller(): (line: string) => void {
  const start = elapsed();
  let told = start;
  return (line) => {
    if (elapsed() - told < TELL_EVERY) return;
    told = elapsed();
    console.error(`${Math.round((told - start) / SECOND)} s  ${line}`);
  };
}

function report({ ok, whole, from, noted, findings }: Verdict): string[] {
  const wrong = findings.filter((finding) => finding.violations.length > 0).length;
  return [
    whole ? "from the first row on" : `what came after checkpoint ${from ? inWords(from) : "0"}`,
    ...findings.flatMap(inLines),
    ok ? "the books are right" : `${wrong} do not hold`,
    ...(noted ? [`noted as checkpoint ${inWords(noted)}`] : []),
  ];
}

const inWords = ({ no, takenAt, holds, digest }: Checkpoint): string =>
  `${no} of ${takenAt.toISOString()} (${holds.toLocaleString("en-US")} ended holds, digest ${digest})`;

function inJson({ ok, whole, from, noted, findings }: Verdict): string {
  const brief = (it: Checkpoint | null) =>
    it && { no: Number(it.no), taken_at: it.takenAt.toISOString(), digest: it.digest };
  return JSON.stringify({ ok, full: whole, from: brief(from), noted: brief(noted), findings });
}
