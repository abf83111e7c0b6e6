import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { checkBooks, inLines } from "../check/check.js";
import { connect } from "../db/sql.js";
import { findDatabase } from "../dev/running.js";
import type { Command } from "./command.js";

export const command: Command = {
  summary: "prove the books: recompute every invariant from the rows",
  usage: `Usage: keytoll check [--json]

Reads one snapshot, changes nothing, may run beside load. A line for each invariant with what was
counted; violations are named by their rows. Exit code 1 on any violation.

  --json         one JSON object instead of lines
  DATABASE_URL   Postgres; without it, the database of the system that runs on this machine`,

  async run(args) {
    const { values } = parseArgs({ args, options: { json: { type: "boolean", default: false } } });
    const sql = connect(findDatabase(readConfig(process.env)), { name: "keytoll check", max: 1 });
    try {
      const findings = await checkBooks(sql);
      const wrong = findings.filter((finding) => finding.violations.length > 0);
      if (values.json) console.log(JSON.stringify({ ok: wrong.length === 0, findings }));
      else {
        for (const line of findings.flatMap(inLines)) console.log(line);
        console.log(wrong.length === 0 ? "the books are right" : `${wrong.length} do not hold`);
      }
      return wrong.length === 0 ? 0 : 1;
    } finally {
      await sql.end();
    }
  },
};
