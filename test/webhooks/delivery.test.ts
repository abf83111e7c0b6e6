import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { UPDATES, workflowIds } from "../../workflows/contract.js";
import { WEBHOOK_SIGNALS } from "../../workflows/webhook-contract.js";
import { detailsOf, everyHistory } from "../workflows/world.js";
import { type Receiver, startReceiver, verified } from "./receiver.js";
import { anEndpoint, aShop, aWorld, until, use, type World } from "./world.js";

let world: World;
let receiver: Receiver;
beforeAll(async () => {
  world = await aWorld();
});
beforeEach(async () => {
  receiver = await startReceiver();
});
afterEach(() => receiver.stop());
afterAll(() => world?.close());

const LONG = { timeout: 120_000 };
const EVENTS = { events: ["key.created"] };
type Shop = Awaited<ReturnType<typeof aShop>>;

const aKey = (shop: Shop, name = "Client") => world.aChild(shop.token, shop.manager, { name });
const endpointOf = (shop: Shop) => `/api/webhooks/endpoints/${shop.endpoint.id}`;
const see = (shop: Shop) => world.done(`GET ${endpointOf(shop)}`, { bearer: shop.token });
const change = (shop: Shop, body: object) =>
  world.done(`PATCH ${endpointOf(shop)}`, { bearer: shop.token, body });

interface Row {
  id: string;
  sequence: string | null;
  status: string;
  attempts: number;
  last_status: number | null;
  last_error: string | null;
}
/** Deliveries of an endpoint, oldest first. */
async function rows(shop: Shop): Promise<Row[]> {
  const route = `GET ${endpointOf(shop)}/deliveries?limit=100`;
  const { data } = await world.done(route, { bearer: shop.token });
  return (data as Row[]).sort((a, b) => Number(a.sequence) - Number(b.sequence));
}
const lineOf = (shop: Shop) =>
  world.client.workflow.getHandle(workflowIds.webhookEndpoint(shop.endpoint.id));

