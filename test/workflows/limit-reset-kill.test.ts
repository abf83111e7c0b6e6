import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { Client } from "@temporalio/client";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Sql, Tx } from "../../src/db/sql.js";
import { KEYTOLL } from "../../src/dev/processes.js";
import { QUEUES, workflowIds } from "../../workflows/contract.js";
import type { limitReset } from "../../workflows/limit-reset.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { TestChild, World } from "./world.js";
import {
  aChild,
  anAccount,
  aWorld,
  DATA_DIR,
  setClock,
  temporalClient,
  use,
  within,
} from "./world.js";

const YESTERDAY = "2026-03-10";
const TODAY = { kind: "day", period: "2026-03-11" } as const;
const LIMIT = 150_000;

let world: World;
let sql: Sql;
let client: Client;
let key: TestChild;
let place: { address: string; namespace: string };
const workers: ChildProcess[] = [];

// Keys and accounts for several pages each, all last used yesterday
beforeEach(async () => {
  world = await aWorld();
  sql = world.sql;
  await setClock(sql, `${YESTERDAY}T12:00:00Z`);
  key = await aChild(sql, await anAccount(sql));
  await use(world.holds, key, 5);
  await sql`
    insert into child_key (id, account_id, management_key_id, name, hint, day, used_daily, month,
                           created_at, updated_at)
    select new_id('2026-01-01'::timestamptz + n * interval '1 second'), ${key.account},
           ${key.managementKey}, 'idle ' || n, 'gc-', ${YESTERDAY}, 1, '2026-03-01', now(), now()
      from generate_series(1, 4500) n`;
  await sql`
    insert into account (id, last_at)
    select new_id('2026-01-01'::timestamptz + n * interval '1 second'), ${`${YESTERDAY}T13:00Z`}
      from generate_series(1, 1200) n`;
  await sql.unsafe(`
    create function wait_for_42() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock(42); return new; end $$;
    create trigger wait before update of finished_at on period_reset
      for each row execute function wait_for_42()`);
  await setClock(sql, "2026-03-11T00:00:05Z");
  place = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(place);
}, 60_000);
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => end(worker, "SIGTERM")));
  await client?.connection.close();
  await world?.close();
});

async function startWorkerProcess(): Promise<ChildProcess> {
  const { PATH, HOME } = process.env;
  const worker = fork(KEYTOLL, ["work"], {
    execArgv: [],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: {
      ...{ PATH, HOME, TZ: "America/New_York", KEYTOLL_LOG_LEVEL: "silent" },
      ...{ KEYTOLL_DATA_DIR: DATA_DIR, DATABASE_URL: world.databaseUrl },
      ...{ TEMPORAL_ADDRESS: place.address, TEMPORAL_NAMESPACE: place.namespace },
    },
  });
  workers.push(worker);
  await once(worker, "message");
  return worker;
}

async function end(worker: ChildProcess, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  if (worker.exitCode !== null || worker.signalCode !== null) return;
  const ended = once(worker, "exit");
  worker.kill(signal);
  await ended;
}

/** The last of the rows that a reset goes through by their ids: others come before it. */
const lastOf = (table: "child_key" | "account") => (tx: Tx) =>
  tx`select from ${tx(table)} where id < ${key.account} order by id desc limit 1 for update`;

const IN_THE_WAY = {
  openPeriod: (tx: Tx) => tx`lock table period_reset in access exclusive mode`,
  rollCounters: lastOf("child_key"),
  sumUpUsage: lastOf("account"),
  tellOfResets: (tx: Tx) => tx`lock table webhook_endpoint in access exclusive mode`,
  closePeriod: (tx: Tx) => tx`select pg_advisory_xact_lock(42)`,
} as const;

type Activity = keyof typeof IN_THE_WAY;

/** Kills the worker while the activity waits for the database in the middle of its work. */
async function killIn(activity: Activity, worker: ChildProcess, between: () => Promise<void>) {
  await sql.begin(async (tx) => {
    await IN_THE_WAY[activity](tx);
    await between();
    const handle = client.workflow.getHandle(workflowIds.limitReset(TODAY));
    await within(60_000, async () => {
      const { raw } = await handle.describe();
      const running = (raw.pendingActivities ?? []).map((it) => it.activityType?.name);
      expect(running).toEqual([activity]);
      const waiting = await sql`
        select from pg_stat_activity where datname = current_database()
           and wait_event_type = 'Lock' and application_name = 'keytoll worker'`;
      expect(waiting.length).toBeGreaterThan(0);
    });
    await end(worker, "SIGKILL");
  });
}

const start = async () =>
  void (await client.workflow.start<typeof limitReset>("limitReset", {
    ...{ workflowId: workflowIds.limitReset(TODAY), taskQueue: QUEUES.jobs, args: [TODAY] },
  }));

async function expectDoneOnce(): Promise<void> {
  const handle = client.workflow.getHandle<typeof limitReset>(workflowIds.limitReset(TODAY));
  const totals = { ended: YESTERDAY, keysRolled: 4_501, requests: 5, costNgonka: "35" };
  expect(await handle.result()).toEqual(totals);
  const rollups = await sql`select day, requests::int, cost::int from usage_rollup`;
  expect([...rollups]).toEqual([{ day: YESTERDAY, requests: 5, cost: 35 }]);
}

test.each(["openPeriod", "tellOfResets", "closePeriod"] as const)(
  "a worker killed in %s: the next one finishes the reset, and all is done once",
  async (activity) => {
    const worker = await startWorkerProcess();
    await killIn(activity, worker, start);
    await startWorkerProcess();
    await expectDoneOnce();
  },
  LIMIT,
);

test(
  "a worker killed while it rolls counters: the next one goes on after the last page",
  async () => {
    const worker = await startWorkerProcess();
    await killIn("rollCounters", worker, start);
    const first = sql`(select id from child_key order by id limit 1)`;
    await sql`update child_key set day = ${YESTERDAY}, used_daily = 9 where id = ${first}`;
    await startWorkerProcess();
    await expectDoneOnce();
    // It was not looked at again
    const [row] = await sql`select day, used_daily::int from child_key where id = ${first}`;
    expect(row).toEqual({ day: YESTERDAY, used_daily: 9 });
  },
  LIMIT,
);

test(
  "a worker killed while it sums up: the next one goes on after the last page of accounts",
  async () => {
    const worker = await startWorkerProcess();
    await killIn("sumUpUsage", worker, start);
    const handle = client.workflow.getHandle(workflowIds.limitReset(TODAY));
    const { raw } = await handle.describe();
    const [reached] = raw.pendingActivities?.[0]?.heartbeatDetails?.payloads ?? [];
    const [page] = await sql`select id from account order by id offset 499 limit 1`;
    expect(Buffer.from(reached?.data ?? []).toString()).toBe(JSON.stringify(page?.id));
    await startWorkerProcess();
    await expectDoneOnce();
  },
  LIMIT,
);
