import type { Client } from "@temporalio/client";
import { elapsed } from "../../src/base/time.js";
import { only, type Sql } from "../../src/db/sql.js";
import { sweepExpiredKeys } from "../../src/keys/expiry.js";
import { counted, fillAccounts, fillKeys, openPool, percentile, until } from "./keys.js";
import { cpuOf } from "./processes.js";
import { startBenchTemporal, startBenchWorker } from "./temporal.js";

export interface ExpiryOptions {
  /** For which keys expire. */
  seconds: number;
  /** Child keys of the largest table that is swept. */
  keys: number;
  emptyDatabase: () => Promise<string>;
}

const PER_SECOND = 20;
const DUE = 1_000;
const MANY = 100_000;
const ROUNDS = 5;
const YEAR = 365 * 86_400;

/**
 * How late workflows record expiries, and what the sweep costs for a key that is due, from a
 * thousand to a million keys with an expiry.
 */
export async function benchExpiry(options: ExpiryOptions): Promise<object> {
  const recorded = await benchRecording(await options.emptyDatabase(), options.seconds);
  const swept = await benchSweep(await options.emptyDatabase(), options.keys);
  return { bench: "expiry", recorded, swept };
}

async function benchRecording(url: string, seconds: number): Promise<object> {
  const sql = openPool(url);
  const temporal = await startBenchTemporal();
  const worker = startBenchWorker(url, temporal.address);
  try {
    await pauseSweep(temporal.client);
    const count = seconds * PER_SECOND;
    const lead = 30 + Math.ceil(count / 20);
    console.log(
      `recording: ${counted(count)} keys expire, ${PER_SECOND} a second, without a sweep`,
    );
    await fillAccounts(sql);
    await fillKeys(sql, { count, from: lead, to: lead + seconds }, true);
    const isEmpty = async () => (await sql`select from outbox limit 1`).length === 0;
    const drained = await until("the outbox is empty", lead, isEmpty);
    console.log(`  workflows waiting after ${drained.toFixed(1)} s, ${rate(count, drained)}`);
    const isDone = async () => (await latenesses(sql)).length >= count;
    await until("all are recorded", lead + seconds + 120, isDone);
    const late = await latenesses(sql);
    const figures = {
      ...{ keys: late.length, p50: percentile(late, 50), p99: percentile(late, 99) },
      most: percentile(late, 100),
    };
    const { p50, p99, most } = figures;
    console.log(`  recorded after expires_at: p50 ${p50} ms   p99 ${p99} ms   most ${most} ms`);
    return figures;
  } finally {
    await worker.stop();
    await temporal.stop();
    await sql.end();
  }
}

const rate = (count: number, seconds: number) => `${Math.round(count / seconds)} a second`;

/** Else it would record what a workflow is late with. */
async function pauseSweep(client: Client): Promise<void> {
  await until("the Schedules are there", 180, async () => {
    const schedule = client.schedule.getHandle("expiry-sweep");
    return await schedule.pause("measuring without it").then(
      () => true,
      () => false,
    );
  });
}

/** Milliseconds between expiry and record, sorted. */
async function latenesses(sql: Sql): Promise<number[]> {
  const rows = await sql<{ ms: number }[]>`
    select round(extract(epoch from e.at - c.expires_at) * 1000)::int as ms
      from audit_event e join child_key c on c.id = e.subject::uuid
     where e.action = 'child_key.expired' order by 1`;
  return rows.map((row) => row.ms);
}

interface Sweep {
  keys: number;
  /** Microseconds for each key that was due, and of CPU time of the database's own process. */
  perDueKey: number;
  cpuPerDueKey: number;
  /** Milliseconds of a sweep that found nothing. */
  idle: number;
  index: string;
}

async function benchSweep(url: string, keys: number): Promise<Sweep[]> {
  const sql = openPool(url, 1);
  const sweeps: Sweep[] = [];
  try {
    await fillAccounts(sql);
    console.log(`sweeping: ${counted(DUE)} keys are due, ${ROUNDS} times`);
    for (let size = 1_000, made = 0; size <= keys; size *= 10) {
      for (; made < size; made += Math.min(size - made, 100_000)) {
        const count = Math.min(size - made, 100_000);
        await fillKeys(sql, { count, from: 86_400, to: YEAR }, false);
      }
      const sweep = await measureSweep(sql, size);
      sweeps.push(sweep);
      const { perDueKey, cpuPerDueKey, idle, index } = sweep;
      const cost = `${perDueKey} us a due key, ${cpuPerDueKey} us of CPU   ${idle} ms idle`;
      console.log(`  ${counted(size).padStart(9)} keys   ${cost}   ${index}`);
    }
    const many = await measureDue(sql, Math.min(keys, MANY));
    console.log(`  ${counted(Math.min(keys, MANY))} due at once: ${many.cpu} us of CPU a due key`);
    return sweeps;
  } finally {
    await sql.end();
  }
}

async function measureSweep(sql: Sql, keys: number): Promise<Sweep> {
  const due: { took: number; cpu: number }[] = [];
  const idle: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    due.push(await measureDue(sql, DUE));
    const start = elapsed();
    await sweepExpiredKeys(sql);
    idle.push(elapsed() - start);
  }
  return {
    ...{ keys, perDueKey: median(due.map((it) => it.took)) },
    cpuPerDueKey: Math.round(due.reduce((sum, it) => sum + it.cpu, 0) / ROUNDS),
    idle: Number(median(idle).toFixed(1)),
    index: await indexOf(sql),
  };
}

/** @returns microseconds for each, as the clock goes and of CPU time */
async function measureDue(sql: Sql, count: number): Promise<{ took: number; cpu: number }> {
  await sql`
    update child_key set expires_at = now() - random() * interval '1 hour'
     where id in (select id from child_key order by md5(id::text || now()) limit ${count})`;
  const { pid } = only(await sql<{ pid: number }[]>`select pg_backend_pid() as pid`);
  const [start, cpu] = [elapsed(), cpuOf([pid])];
  const recorded = await sweepExpiredKeys(sql);
  const [took, spent] = [elapsed() - start, cpuOf([pid]) - cpu];
  if (recorded !== count) throw new Error(`${recorded} recorded, ${count} were due`);
  await sql`
    update child_key set expires_at = now() + interval '1 day' + random() * interval '1 year'
     where expires_at <= now()`;
  return {
    took: Math.round((took * 1_000) / count),
    cpu: Math.round((spent * 1_000_000) / count),
  };
}

const median = (values: number[]): number =>
  percentile(
    values.toSorted((a, b) => a - b),
    50,
  );

/** How the keys that are due are found. */
async function indexOf(sql: Sql): Promise<string> {
  const lines = await sql<{ "QUERY PLAN": string }[]>`
    explain select id, account_id from child_key
     where expires_at <= (select keytoll_clock()) and expires_at is not null
       and status <> 'deleted' and expiry_recorded is distinct from expires_at
     order by expires_at limit 500`;
  const scan = lines.map((line) => line["QUERY PLAN"]).find((line) => / on child_key/.test(line));
  return scan?.replace(/\s*->\s*|\s*\(cost.*/g, "") ?? "no scan of child_key";
}