test(
  "what a receiver missed comes when it is up again, in order, under the same ids",
  LONG,
  async () => {
    const shop = await aShop(world, receiver.url, EVENTS);
    await receiver.stop();
    for (const name of ["A", "B", "C"]) await aKey(shop, name);
    await until(async () =>
      expect((await rows(shop))[0]).toMatchObject({
        ...{ status: "pending", last_error: "the connection was refused", last_status: null },
      }),
    );
    await until(async () =>
      expect(await detailsOf(lineOf(shop))).toMatch(
        /: waiting \d+ s, the connection was refused \(key.created, \d+ tr/,
      ),
    );
    const answers = [503, 500];
    let hung = 0;
    receiver.behaves(() => {
      const status = answers.shift();
      if (status === undefined && hung === 0) hung += 1;
      else return status ?? 200;
      return undefined;
    });
    await receiver.listen();
    await until(async () => expect((await rows(shop))[0]?.last_status).toBe(503));
    await lineOf(shop).signal(WEBHOOK_SIGNALS.retryNow);
    await until(async () => expect((await rows(shop))[0]?.last_status).toBe(500));
    await lineOf(shop).signal(WEBHOOK_SIGNALS.retryNow);
    await until(async () => expect((await rows(shop))[0]?.last_error).toBe("no answer in 12 s"));
    await lineOf(shop).signal(WEBHOOK_SIGNALS.retryNow);
    await until(async () =>
      expect((await rows(shop)).map(({ status }) => status)).toEqual(Array(3).fill("delivered")),
    );
    const names = receiver.received.map(({ body }) => body.data.key?.name);
    expect(names).toEqual(["A", "A", "A", "A", "B", "C"]);
    const first = receiver.received.slice(0, 4);
    expect(new Set(first.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
    expect(new Set(first.map(({ text }) => text)).size).toBe(1);
    for (const it of receiver.received) verified(shop.endpoint.secret, it);
    expect(await see(shop)).toMatchObject({ status: "active", failing_since: null });
  },
);

test("in the grace of a replaced secret both verify, after it only the new one", LONG, async () => {
  const shop = await aShop(world, receiver.url, EVENTS);
  const rotate = async (grace_seconds: number) =>
    String(
      (
        await world.done(`POST ${endpointOf(shop)}/rotate`, {
          ...{ bearer: shop.token, body: { grace_seconds } },
        })
      ).secret,
    );
  const second = await rotate(3_600);
  await aKey(shop);
  await until(() => expect(receiver.received).toHaveLength(1));
  const [one] = receiver.received;
  if (!one) throw new Error("nothing came");
  expect(verified(shop.endpoint.secret, one)).toEqual(verified(second, one));
  expect(one.headers["webhook-signature"]?.split(" ")).toHaveLength(2);

  const third = await rotate(0);
  await aKey(shop);
  await until(() => expect(receiver.received).toHaveLength(2));
  const [, two] = receiver.received;
  if (!two) throw new Error("nothing came");
  verified(third, two);
  for (const old of [shop.endpoint.secret, second]) {
    expect(() => verified(old, two)).toThrow("No matching signature");
  }
  expect(third).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
});

test(
  "a receiver that never answers holds up no other endpoint, and no settlement",
  LONG,
  async () => {
    receiver.behaves(() => undefined);
    const stuck = await aShop(world, receiver.url, EVENTS);
    for (let i = 0; i < 3; i++) await anEndpoint(world, stuck.token, receiver.url);
    const good = await startReceiver();
    const shop = await aShop(world, good.url, EVENTS);
    await aKey(stuck);
    await until(() => expect(receiver.received).toHaveLength(4));
    const { id: child } = await aKey(shop);
    await until(() => expect(good.received).toHaveLength(1));
    // the first try of the others goes on: nobody waited for its end
    expect((await rows(stuck))[0]).toMatchObject({ status: "pending", attempts: 0 });
    expect(await use(world, shop.token, child, 10n)).toBe(200);
    await until(async () => {
      const [account] = await world.sql`
      select settled_seq::int, accrued::int from account where id = ${shop.account}`;
      expect(account).toEqual({ settled_seq: 1, accrued: 0 });
    });
    await good.stop();
  },
);

test(
  "an event that a working receiver refuses lets the others pass after five tries",
  LONG,
  async () => {
    receiver.behaves(({ body }) => (body.data.key?.name === "poison" ? 400 : 200));
    const shop = await aShop(world, receiver.url, EVENTS);
    await aKey(shop, "poison");
    await aKey(shop, "A");
    await until(() => expect(receiver.received.length).toBeGreaterThan(0));
    expect(receiver.received.some(({ body }) => body.data.key?.name === "A")).toBe(false);
    await until(async () => expect((await rows(shop))[1]?.status).toBe("delivered"));
    const [poison] = await rows(shop);
    expect(poison).toMatchObject({ status: "pending", attempts: 5, last_status: 400 });

    const apart = world.client.workflow.getHandle(workflowIds.webhook(poison?.id ?? ""));
    await until(async () =>
      expect(await detailsOf(apart)).toMatch(/waiting \d+ s, last answer 400/),
    );
    const described = await apart.describe();
    expect(described.searchAttributes).toMatchObject({
      ...{ KeytollJob: ["webhook"], KeytollAccount: [shop.account] },
    });
    expect(await described.staticSummary()).toMatch(/^key.created to http:\/\/127.0.0.1:\d+\/…$/);
    const giveUp = (order: object) => apart.executeUpdate(UPDATES.giveUp, { args: [order] });
    await expect(giveUp({ by: "ops", reason: " " })).rejects.toMatchObject({
      cause: { message: "reason: wants 1 to 200 characters" },
    });
    await giveUp({ by: "ops", reason: "the owner will never take it" });
    await until(async () =>
      expect((await rows(shop))[0]).toMatchObject({
        ...{ status: "failed", last_error: expect.stringContaining("will never take it") },
      }),
    );
    const [audit] = await world.sql`
    select actor, change from audit_event where action = 'webhook_delivery.given_up'`;
    expect(audit).toMatchObject({ actor: "admin", change: { by: "ops" } });
  },
);

test(
  "410 disables an endpoint; what happens meanwhile is held, and comes in order when it is resumed",
  LONG,
  async () => {
    receiver.behaves(() => 410);
    const shop = await aShop(world, receiver.url, EVENTS);
    await aKey(shop, "A");
    await until(async () =>
      expect(await see(shop)).toMatchObject({
        ...{ status: "disabled", status_reason: "it answered 410", pending_deliveries: 1 },
      }),
    );
    await aKey(shop, "B");
    expect(await see(shop)).toMatchObject({ pending_deliveries: 2 });
    receiver.behaves(() => 200);
    receiver.received.length = 0;
    expect(await change(shop, { paused: false })).toMatchObject({ status: "active" });
    await until(() =>
      expect(receiver.received.map(({ body }) => body.data.key?.name)).toEqual(["A", "B"]),
    );

    await change(shop, { paused: true });
    await aKey(shop, "C");
    expect(await see(shop)).toMatchObject({ status: "paused", pending_deliveries: 1 });
    await change(shop, { paused: false });
    await until(() => expect(receiver.received).toHaveLength(3));
  },
);

test(
  "an endpoint that took nothing for 72 hours is disabled, with the reason on record",
  LONG,
  async () => {
    receiver.behaves(() => 503);
    const shop = await aShop(world, receiver.url, EVENTS);
    await aKey(shop);
    await until(() => expect(receiver.received.length).toBeGreaterThan(0));
    await until(async () => expect((await see(shop)).failing_since).not.toBeNull());
    await world.sql`
    update webhook_endpoint set failing_since = failing_since - interval '73 hours'
     where id = ${shop.endpoint.id}`;
    await until(async () =>
      expect(await see(shop)).toMatchObject({
        ...{ status: "disabled", status_reason: "72 h in vain: answered 503" },
      }),
    );
    const audit = await world.sql`
    select change from audit_event where subject = ${shop.endpoint.id}
       and action = 'webhook_endpoint.disabled' and actor = 'system'`;
    expect(audit[0]?.change).toEqual({ reason: "72 h in vain: answered 503" });
    await until(async () => expect(await detailsOf(lineOf(shop))).toContain("72 h in vain"));
  },
);

test("redirects are not followed, and an endless answer is not read to its end", LONG, async () => {
  const elsewhere = await startReceiver();
  receiver.behaves((_, response) => {
    response.writeHead(302, { location: elsewhere.url }).end();
    return undefined;
  });
  const shop = await aShop(world, receiver.url, EVENTS);
  await aKey(shop);
  await until(async () => expect((await rows(shop))[0]?.last_error).toBe("answered 302"));
  let written = 0;
  receiver.behaves((_, response) => {
    response.writeHead(200);
    const pour = () => {
      while (!response.destroyed && written < 1e9) {
        written += 65_536;
        if (!response.write(Buffer.alloc(65_536))) return void response.once("drain", pour);
      }
    };
    pour();
    return undefined;
  });
  await lineOf(shop).signal(WEBHOOK_SIGNALS.retryNow);
  await until(async () => expect((await rows(shop))[0]?.status).toBe("delivered"));
  expect(written).toBeLessThan(20_000_000);
  expect(elsewhere.received).toEqual([]);
  await elsewhere.stop();
});

test(
  "an owner tries an endpoint, also a paused one, and has a delivery made again",
  LONG,
  async () => {
    const shop = await aShop(world, receiver.url, EVENTS);
    await change(shop, { paused: true });
    const post = (route: string) => world.rest(`POST ${route}`, { bearer: shop.token });
    expect((await post(`${endpointOf(shop)}/test`)).json).toMatchObject({ type: "webhook.test" });
    await until(() => expect(receiver.ofType("webhook.test")).toHaveLength(1));
    expect(receiver.received[0]?.body).not.toHaveProperty("sequence");
    await change(shop, { paused: false });
    await aKey(shop);
    await until(() => expect(receiver.ofType("key.created")).toHaveLength(1));

    await until(async () => expect((await rows(shop))[1]?.status).toBe("delivered"));
    const made = (await rows(shop)).find(({ sequence }) => sequence === "1");
    const delivery = `${endpointOf(shop)}/deliveries/${made?.id}`;
    expect((await post(`${delivery}/redeliver`)).json).toMatchObject({ status: "pending" });
    await until(() => expect(receiver.ofType("key.created")).toHaveLength(2));
    const [one, again] = receiver.ofType("key.created");
    expect(again?.headers["webhook-id"]).toBe(one?.headers["webhook-id"]);
    expect(again?.text).toBe(one?.text);
    const { payload } = await world.done(`GET ${delivery}`, { bearer: shop.token });
    expect(payload).toBe(one?.text);
  },
);

test("deliveries that nobody sees to any more are taken up again", LONG, async () => {
  const shop = await aShop(world, receiver.url, EVENTS);
  await world.stopWorker();
  await aKey(shop);
  await world.sql`delete from outbox`;
  await world.sql`update webhook_delivery set next_at = next_at - interval '2 minutes'
                   where endpoint_id = ${shop.endpoint.id}`;
  await world.startWorker();
  await until(() => expect(receiver.received).toHaveLength(1));
});

test(
  "no secret and no path of a URL is in Temporal or in the clear in the database",
  LONG,
  async () => {
    expect(await everyHistory(world.client)).not.toMatch(/whsec_|t0ken|g[cm]-[0-9A-Za-z]{20}/);
    const secrets = await world.sql`select sealed from webhook_secret`;
    expect(secrets.length).toBeGreaterThan(5);
    for (const { sealed } of secrets)
      expect(Buffer.from(sealed).toString("latin1")).not.toMatch(/whsec_/);
    const audits = await world.sql`select string_agg(change::text, '') as text from audit_event`;
    expect(audits[0]?.text).not.toMatch(/whsec_|t0ken/);
  },
);

test("metrics count deliveries by outcome, and how long the oldest waits", async () => {
  const { json } = await world.rest("GET /metrics");
  expect(String(json.text)).toMatch(/keytoll_webhook_deliveries_total\{outcome="delivered"\} \d+/);
  expect(String(json.text)).toMatch(/keytoll_webhook_oldest_pending_seconds \d/);
});
