import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { findBacklog } from "../src/check/backlog.js";
import { proveBooks } from "../src/check/check.js";
import { newestRuns, openDifferences } from "../src/check/reconcile-store.js";
import { startWorker } from "../src/worker.js";
import { QUERIES, QUEUES, type Reconciled, type ReconcileOrder } from "../workflows/contract.js";
import { freshNamespace, temporalAddress } from "./support/services.js";
import {
  aChild,
  anAccount,
  aWorld,
  configFor,
  detailsOf,
  openHold,
  quietLog,
  temporalClient,
  use,
  type World,
  within,
} from "./workflows/world.js";

let world: World;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;
const temporal = { address: temporalAddress(), namespace: "" };
let runs = 0;

beforeAll(async () => {
  world = await aWorld();
  temporal.namespace = await freshNamespace();
  client = await temporalClient(temporal);
  const config = configFor(temporal, world.databaseUrl);
  worker = await startWorker({ config, sql: world.sql, log: quietLog });
});
beforeEach(() => world.sql`truncate reconcile_run, reconcile_finding`);
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await world?.close();
});

const aRun = () => `reconcile by hand ${++runs}`;
const reconcile = (order: ReconcileOrder = {}, workflowId = aRun()): Promise<Reconciled> =>
  client.workflow.execute("reconcile", {
    ...{ workflowId, taskQueue: QUEUES.jobs, args: [order] },
  });
const today = () => new Date().toISOString().slice(0, 10);

/** All that is captured is posted, and no other pass is under way. */
const atRest = () =>
  within(15_000, async () =>
    expect(await world.sql`select from account where usage_seq > settled_seq`).toEqual([]),
  );

test("a day whose books are right is told in one line, once, and is the next check's checkpoint", async () => {
  const { sql, holds } = world;
  await use(holds, await aChild(sql, await anAccount(sql)), 12);
  await atRest();
  const workflowId = aRun();
  const done = await reconcile({}, workflowId);
  expect(done).toEqual({
    ...{ day: today(), invariants: 12, records: 12, whole: true, differences: [], count: 0 },
  });
  const handle = client.workflow.getHandle(workflowId);
  expect(await detailsOf(handle)).toBe(`${today()}: 12 invariants, 12 records, 0 differences`);
  expect(await handle.query(QUERIES.state)).toMatchObject({ done });
  expect((await handle.describe()).searchAttributes).toMatchObject({
    ...{ KeytollJob: ["reconcile"], KeytollPeriod: [today()] },
  });
  const verdict = await proveBooks(sql, { whole: false, note: false });
  expect(verdict).toMatchObject({ ok: true, from: { holds: 12n }, records: 0n });
});

test("a second run of a day that is done changes nothing, unless it is asked to look again", async () => {
  const first = await reconcile({ day: "2026-11-22" });
  const before = await newestRuns(world.sql, 5);
  const workflowId = aRun();
  expect(await reconcile({ day: "2026-11-22" }, workflowId)).toEqual(first);
  expect(await detailsOf(client.workflow.getHandle(workflowId))).toMatch(/^done before\n\n2026-11/);
  expect(await newestRuns(world.sql, 5)).toEqual(before);
  expect(before).toMatchObject([{ day: "2026-11-22", passes: 1, finished: true }]);
  await reconcile({ day: "2026-11-22", again: true });
  expect(await newestRuns(world.sql, 5)).toMatchObject([{ day: "2026-11-22", passes: 2 }]);
});

test("a counter that is wrong is one difference with its row, for as long as it is wrong", async () => {
  const { sql, holds } = world;
  const { child, account } = await aChild(sql, await anAccount(sql));
  await sql`update child_key set used_total = used_total + 5 where id = ${child}`;
  const found = await reconcile();
  expect(found.differences).toEqual([
    { invariant: 3, subject: child, reason: expect.stringContaining(child) },
  ]);
  const [first] = await openDifferences(sql, 9);

  await sql`update child_key set used_total = used_total + 1 where id = ${child}`;
  await sql`update account set posted = posted + 1 where id = ${account}`;
  const again = await reconcile({ again: true });
  expect(again.differences.map((it) => [it.invariant, it.subject])).toEqual([
    [2, account],
    [3, child],
  ]);
  const now = (await openDifferences(sql, 9)).find((it) => it.subject === child);
  expect(now).toMatchObject({ id: first?.id, firstSeen: first?.firstSeen });
  expect(now?.reason).not.toBe(first?.reason);

  await sql`update child_key set used_total = 0 where id = ${child}`;
  await sql`update account set posted = posted - 1 where id = ${account}`;
  expect(await reconcile({ again: true })).toMatchObject({ count: 0 });
  const resolved = await sql`select from reconcile_finding where resolved_at is not null`;
  expect(resolved).toHaveLength(2);
  await use(holds, { account, child, managementKey: "", secret: "", hint: "" }, 1);
});

test("what waits too long or was set aside is named: holds, outbox entries, accounts", async () => {
  const { sql, holds } = world;
  const key = await aChild(sql, await anAccount(sql));
  await sql`
    insert into settlement_set_aside (account_id, reason, next_at)
    values (${key.account}, 'usage has a gap', keytoll_clock() + interval '1 hour')`;
  await sql`
    insert into outbox (kind, key, set_aside, last_error, created_at) values
      ('note', 'poison', true, 'no such thing', keytoll_clock()),
      ('note', 'slow', false, null, keytoll_clock() - interval '1 hour')`;
  await sql`update outbox set next_at = keytoll_clock() + interval '1 hour' where key = 'slow'`;
  const { count, differences } = await reconcile();
  expect(count).toBe(3);
  expect(differences.map((it) => it.reason)).toEqual([
    expect.stringMatching(/^outbox entry \d+ \(note poison\) was set aside: no such thing$/),
    expect.stringMatching(/^outbox entry \d+ \(note slow\) waits for 36\d\d s: no relay took it$/),
    expect.stringMatching(`^account ${key.account} cannot be settled since .*: usage has a gap$`),
  ]);
  await sql`delete from outbox`;
  await sql`update settlement_set_aside set settled_at = keytoll_clock()`;

  const hold = await openHold(holds, key, 600);
  const late = sql.begin(async (tx) => {
    await tx`
      update open_hold set deadline = keytoll_clock() - interval '5 minutes' where id = ${hold}`;
    throw await findBacklog(tx, 0); // no sweep may see it
  });
  await expect(late).rejects.toEqual([
    {
      invariant: 0,
      subject: hold,
      reason: expect.stringMatching(/is open 300 s past its deadline/),
    },
  ]);
  expect(await reconcile({ again: true })).toMatchObject({ count: 0 });
});

test("the Schedule compares the day of its own time, however late it runs", async () => {
  const schedule = client.schedule.getHandle("reconcile");
  const start = new Date("2026-11-20T00:00:00Z");
  const end = new Date("2026-11-21T02:00:00Z");
  await schedule.backfill({ start, end, overlap: "BUFFER_ALL" });
  await within(20_000, async () =>
    expect((await newestRuns(world.sql, 9)).map((it) => [it.day, it.finished])).toEqual([
      ["2026-11-21", true],
      ["2026-11-20", true],
    ]),
  );
});
