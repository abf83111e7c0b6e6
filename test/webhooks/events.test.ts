import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { QUEUES, workflowIds } from "../../workflows/contract.js";
import { detailsOf, setClock } from "../workflows/world.js";
import { type Receiver, startReceiver, verified } from "./receiver.js";
import { aShop, aWorld, until, use, type World } from "./world.js";

let world: World;
let receiver: Receiver;
beforeAll(async () => {
  world = await aWorld();
  receiver = await startReceiver();
});
afterEach(() => {
  receiver.received.length = 0;
});
afterAll(async () => {
  await receiver?.stop();
  await world?.close();
});

const LONG = { timeout: 90_000 };
const keysOf = (shop: { manager: string }) => `/api/management/keys/${shop.manager}/children`;

test("an owner is told of a key's life, signed, in order, each event once", LONG, async () => {
  const shop = await aShop(world, receiver.url);
  const bearer = shop.token;
  const child = await world.aChild(bearer, shop.manager, { limit_daily_ngonka: "5" });
  const at = `${keysOf(shop)}/${child.id}`;
  await world.done(`PATCH ${at}`, { bearer, body: { limit_daily_ngonka: "7", name: "B" } });
  await world.done(`POST ${at}/rotate`, { bearer, body: {} });
  const soon = new Date(Date.now() + 1_500).toISOString();
  await world.done(`PATCH ${at}`, { bearer, body: { expires_at: soon } });
  await until(() => expect(receiver.ofType("key.expired")).toHaveLength(1));
  await world.done(`DELETE ${at}`, { bearer });
  await until(() => expect(receiver.ofType("key.deleted")).toHaveLength(1));

  const payloads = receiver.received.map((it) => verified(shop.endpoint.secret, it));
  expect(payloads.map(({ type }) => type)).toEqual([
    ...["key.created", "key.updated", "key.updated", "key.updated", "key.expired", "key.deleted"],
  ]);
  expect(payloads.map(({ sequence }) => sequence)).toEqual(["1", "2", "3", "4", "5", "6"]);
  expect(payloads.map(({ data }) => data.changed)).toEqual([
    ...[undefined, ["limit_daily_ngonka", "name"], ["secret"], ["expires_at"], undefined],
    undefined,
  ]);
  expect(payloads[1]?.data.key).toMatchObject({
    ...{ kind: "child", id: child.id, management_key_id: shop.manager, name: "B" },
    limit_daily_ngonka: "7",
  });
  expect(new Set(payloads.map(({ id }) => id)).size).toBe(6);
  for (const { headers, body } of receiver.received) expect(headers["webhook-id"]).toBe(body.id);
  expect(JSON.stringify(payloads)).not.toMatch(/g[cm]-[0-9A-Za-z]{10}/);
});

test("a payment is told in its own transaction, with the balance", LONG, async () => {
  const shop = await aShop(world, receiver.url, { events: ["deposit.credited"] });
  await world.done(`POST /api/admin/accounts/${shop.account}/credits`, {
    bearer: world.env.KEYTOLL_ADMIN_TOKEN,
    body: { amount_ngonka: "250", reference: "second" },
  });
  await until(() => expect(receiver.received).toHaveLength(1));
  expect(receiver.received[0]?.body.data).toMatchObject({
    ...{ amount_ngonka: "250", reference: "second", balance_ngonka: "1000000250" },
  });
});

const LIMITS = ["limit.threshold", "limit.reached", "limit.reset"];

