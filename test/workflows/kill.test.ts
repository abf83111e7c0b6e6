import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { ApplicationFailure, AsyncCompletionClient, type Client } from "@temporalio/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Id, newId } from "../../src/base/ids.js";
import { HOUR, now } from "../../src/base/time.js";
import { checkBooks } from "../../src/check/check.js";
import { nodeArgs } from "../../src/dev/processes.js";
import { captureEnding } from "../../src/holds/delivery/ending.js";
import { openClient } from "../../src/temporal/client.js";
import { allActivities } from "../../src/worker.js";
import { QUEUES, UPDATES, workflowIds } from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import type { Fate } from "./mortal.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  openHold,
  type TestChild,
  temporalClient,
  use,
  type World,
  within,
} from "./world.js";

/** Every activity of our own books and jobs, by how soon a workflow comes to it. */
const STAGES = [
  [
    ...["settleShard", "settleHold", "sweepHolds", "retryAccount", "noteOrder", "openReconcile"],
    ...["recordExpiryIfDue", "recordGraceEndIfDue", "sweepExpiredKeys", "reannounceKeys"],
    ...["openPeriod", "makePartitions"],
  ],
  ["sweepEndedGraces", "rollCounters", "proveBooks"],
  ["sumUpUsage", "examineBacklog"],
  ["tellOfResets", "closeReconcile"],
  ["closePeriod"],
];

const MORTAL = fileURLToPath(new URL("mortal.ts", import.meta.url));
const ORDER = { by: "Ada", reason: "looked at it" };
const today = new Date(now()).toISOString().slice(0, 10);

let world: World;
let client: Client;
const children: ChildProcess[] = [];
const place = { address: temporalAddress(), namespace: "" };

beforeAll(async () => {
  world = await aWorld();
  place.namespace = await freshNamespace();
  client = await temporalClient(place);
});
afterAll(async () => {
  for (const child of children) child.kill("SIGKILL");
  await client?.connection.close();
  await world?.close();
});

/** Runs a worker until each of these activities has done its work, then kills it. */
async function killAfter(lostIn: readonly string[]): Promise<void> {
  const { lost, child } = await startMortal(lostIn);
  await within(60_000, async () => expect(lostIn.filter((name) => !lost.has(name))).toEqual([]));
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("exit", resolve));
  await failWhatIsLost();
}

async function startMortal(lostIn: readonly string[]) {
  const fate: Fate = { place, databaseUrl: world.databaseUrl, lostIn: [...lostIn] };
  const [file = "", ...rest] = nodeArgs(MORTAL).slice(2);
  const execArgv = nodeArgs(MORTAL).slice(0, 2);
  const child = fork(file, [...rest, JSON.stringify(fate)], { execArgv });
  children.push(child);
  const lost = new Set<string>();
  child.on("message", (message: { lost?: string }) => {
    if (message.lost) lost.add(message.lost);
  });
  return { lost, child };
}

/** Says at once what the server finds out by its timeouts: these attempts are gone. */
async function failWhatIsLost(): Promise<void> {
  const completion = new AsyncCompletionClient({
    connection: client.connection,
    namespace: place.namespace,
  });
  for await (const { workflowId } of client.workflow.list({
    query: "ExecutionStatus = 'Running'",
  })) {
    const { raw } = await client.workflow.getHandle(workflowId).describe();
    for (const { activityId } of raw.pendingActivities ?? []) {
      const attempt = { workflowId, activityId: activityId ?? "" };
      const failure = ApplicationFailure.create({ message: "its worker was killed" });
      await completion.fail(attempt, failure).catch(() => {}); // one that was not begun
    }
  }
}

const start = (type: string, workflowId: string, ...args: unknown[]) =>
  client.workflow.start(type, { workflowId, taskQueue: QUEUES.jobs, args });

interface Jobs {
  finishing: Promise<unknown>[];
  ordered: Promise<unknown>[];
  key: TestChild;
  poisoned: Id;
  hold: Id;
}

