import { type ChildProcess, spawn } from "node:child_process";
import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Id } from "../../src/base/ids.js";
import { KEYTOLL } from "../../src/dev/processes.js";
import { startWorker } from "../../src/worker.js";
import { workflowIds } from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  DATA_DIR,
  quietLog,
  temporalClient,
  use,
  type World,
  within,
} from "./world.js";

/** docker-compose.yml gives a worker 45 s; it wants no more than this. */
const GRACE_MS = 30_000;

let world: World;
let client: Client;
const temporal = { address: temporalAddress(), namespace: "" };
const started: ChildProcess[] = [];

beforeAll(async () => {
  world = await aWorld();
  temporal.namespace = await freshNamespace();
  client = await temporalClient(temporal);
});
afterAll(async () => {
  for (const child of started) child.kill("SIGKILL");
  await client?.connection.close();
  await world?.close();
});

/** `keytoll work`, as it is run in production. */
function startProcess() {
  const { PATH, HOME } = process.env;
  const env = {
    ...{ PATH, HOME, DATABASE_URL: world.databaseUrl, KEYTOLL_DATA_DIR: DATA_DIR },
    ...{ TEMPORAL_ADDRESS: temporal.address, TEMPORAL_NAMESPACE: temporal.namespace },
  };
  const child = spawn(process.execPath, [KEYTOLL, "work"], { env, stdio: "ignore" });
  started.push(child);
  const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
  return { child, ended };
}

/** Something of Postgres waits for a lock that a test has: an activity is under way. */
const anActivityWaits = () =>
  within(60_000, async () =>
    expect(
      await world.sql`
        select from pg_stat_activity where datname = current_database()
           and application_name = 'keytoll worker' and wait_event_type = 'Lock'`,
    ).not.toEqual([]),
  );

const settledOf = async (account: Id) => {
  const [row] = await world.sql`
    select settled_seq::int, (select count(*)::int from settlement_post where account_id = id) as posts
      from account where id = ${account}`;
  return row;
};

/** Stops a worker while it posts an account, which this test has locked until `release`. */
async function stopInMidPost(
  shard: number,
  release: (ended: Promise<unknown>) => Promise<unknown>,
) {
  const { sql, holds } = world;
  const { child, ended } = startProcess();
  const key = await aChild(sql, await anAccount(sql, { shard }));
  await use(holds, key, 3);
  let code: number | null = null;
  let took = 0;
  await sql.begin(async (tx) => {
    await tx`select 1 from account where id = ${key.account} for update`;
    await anActivityWaits();
    const start = performance.now();
    child.kill("SIGTERM");
    const gone = ended.then((it) => {
      code = it;
      took = performance.now() - start;
    });
    await release(gone);
  });
  await ended;
  return { account: key.account, code, took };
}

test("a worker that is told to stop finishes what is under way, and tells Temporal", async () => {
  const { account, code, took } = await stopInMidPost(0, hasBegunToStop);
  expect(code).toBe(0);
  expect(took).toBeLessThan(GRACE_MS);
  expect(await settledOf(account)).toEqual({ settled_seq: 3, posts: 1 });
  const { events } = await client.workflow.getHandle(workflowIds.settlement(0)).fetchHistory();
  const lastScheduled = events?.findLastIndex((it) => it.activityTaskScheduledEventAttributes);
  const lastCompleted = events?.findLastIndex((it) => it.activityTaskCompletedEventAttributes);
  expect(lastCompleted).toBeGreaterThan(lastScheduled ?? 0);
}, 150_000);

/** It listens for nothing new any more. */
const hasBegunToStop = () =>
  within(20_000, async () =>
    expect(
      await world.sql`
        select from pg_stat_activity where datname = current_database()
           and application_name = 'keytoll worker' and query ilike 'listen%'`,
    ).toEqual([]),
  );

test("a worker that cannot finish within its grace ends all the same, and the next one posts it once", async () => {
  const { account, code, took } = await stopInMidPost(1, (ended) => ended);
  expect(took).toBeLessThan(GRACE_MS);
  expect(code).toBe(0);
  const config = configFor(temporal, world.databaseUrl);
  const next = await startWorker({ config, sql: world.sql, log: quietLog });
  await within(60_000, async () =>
    expect(await settledOf(account)).toEqual({ settled_seq: 3, posts: 1 }),
  );
  await next.stop();
}, 180_000);
