import { parseArgs } from "node:util";
import { readConfig } from "../base/config.js";
import { connect } from "../db/sql.js";
import { findDatabase } from "../dev/running.js";
import { type Archived, archiveMonths } from "../holds/partitions.js";
import { readPeriod } from "../holds/periods.js";
import type { Command } from "./command.js";

const WRONG_USAGE = 2;

export const command: Command = {
  summary: "take old months of ended holds off the table; the books stay provable",
  usage: `Usage: keytoll archive --before 2026-01 [--dry-run]

Moves each whole month before that one, oldest first, to a table of its own in the schema
"archive", to be dumped and dropped, or kept. A month goes only when it is settled, summed up and
proved by keytoll check; the first that is still needed ends it, with the reason and exit code 1.
Its sums stay, so keytoll check proves the rest against them. Requests go on meanwhile. What was
moved is no longer found by its hold id.

  --before MONTH   the first month that stays
  --dry-run        only tell what would go
  DATABASE_URL     the login that owns the tables; without it, the database of the system that runs
                   on this machine`,

  async run(args) {
    const { values } = parseArgs({
      args,
      options: { before: { type: "string" }, "dry-run": { type: "boolean", default: false } },
    });
    if (values.before === undefined) {
      console.error("keytoll archive: wants --before and a month; see --help");
      return WRONG_USAGE;
    }
    const before = readPeriod("month", values.before);
    const sql = connect(findDatabase(readConfig(process.env)), { name: "keytoll archive", max: 1 });
    try {
      let [seen, needed] = [0, false];
      for await (const it of archiveMonths(sql, before, { dryRun: values["dry-run"] })) {
        console.log(inWords(it));
        seen += 1;
        needed = it.kind === "needed";
      }
      if (seen === 0) console.log(`there is no month before ${before.name}`);
      return needed ? 1 : 0;
    } finally {
      await sql.end();
    }
  },
};

function inWords(it: Archived): string {
  if (it.kind === "needed") return `${it.month} stays: ${it.reason}`;
  if (it.kind === "free") return `${it.month} could go`;
  return `${it.month}: ${it.holds.toLocaleString("en-US")} holds, now in ${it.table}`;
}
