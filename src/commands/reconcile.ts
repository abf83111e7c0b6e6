import { parseArgs } from "node:util";
import { QUEUES, type Reconciled, searchAttributes } from "../../workflows/contract.js";
import type { reconcile } from "../../workflows/reconcile.js";
import { readConfig } from "../base/config.js";
import { HOUR, now } from "../base/time.js";
import { newestRuns, openDifferences } from "../check/reconcile-store.js";
import { connect, type Sql } from "../db/sql.js";
import { findDatabase } from "../dev/running.js";
import type { Command } from "./command.js";
import { askTemporal } from "./order.js";

const DAYS = 7;
const LISTED = 1_000;

export const command: Command = {
  summary: "what the daily comparison of the books has found; compare again now",
  usage: `Usage: keytoll reconcile [--now]

The last seven days, then each difference that the newest pass still found; exit code 1 where there
is one. It compares what is stored with what it should be and changes nothing.

  --now             has today's pass done, or done again, and waits for it
  DATABASE_URL      Postgres; TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE: where its worker works.
                    Without them, those of the system that runs on this machine`,

  async run(args) {
    const { values } = parseArgs({ args, options: { now: { type: "boolean", default: false } } });
    const config = readConfig(process.env);
    if (values.now) console.log(inWords(await askTemporal(config, again)));
    const sql = connect(findDatabase(config), { name: "keytoll reconcile", max: 1 });
    try {
      return await tell(sql);
    } finally {
      await sql.end();
    }
  },
};

const again: Parameters<typeof askTemporal<Reconciled>>[1] = (client) =>
  client.withDeadline(now() + HOUR, () =>
    client.workflow.execute<typeof reconcile>("reconcile", {
      workflowId: "reconcile-now",
      taskQueue: QUEUES.jobs,
      args: [{ again: true }],
      workflowIdConflictPolicy: "USE_EXISTING",
      staticSummary: "an operator's comparison of what is stored with what it should be",
      typedSearchAttributes: searchAttributes({ job: "reconcile" }),
    }),
  );

const inWords = ({ day, invariants, records, count }: Reconciled): string =>
  `${day}: ${invariants} invariants, ${records.toLocaleString("en-US")} records, ${count} differences`;

async function tell(sql: Sql): Promise<number> {
  const runs = await newestRuns(sql, DAYS);
  if (runs.length === 0) console.log("no day was compared yet");
  for (const { day, finishedAt, invariants, records, differences } of runs) {
    const what = { day, invariants, records: Number(records), count: differences };
    const state = finishedAt ? `done ${finishedAt.toISOString()}` : "under way";
    console.log(`${inWords({ ...what, whole: false, differences: [] })}; ${state}`);
  }
  const open = await openDifferences(sql, LISTED);
  for (const { invariant, firstSeen, reason } of open) {
    const where = invariant === 0 ? "waiting" : `invariant ${invariant}`;
    console.log(`${where}, since ${firstSeen.toISOString()}: ${reason}`);
  }
  return open.length === 0 ? 0 : 1;
}
