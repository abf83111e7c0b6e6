import { elapsed, SECOND } from "../../src/base/time.js";
import { connect, only } from "../../src/db/sql.js";
import { SHARDS, workflowIds } from "../../workflows/contract.js";
import { fillHistory } from "./history.js";
import { until } from "./keys.js";
import { startBenchTemporal, startBenchWorker } from "./temporal.js";

export interface SettleOptions {
  /** Captured while Temporal is away. */
  records: number;
  emptyDatabase: () => Promise<string>;
}

const ACCOUNTS = 64;
const CHILDREN = 1_000;
const PATIENCE_S = 1_200;

/**
 * How long settlement takes, through its workflows, to catch up with what was captured while
 * Temporal was away: from the moment that it serves again.
 */
export async function benchSettle({ records, emptyDatabase }: SettleOptions): Promise<object> {
  const url = await emptyDatabase();
  const sql = connect(url, { name: "bench", max: 1 });
  const temporal = await startBenchTemporal();
  const worker = startBenchWorker(url, temporal.address);
  const behind = async () =>
    only(
      await sql<{ behind: number }[]>`
        select coalesce(sum(usage_seq - settled_seq), 0)::int as behind from account`,
    ).behind;
  try {
    await until("settlement runs", PATIENCE_S, async () => {
      const shards = SHARDS.map((shard) =>
        temporal.client.workflow.getHandle(workflowIds.settlement(shard)).describe(),
      );
      return (await Promise.allSettled(shards)).every((it) => it.status === "fulfilled");
    });
    await temporal.away(async () => {
      const past = { children: CHILDREN, accounts: ACCOUNTS, months: 1, settled: false };
      await fillHistory(url, { records, ...past });
    });
    const start = elapsed();
    const since = () => Number(((elapsed() - start) / SECOND).toFixed(1));
    const waiting = await behind();
    await until("the first post", PATIENCE_S, async () => (await behind()) < waiting);
    const first = since();
    await until("settlement", PATIENCE_S, async () => (await behind()) === 0);
    const caughtUp = since();
    const perSecond = Math.round(records / caughtUp);
    const perMillion = Number(((caughtUp * 1e6) / records).toFixed(1));
    console.log(`  ${records.toLocaleString("en-US")} records of ${ACCOUNTS} accounts wait`);
    console.log(
      `  first post seen ${first} s after Temporal is back, the last ${caughtUp} s after`,
    );
    console.log(`  ${perSecond.toLocaleString("en-US")} records/s, ${perMillion} s for a million`);
    return { bench: "settle", records, accounts: ACCOUNTS, first, caughtUp, perSecond, perMillion };
  } finally {
    await worker.stop();
    await temporal.stop();
    await sql.end();
  }
}
