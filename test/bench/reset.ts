import { readFileSync, writeFileSync } from "node:fs";
import type { Client } from "@temporalio/client";
import { connect, only, type Sql } from "../../src/db/sql.js";
import { QUEUES, workflowIds } from "../../workflows/contract.js";
import type { limitReset } from "../../workflows/limit-reset.js";
import { fillHistory } from "./history.js";
import { cpuOf } from "./processes.js";
import { startBenchTemporal, startBenchWorker } from "./temporal.js";

export interface ResetOptions {
  /** Child keys of the larger database, and usage records of the day that ended. */
  children: number;
  records: number;
  emptyDatabase: () => Promise<string>;
}

interface ResetFigures {
  children: number;
  records: number;
  seconds: number;
  /** Microseconds for a child key, from the workflow's start to its end. */
  perChild: number;
  /** Microseconds of CPU time for a child key: of the worker, and of its sessions in Postgres. */
  workerCpu: number;
  postgresCpu: number;
  /** Resident memory of the worker in MiB: before, and at the most meanwhile. */
  before: number;
  most: number;
}

const FEW = 1_000;
const CHILDREN_OF_ACCOUNT = 100;
const ROUNDS = 3;
const DAY = "2026-03-11";

/**
 * The reset of a day through its workflow, with a worker as a process of its own: of many child
 * keys that were all in use, and of a thousand with as many records each. The best of three counts
 * for the few: that takes so little that anything else the machine does would tell.
 */
export async function benchReset({ children, records, emptyDatabase }: ResetOptions) {
  const few = { children: FEW, records: Math.round((records * FEW) / children) };
  const rounds: ResetFigures[] = [];
  for (let round = 0; round < ROUNDS; round++) rounds.push(await resetOf(few, emptyDatabase));
  const small = rounds.reduce((best, it) => (it.seconds < best.seconds ? it : best));
  report(small);
  const large = await resetOf({ children, records }, emptyDatabase);
  report(large);
  const cpu = ({ workerCpu, postgresCpu }: ResetFigures) => workerCpu + postgresCpu;
  const time = Number((large.perChild / small.perChild).toFixed(2));
  const ratio = Number((cpu(large) / cpu(small)).toFixed(2));
  console.log(
    `  a child key of many takes ${time} times what one of a few does, and ${ratio} of CPU`,
  );
  return { bench: "reset", small, large, time, ratio };
}

async function resetOf(
  { children, records }: { children: number; records: number },
  emptyDatabase: () => Promise<string>,
): Promise<ResetFigures> {
  const url = await emptyDatabase();
  const sql = connect(url, { name: "bench", max: 1 });
  await setClock(sql, "2026-03-10T12:00:00Z");
  const accounts = Math.max(8, children / CHILDREN_OF_ACCOUNT);
  await fillHistory(url, { children, records, accounts, months: 0, settled: true });
  await setClock(sql, `${DAY}T00:00:05Z`);

  const temporal = await startBenchTemporal();
  const worker = startBenchWorker(url, temporal.address);
  try {
    // The first ones wait until the worker is there and has opened its sessions: not measured
    const early = ["2026-03-07", "2026-03-08", "2026-03-09"];
    await Promise.all(early.map((period) => reset(temporal.client, period)));
    const sessions = await sessionsOf(sql);
    const measured = watch(worker.pid, sessions);
    const seconds = await reset(temporal.client, DAY);
    const { ofWorker, ofPostgres, ...memory } = measured();
    await expectAllDone(sql, { children, records });
    const each = (s: number) => Math.round((s * 1_000_000) / children);
    const cpu = { workerCpu: each(ofWorker), postgresCpu: each(ofPostgres) };
    return { children, records, seconds, perChild: each(seconds), ...cpu, ...memory };
  } finally {
    await worker.stop();
    await temporal.stop();
    await sql.end();
  }
}

async function setClock(sql: Sql, at: string): Promise<void> {
  await sql.unsafe(
    `create or replace function keytoll_clock() returns timestamptz language sql volatile
     as $$ select '${at}'::timestamptz $$`,
  );
}

/** @returns seconds from its start to its end, as Temporal has them */
async function reset(client: Client, period: string): Promise<number> {
  const ref = { kind: "day", period } as const;
  const handle = await client.workflow.start<typeof limitReset>("limitReset", {
    ...{ workflowId: workflowIds.limitReset(ref), taskQueue: QUEUES.jobs, args: [ref] },
  });
  await handle.result();
  const { startTime, closeTime } = await handle.describe();
  return ((closeTime?.getTime() ?? Number.NaN) - startTime.getTime()) / 1_000;
}

/** Of the worker: it keeps them as long as it runs. */
async function sessionsOf(sql: Sql): Promise<number[]> {
  const rows = await sql<{ pid: number }[]>`
    select pid from pg_stat_activity
     where datname = current_database() and application_name = 'keytoll worker'`;
  return rows.map(({ pid }) => pid);
}

/** @returns what the worker and its sessions took since */
function watch(pid: number | undefined, sessions: number[]) {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
  const [worker, postgres] = [cpuOf([pid]), cpuOf(sessions)];
  const before = memoryOf(pid, "VmRSS");
  return () => ({
    ...{ before, most: memoryOf(pid, "VmHWM") },
    ...{ ofWorker: cpuOf([pid]) - worker, ofPostgres: cpuOf(sessions) - postgres },
  });
}

/** In MiB. */
function memoryOf(pid: number | undefined, what: "VmRSS" | "VmHWM"): number {
  const [, kib] = new RegExp(`${what}:\\s+(\\d+)`).exec(statusOf(pid)) ?? [];
  return Math.round(Number(kib) / 1_024);
}

const statusOf = (pid: number | undefined) => readFileSync(`/proc/${pid}/status`, "utf8");

async function expectAllDone(sql: Sql, expected: { children: number; records: number }) {
  const { records, waiting } = only(
    await sql<{ records: number; waiting: number }[]>`
      select (select sum(requests)::int from usage_rollup where day = '2026-03-10') as records,
             (select count(*)::int from child_key where day < ${DAY} and used_daily > 0) as waiting`,
  );
  if (records !== expected.records || waiting > 0) {
    throw new Error(`summed up ${records} of ${expected.records}, ${waiting} keys not rolled`);
  }
}

function report(figures: ResetFigures): void {
  const { seconds, perChild, workerCpu, postgresCpu, before, most } = figures;
  const count = (n: number) => n.toLocaleString("en-US");
  const what = `${count(figures.children)} child keys, ${count(figures.records)} records`;
  console.log(`  ${what}: ${seconds.toFixed(2)} s, ${perChild} us a child key`);
  console.log(`    CPU a child key: worker ${workerCpu} us, Postgres ${postgresCpu} us`);
  console.log(`    the worker's memory: ${before} -> ${most} MiB`);
}
