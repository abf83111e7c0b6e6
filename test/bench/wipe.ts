import type { Client } from "@temporalio/client";
import { elapsed, now, pause, SECOND } from "../../src/base/time.js";
import type { Sql } from "../../src/db/sql.js";
import { SHARDS, workflowIds } from "../../workflows/contract.js";
import { counted, fillAccounts, fillKeys, openPool, until } from "./keys.js";
import { startBenchTemporal, startBenchWorker } from "./temporal.js";

export interface WipeOptions {
  /** Child keys with an expiry within 30 days. */
  keys: number;
  emptyDatabase: () => Promise<string>;
}

const HOUR_S = 3_600;
const MONTH_S = 30 * 86_400;
/** So many of a hundred are due within the hour. */
const SOON_PERCENT = 2;
const WATCHED_S = 30;
const SURPRISES = 200;

/**
 * How long it takes until a Temporal that was killed and lost its database has Schedules,
 * settlement and the keys due within the hour again, how fast the others follow, and how late a key
 * is recorded that it does not know yet.
 */
export async function benchWipe({ keys, emptyDatabase }: WipeOptions): Promise<object> {
  const url = await emptyDatabase();
  const sql = openPool(url);
  const soon = Math.round((keys * SOON_PERCENT) / 100);
  console.log(`${counted(keys)} keys expire within 30 days, ${counted(soon)} within the hour`);
  await fillAccounts(sql);
  const hour = await fillKeys(sql, { count: soon, from: 600, to: HOUR_S }, false);
  const month = await fillKeys(sql, { count: keys - soon, from: HOUR_S, to: MONTH_S }, false);

  const temporal = await startBenchTemporal();
  const worker = startBenchWorker(url, temporal.address);
  const { client } = temporal;
  try {
    await until("settlement runs", 60, async () => (await settling(client)) === SHARDS.length);
    const schedules = await scheduleCount(client);
    await pause(5 * SECOND);
    await temporal.wipe();
    const start = elapsed();
    const since = () => Number(((elapsed() - start) / SECOND).toFixed(1));

    await until("Schedules", 300, async () => (await scheduleCount(client)) >= schedules);
    const schedulesBack = say(`${schedules} Schedules`, since());
    await until("settlement", 300, async () => (await settling(client)) === SHARDS.length);
    const settlementBack = say("settlement", since());
    const known = () => expiries(client);
    await until("keys due within the hour", 600, async () => (await known()) >= soon);
    const hourBack = say(`${counted(soon)} keys due within the hour`, since());
    await expectKnown(client, hour);

    const [before, at] = [await known(), elapsed()];
    const late = await surprise(sql, month);
    await pause(WATCHED_S * SECOND - (elapsed() - at));
    const perSecond = Math.round(((await known()) - before) / ((elapsed() - at) / SECOND));
    console.log(`  the others follow at ${perSecond} a second`);
    console.log(`  not known yet and expired: recorded by the sweep ${late} s late at the most`);
    return {
      ...{ bench: "wipe", keys, schedulesBack, settlementBack, hourBack, perSecond },
      sweepLate: late,
    };
  } finally {
    await worker.stop();
    await temporal.stop();
    await sql.end();
  }
}

function say(what: string, seconds: number): number {
  console.log(`  ${what} back after ${seconds} s`);
  return seconds;
}

/** Zero while the server does not answer. */
const countOf = async (client: Client, query: string): Promise<number> => {
  try {
    return (await client.workflow.count(query)).count;
  } catch {
    return 0;
  }
};

const settling = (client: Client) =>
  countOf(client, "KeytollJob = 'settlement' and ExecutionStatus = 'Running'");
const expiries = (client: Client) => countOf(client, "KeytollJob = 'key-expiry'");

async function scheduleCount(client: Client): Promise<number> {
  let count = 0;
  try {
    for await (const _ of client.schedule.list()) count += 1;
  } catch {
    return 0;
  }
  return count;
}

async function expectKnown(client: Client, keys: string[]): Promise<void> {
  for (const key of keys.filter((_, i) => i % Math.ceil(keys.length / 50) === 0)) {
    await client.workflow.getHandle(workflowIds.keyExpiry(key)).describe();
  }
}

/**
 * Lets keys expire of which nobody tells Temporal. @returns seconds until the last one is recorded,
 * each once
 */
async function surprise(sql: Sql, keys: string[]): Promise<number> {
  const last = keys.slice(-SURPRISES);
  const at = new Date(now());
  await sql`update child_key set expires_at = ${at} where id = any(${last})`;
  const records = async () =>
    await sql<{ late: number }[]>`
      select extract(epoch from at - ${at}::timestamptz)::float8 as late from audit_event
       where action = 'child_key.expired' and subject = any(${last}) order by 1 desc`;
  await until("the sweep", 180, async () => (await records()).length >= last.length);
  const all = await records();
  if (all.length !== last.length) throw new Error(`${all.length} records of ${last.length} keys`);
  return Math.round(all[0]?.late ?? 0);
}
