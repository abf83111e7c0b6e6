import type { Client, WorkflowHandle } from "@temporalio/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Id } from "../../src/base/ids.js";
import { settleNow } from "../../src/temporal/jobs.js";
import { startWorker } from "../../src/worker.js";
import {
  QUERIES,
  QUEUES,
  type SettlementState,
  UPDATES,
  workflowIds,
} from "../../workflows/contract.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import {
  aChild,
  anAccount,
  aWorld,
  breakUsage,
  configFor,
  detailsOf,
  mendUsage,
  quietLog,
  temporalClient,
  use,
  type World,
  within,
} from "./world.js";

const ORDER = { by: "Ada", reason: "looked at it" };

let world: World;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;
const temporal = { address: temporalAddress(), namespace: "" };

beforeAll(async () => {
  world = await aWorld();
  temporal.namespace = await freshNamespace();
  client = await temporalClient(temporal);
  const config = configFor(temporal, world.databaseUrl);
  worker = await startWorker({ config, sql: world.sql, log: quietLog });
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await world?.close();
});

const shardHandle = (shard: number) => client.workflow.getHandle(workflowIds.settlement(shard));
const order = (handle: WorkflowHandle, update: string, args: object) =>
  handle.executeUpdate<unknown, [object]>(update, { args: [args] });
const stateOf = (handle: WorkflowHandle) => handle.query<SettlementState>(QUERIES.state);

const settledOf = async (account: Id) => {
  const [row] = await world.sql`select settled_seq::int from account where id = ${account}`;
  return row?.settled_seq;
};
const audited = (action: string) =>
  world.sql`select actor, subject, change from audit_event where action = ${action}`;

test("a poisoned account is set aside with its reason, others go on, and a retry posts it once it is mended", async () => {
  const { sql, holds } = world;
  const handle = shardHandle(0);
  const [bad, good] = [
    await aChild(sql, await anAccount(sql, { shard: 0 })),
    await aChild(sql, await anAccount(sql, { shard: 0 })),
  ];
  await order(handle, UPDATES.pause, ORDER);
  await use(holds, bad, 3);
  await breakUsage(sql, bad.account);
  await order(handle, UPDATES.resume, ORDER);
  await within(15_000, async () => expect(await detailsOf(handle)).toContain("has a gap"));

  for (const used of [2, 4]) {
    await use(holds, good, 2);
    await settleNow(client);
    await within(10_000, async () => expect(await settledOf(good.account)).toBe(used));
  }
  const [row] = await sql`
    select attempts, next_at > since + interval '29 seconds' as later from settlement_set_aside`;
  expect(row).toEqual({ attempts: 1, later: true });
  expect(await stateOf(handle)).toMatchObject({
    ...{ shard: 0, paused: null, behind: 3 },
    setAside: [{ account: bad.account, reason: expect.stringContaining("has a gap") }],
  });

  const retry = { account: bad.account, ...ORDER };
  expect(await order(handle, UPDATES.retryAccount, retry)).toMatchObject({ kind: "failed" });
  expect(await sql`select attempts from settlement_set_aside`).toEqual([{ attempts: 2 }]);
  await mendUsage(sql, bad.account);
  expect(await order(handle, UPDATES.retryAccount, retry)).toEqual({
    ...{ kind: "settled", records: 3, amountNgonka: "21" },
  });
  expect(await order(handle, UPDATES.retryAccount, retry)).toEqual({ kind: "not_set_aside" });
  await within(10_000, async () => expect(await stateOf(handle)).toMatchObject({ setAside: [] }));
  const entry = { actor: "admin", subject: bad.account, change: expect.objectContaining(ORDER) };
  expect(await audited("settlement.retried")).toEqual([entry, entry]);
});

test("a paused shard posts nothing until it is resumed, and says who paused it and why", async () => {
  const { sql, holds } = world;
  const handle = shardHandle(1);
  const key = await aChild(sql, await anAccount(sql, { shard: 1 }));
  await order(handle, UPDATES.pause, ORDER);
  await use(holds, key, 2);
  await settleNow(client);
  await within(10_000, async () =>
    expect(await detailsOf(handle)).toMatch(/^PAUSED by Ada at .* UTC: looked at it\./),
  );
  expect(await stateOf(handle)).toMatchObject({ paused: ORDER });
  expect(await settledOf(key.account)).toBe(0);

  await order(handle, UPDATES.resume, ORDER);
  await within(10_000, async () => expect(await settledOf(key.account)).toBe(2));
  expect(await detailsOf(handle)).not.toContain("PAUSED");
  for (const action of ["settlement.paused", "settlement.resumed"]) {
    expect(await audited(action)).toContainEqual({
      ...{ actor: "admin", subject: "settlement/1", change: expect.objectContaining(ORDER) },
    });
  }
});

test("an order without who or why, or for another shard's account, is refused before it is recorded", async () => {
  const handle = shardHandle(2);
  const account = await anAccount(world.sql, { shard: 3 });
  const refused = [
    [UPDATES.pause, { by: "Ada" }, "reason: wants 1 to 200 characters"],
    [UPDATES.resume, { reason: "x" }, "by: wants 1 to 100 characters"],
    [UPDATES.pause, { by: "Ada", reason: "x".repeat(201) }, "reason: wants"],
    [UPDATES.retryAccount, ORDER, "account: wants an account's id"],
    [UPDATES.retryAccount, { account, ...ORDER }, "is of shard 3: ask settlement/3"],
  ] as const;
  for (const [update, args, message] of refused) {
    await expect(order(handle, update, args)).rejects.toMatchObject({
      cause: { message: expect.stringContaining(message) },
    });
  }
  const { events } = await handle.fetchHistory();
  expect(events?.filter((it) => it.workflowExecutionUpdateAcceptedEventAttributes)).toEqual([]);
});

test("usage that comes in while a shard has long been idle is posted within seconds", async () => {
  const { sql, holds } = world;
  const handle = shardHandle(2);
  const key = await aChild(sql, await anAccount(sql, { shard: 2 }));
  // 5 + 10 s of idleness: the next pause is 20 s long
  const idleTimers = async () => {
    const { events } = await handle.fetchHistory();
    return events?.filter(
      (it) => Number(it.timerStartedEventAttributes?.startToFireTimeout?.seconds) >= 20,
    );
  };
  await within(25_000, async () => expect(await idleTimers()).not.toEqual([]));
  await use(holds, key, 1);
  await within(6_000, async () => expect(await settledOf(key.account)).toBe(1));
}, 60_000);

test("who and what runs it is seen: the version in the worker's identity, its build and the details", async () => {
  const { taskQueue } = { taskQueue: { name: QUEUES.jobs } };
  const { pollers } = await client.workflowService.describeTaskQueue({
    ...{ namespace: temporal.namespace, taskQueue, taskQueueType: 1 },
  });
  const version = /^keytoll (\d+\.\d+\.\d+\+[0-9a-f]{8}) \d+@/.exec(
    pollers?.[0]?.identity ?? "",
  )?.[1];
  expect(version).toBeDefined();
  expect(await detailsOf(shardHandle(3))).toContain(`code ${version}`);
});