/** Has something to do for every activity. */
async function begin({ sql, holds }: World): Promise<Jobs> {
  const key = await aChild(sql, await anAccount(sql, { shard: 0 }));
  await use(holds, key, 5);
  const poisoned = await aChild(sql, await anAccount(sql, { shard: 0 }));
  await use(holds, poisoned, 3);
  await sql`
    insert into settlement_set_aside (account_id, reason, next_at)
    values (${poisoned.account}, 'had a gap', keytoll_clock() + interval '1 hour')`;
  const hold = await openHold(holds, key);
  const expired = await aChild(sql, key.account, { expiresAt: new Date(now() - HOUR) });
  const ref = { keyId: expired.child, accountId: key.account, name: "x", hint: "x" };
  const ending = captureEnding({
    ...{ account: key.account, id: hold, cost: 7n, inputTokens: 3n, outputTokens: 4n },
    ...{ estimated: false, fingerprint: 2n },
  });
  const settlement = await start("settlement", workflowIds.settlement(0), 0);
  const handles = [
    await start("settleHold", workflowIds.settleHold(hold), ending),
    await start("holdRecovery", "hold-recovery"),
    await start("reconcile", "reconcile", { day: today }),
    await start("keyExpiry", workflowIds.keyExpiry(expired.child), ref),
    await start("keyGrace", `key-grace/${expired.child}`, ref),
    await start("keyReannounce", "key-reannounce"),
    await start("expirySweep", "expiry-sweep"),
    await start("limitReset", "limit-reset", { kind: "day", period: today }),
    await start("partitions", "partitions"),
  ];
  const order = (update: string, args: object) =>
    settlement.executeUpdate<unknown, [object]>(update, { args: [args], updateId: newId() });
  return {
    finishing: handles.map((handle) => handle.result()),
    ordered: [
      order(UPDATES.retryAccount, { account: poisoned.account, ...ORDER }),
      order(UPDATES.resume, ORDER),
    ],
    ...{ key, poisoned: poisoned.account, hold },
  };
}

test("a worker that is killed in any activity, its work done and its answer lost, does nothing twice", async () => {
  const { client: lazy, close } = openClient(place);
  const { jobs, books } = allActivities(world.sql, lazy, configFor(place, world.databaseUrl));
  await close();
  expect(STAGES.flat().sort()).toEqual([...Object.keys(jobs), ...Object.keys(books)].sort());

  const { finishing, ordered, key, poisoned, hold } = await begin(world);
  for (const stage of STAGES) await killAfter(stage);
  await startMortal([]);
  await Promise.all(finishing);
  expect(await Promise.all(ordered)).toMatchObject([{ kind: "settled" }, undefined]);

  const { sql } = world;
  await within(15_000, async () =>
    expect(await sql`select id from account where usage_seq > settled_seq`).toEqual([]),
  );
  const journal = await sql`
    select debit_account as account, sum(amount)::int as amount from transfer
     where kind = 'settlement' group by 1 order by 2`;
  expect(journal).toEqual([
    { account: poisoned, amount: 21 },
    { account: key.account, amount: 42 },
  ]);
  expect(await sql`select cost::int, outcome from ended_hold where id = ${hold}`).toEqual([
    { cost: 7, outcome: "captured" },
  ]);
  const audit = await sql`
    select action, count(*)::int as times from audit_event
     where action in ('child_key.expired', 'settlement.resumed', 'settlement.retried') group by 1
     order by 1`;
  expect(audit.map((it) => it.times)).toEqual([1, 1, 1]);
  const days = await sql`select period, finished_at is not null as done from period_reset`;
  expect(days).toEqual([{ period: today, done: true }]);
  expect(await sql`select day, differences from reconcile_run`).toEqual([
    { day: today, differences: 0 },
  ]);
  expect((await checkBooks(sql)).flatMap((it) => it.violations)).toEqual([]);
}, 420_000);