test("each mark of a limit is told once a period, and again in the next", LONG, async () => {
  const shop = await aShop(world, receiver.url, { events: LIMITS });
  const { id: child } = await world.aChild(shop.token, shop.manager, { limit_daily_ngonka: "100" });
  const spend = (cost: bigint) => use(world, shop.token, child, cost);
  const percents = () => receiver.ofType("limit.threshold").map((it) => it.body.data.percent);

  expect(await spend(49n)).toBe(200);
  expect(await spend(1n)).toBe(200);
  await until(() => expect(percents()).toEqual([50]));
  expect(receiver.received[0]?.body.data).toMatchObject({
    ...{ child_key_id: child, management_key_id: shop.manager, name: "Client" },
    ...{ limit: "daily", limit_ngonka: "100", used_ngonka: "50" },
  });
  expect(await spend(35n)).toBe(200);
  await until(() => expect(percents()).toEqual([50, 80]));
  expect(receiver.ofType("limit.reached")).toHaveLength(0);

  expect([await spend(16n), await spend(16n)]).not.toContain(200);
  await until(() => expect(receiver.ofType("limit.reached")).toHaveLength(1));
  expect(await spend(15n)).toBe(200);
  await until(() => expect(percents()).toEqual([50, 80, 100]));

  const today = String(receiver.received[0]?.body.data.period);
  const next = new Date(Date.parse(today) + 86_400_000).toISOString().slice(0, 10);
  await setClock(world.sql, `${next}T00:00:05Z`);
  try {
    const workflowId = workflowIds.limitReset({ kind: "day", period: next });
    const args = [{ kind: "day", period: next }];
    const { workflow } = world.client;
    await workflow.execute("limitReset", { workflowId, taskQueue: QUEUES.jobs, args });
    await until(() => expect(receiver.ofType("limit.reset")).toHaveLength(1));
    expect(receiver.ofType("limit.reset")[0]?.body.data).toMatchObject({
      ...{ child_key_id: child, limit: "daily", period: today, used_ngonka: "100", requests: 4 },
    });
    expect(await spend(80n)).toBe(200);
    await until(() => expect(percents()).toEqual([50, 80, 100, 50, 80]));
    expect(receiver.ofType("limit.threshold")[4]?.body.data.period).toBe(next);
    expect(receiver.ofType("limit.reached")).toHaveLength(1);
  } finally {
    await world.sql.unsafe(`create or replace function keytoll_clock() returns timestamptz
      language sql volatile as $$ select clock_timestamp() $$`);
  }
});

test(
  "a low balance and a depleted one are told once, and again after a payment",
  LONG,
  async () => {
    const events = ["balance.low", "balance.depleted"];
    const shop = await aShop(world, receiver.url, { events, paid: "1000" });
    const { id: child } = await world.aChild(shop.token, shop.manager);
    const spend = (cost: bigint) => use(world, shop.token, child, cost);
    const pay = (amount_ngonka: string, reference: string) =>
      world.done(`POST /api/admin/accounts/${shop.account}/credits`, {
        bearer: world.env.KEYTOLL_ADMIN_TOKEN,
        body: { amount_ngonka, reference },
      });
    // By their ids: an event that is told once may arrive twice where an answer comes late
    const types = () => [
      ...new Map(receiver.received.map(({ body }) => [body.id, body.type])).values(),
    ];

    expect(await spend(901n)).toBe(200);
    await until(() => expect(types()).toEqual(["balance.low"]));
    expect(receiver.received[0]?.body.data).toEqual({ balance_ngonka: "99", low_ngonka: "100" });
    expect(await spend(9n)).toBe(200);
    expect(await spend(91n)).not.toBe(200);
    await until(() => expect(types()).toEqual(["balance.low", "balance.depleted"]));

    await pay("5", "too little");
    await world.done("PATCH /api/webhooks/settings", {
      bearer: shop.token,
      body: { balance_low_ngonka: "100" },
    });
    await pay("5", "too little, again");
    await pay("910", "enough");
    expect(await spend(1_010n)).toBe(200);
    await until(() =>
      expect(types().toSorted()).toEqual([
        ...["balance.depleted", "balance.depleted", "balance.low", "balance.low"],
      ]),
    );
    const handle = world.client.workflow.getHandle(workflowIds.webhookEndpoint(shop.endpoint.id));
    await until(async () =>
      expect(await detailsOf(handle)).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/…: nothing waits/),
    );
  },
);
