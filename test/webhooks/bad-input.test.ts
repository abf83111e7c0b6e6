import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { outcomeOfRest } from "../bad-input/wires.js";
import { aShop, aWorld, type World } from "./world.js";

let world: World;
let mine: Awaited<ReturnType<typeof aShop>>;
let theirs: Awaited<ReturnType<typeof aShop>>;
let delivery: string;
let others: string;
let gm: string;
let gc: string;
let before: string;
const URL_OK = "http://127.0.0.1:9/hook";
const ROOT = "/api/webhooks/endpoints";

beforeAll(async () => {
  world = await aWorld();
  await world.stopWorker();
  mine = await aShop(world, URL_OK, { events: ["key.created"] });
  theirs = await aShop(world, URL_OK, { events: ["key.created"] });
  const manager = await world.aManagementKey(mine.token);
  gm = manager.secret;
  gc = (await world.aChild(mine.token, manager.id)).secret;
  await world.aChild(theirs.token, theirs.manager);
  const idOf = async (endpoint: string) =>
    String(
      (await world.sql`select id from webhook_delivery where endpoint_id = ${endpoint}`)[0]?.id,
    );
  delivery = await idOf(mine.endpoint.id);
  others = await idOf(theirs.endpoint.id);
  before = await digest();
});
afterEach(async () => expect(await digest()).toBe(before));
afterAll(() => world?.close());

async function digest(): Promise<string> {
  const [row] = await world.sql`
    select md5(
      (select string_agg(t::text, '|' order by t::text) from webhook_endpoint t)
      || (select string_agg(t::text, '|' order by t::text) from webhook_secret t)
      || (select string_agg(t::text, '|' order by t::text) from webhook_delivery t)
      || (select string_agg(t::text, '|' order by t::text) from webhook_event t)
      || coalesce((select string_agg(t::text, '|' order by t::text) from webhook_setting t), '')
      || (select count(*) from outbox)) as digest`;
  return String(row?.digest);
}

const INVALID = { status: 400, reason: "invalid_request_error" };
const ask = async (route: string, body?: unknown, bearer = mine.token) =>
  outcomeOfRest(await world.rest(route, { bearer, ...(body !== undefined && { body }) }));

type Row = [what: string, body: unknown, param: string | undefined];

describe("creating an endpoint is refused for", () => {
  const rows: Row[] = [
    ["no url", {}, "url"],
    ["a url that is null", { url: null }, "url"],
    ["a url that is a number", { url: 5 }, "url"],
    ["a url that is none", { url: "example" }, "url"],
    ["a private target", { url: "http://10.0.0.1/" }, "url"],
    ["another scheme", { url: "ftp://127.0.0.1/" }, "url"],
    ["a url with a password", { url: "http://a:b@127.0.0.1/" }, "url"],
    ["half a surrogate pair", '{"url":"http://127.0.0.1/\\ud800"}', "url"],
    ["events that are no list", { url: URL_OK, events: "key.created" }, "events"],
    ["an unknown event", { url: URL_OK, events: ["key.created", "key.gone"] }, "events[1]"],
    ["an event that nothing sends yet", { url: URL_OK, events: ["statement.ready"] }, "events[0]"],
    ["the event of tests", { url: URL_OK, events: ["webhook.test"] }, "events[0]"],
    ["an event that is a number", { url: URL_OK, events: [1] }, "events[0]"],
    ["an unknown field", { url: URL_OK, secret: "whsec_mine" }, "secret"],
    ["malformed JSON", '{"url":', undefined],
    ["a list", "[]", "body"],
  ];
  test.each(rows)("%s", async (_, body, param) => {
    expect(await ask(`POST ${ROOT}`, body)).toEqual({ ...INVALID, param });
  });
});

describe("changing an endpoint is refused for", () => {
  const rows: Row[] = [
    ["nothing to change", {}, "body"],
    ["a url that is null", { url: null }, "url"],
    ["an empty url", { url: "" }, "url"],
    ["a private target", { url: "http://192.168.1.1/" }, "url"],
    ["an unknown event", { events: ["x"] }, "events[0]"],
    ["paused that is null", { paused: null }, "paused"],
    ["paused that is a text", { paused: "true" }, "paused"],
    ["its status", { status: "active" }, "status"],
    ["its id", { endpoint_id: newId() }, "endpoint_id"],
    ["a mask", { update_mask: "url" }, "update_mask"],
  ];
  test.each(rows)("%s", async (_, body, param) => {
    expect(await ask(`PATCH ${ROOT}/${mine.endpoint.id}`, body)).toEqual({ ...INVALID, param });
  });
});

describe("settings are refused for", () => {
  const rows: Row[] = [
    ["nothing to change", {}, "body"],
    ["an amount as a number", { balance_low_ngonka: 5 }, "balance_low_ngonka"],
    ["an amount below zero", { balance_low_ngonka: "-5" }, "balance_low_ngonka"],
    ["0 percent", { limit_threshold_percents: [0] }, "limit_threshold_percents[0]"],
    ["101 percent", { limit_threshold_percents: [50, 101] }, "limit_threshold_percents[1]"],
    ["half a percent", { limit_threshold_percents: [0.5] }, "limit_threshold_percents[0]"],
    [
      "too many",
      { limit_threshold_percents: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] },
      "limit_threshold_percents",
    ],
    ["an unknown field", { balance: "5" }, "balance"],
  ];
  test.each(rows)("%s", async (_, body, param) => {
    expect(await ask("PATCH /api/webhooks/settings", body)).toEqual({ ...INVALID, param });
  });
});

test.each<[string, object, string]>([
  ["rotate", { grace_seconds: -1 }, "grace_seconds"],
  ["rotate", { grace_seconds: 2_592_001 }, "grace_seconds"],
  ["rotate", { grace_seconds: "60" }, "grace_seconds"],
  ["rotate", { grace: 60 }, "grace"],
  ["test", { type: "key.created" }, "type"],
])("%s with %j is refused by the field's name", async (verb, body, param) => {
  expect(await ask(`POST ${ROOT}/${mine.endpoint.id}/${verb}`, body)).toEqual({
    ...INVALID,
    param,
  });
});

test.each<[string, string]>([
  ["limit=0", "limit"],
  ["limit=101", "limit"],
  ["limit=x", "limit"],
  ["cursor=!!", "cursor"],
  ["status=waiting", "status"],
  ["type=key.created", "type"],
])("a list of deliveries with %s is refused by the parameter's name", async (query, param) => {
  const route = `GET ${ROOT}/${mine.endpoint.id}/deliveries?${query}`;
  expect(await ask(route)).toEqual({ ...INVALID, param });
});

test("another owner's endpoint, delivery, and what is no id at all, are not there", async () => {
  const [my, their] = [`${ROOT}/${mine.endpoint.id}`, `${ROOT}/${theirs.endpoint.id}`];
  const routes: [string, unknown?][] = [
    [`GET ${their}`],
    [`PATCH ${their}`, { paused: true }],
    [`DELETE ${their}`],
    [`POST ${their}/rotate`, {}],
    [`POST ${their}/test`, {}],
    [`GET ${their}/deliveries`],
    [`GET ${their}/deliveries/${others}`],
    [`POST ${their}/deliveries/${others}/redeliver`],
    [`GET ${my}/deliveries/${others}`],
    [`POST ${my}/deliveries/${others}/redeliver`],
    [`GET ${their}/deliveries/${delivery}`],
    [`GET ${ROOT}/${newId()}`],
    [`GET ${my}/deliveries/${newId()}`],
    [`GET ${ROOT}/x`],
    [`GET ${my}/deliveries/1`],
  ];
  for (const [route, body] of routes) {
    expect(await ask(route, body), route).toMatchObject({ status: 404, reason: "not_found" });
  }
});

test("only an owner's token may have to do with webhooks", async () => {
  const routes = [`GET ${ROOT}`, `POST ${ROOT}`, "GET /api/webhooks/settings"];
  for (const route of routes) {
    const body = route.startsWith("POST") ? { url: URL_OK } : undefined;
    for (const key of [gm, gc]) {
      expect(await ask(route, body, key)).toMatchObject({ status: 403, reason: "wrong_key_kind" });
    }
    expect(await ask(route, body, "nonsense")).toMatchObject({ status: 401 });
  }
});

test("RPC refuses the same, and unknown fields too", async () => {
  const call = async (method: string, body: object) => {
    const { status, json } = await world.rest(`POST /keytoll.v1.WebhookService/${method}`, {
      ...{ bearer: mine.token, body, headers: { "content-type": "application/json" } },
    });
    return [status, json.code];
  };
  const endpointId = mine.endpoint.id;
  const rows: [string, object, unknown[]][] = [
    ["CreateEndpoint", { url: "http://10.0.0.1/" }, [400, "invalid_argument"]],
    ["CreateEndpoint", { url: URL_OK, nonsense: 1 }, [400, "invalid_argument"]],
    ["UpdateEndpoint", { endpointId, paused: true }, [400, "invalid_argument"]],
    ["UpdateEndpoint", { endpointId, updateMask: "status" }, [400, "invalid_argument"]],
    ["UpdateEndpoint", { endpointId, updateMask: "paused" }, [400, "invalid_argument"]],
    ["UpdateSettings", { updateMask: "nothing" }, [400, "invalid_argument"]],
    ["ListDeliveries", { endpointId, status: 9 }, [400, "invalid_argument"]],
    ["ListDeliveries", { endpointId, status: 0 }, [400, "invalid_argument"]],
    ["GetEndpoint", {}, [400, "invalid_argument"]],
    ["GetEndpoint", { endpointId: theirs.endpoint.id }, [404, "not_found"]],
    ["Redeliver", { endpointId, deliveryId: others }, [404, "not_found"]],
    ["RotateEndpointSecret", { endpointId, graceSeconds: -5 }, [400, "invalid_argument"]],
  ];
  for (const [method, body, expected] of rows) {
    expect(await call(method, body), `${method} ${JSON.stringify(body)}`).toEqual(expected);
  }
});

test("lists go by pages, an account has 20 endpoints at most, and a removed one is gone", async () => {
  const { token } = await aShop(world, URL_OK);
  const one = async () =>
    await world.rest(`POST ${ROOT}`, { bearer: token, body: { url: URL_OK } });
  for (let i = 1; i < 20; i++) expect((await one()).status).toBe(201);
  expect(outcomeOfRest(await one())).toEqual({ ...INVALID, param: "url" });

  const seen: string[] = [];
  let cursor: unknown = "";
  do {
    const page = await world.done(`GET ${ROOT}?limit=7&cursor=${cursor}`, { bearer: token });
    seen.push(...(page.data as { id: string }[]).map(({ id }) => id));
    cursor = page.next_cursor;
  } while (cursor !== null);
  expect(seen).toHaveLength(20);
  expect(seen).toEqual([...new Set(seen)].sort().reverse());
  for (const id of seen) await world.done(`DELETE ${ROOT}/${id}`, { bearer: token });
  expect((await world.done(`GET ${ROOT}`, { bearer: token })).data).toEqual([]);
  expect(await ask(`GET ${ROOT}/${seen[0]}`, undefined, token)).toMatchObject({ status: 404 });
  const left = await world.sql`
    select length(sealed) as bytes from webhook_secret where endpoint_id = any(${seen})`;
  expect(left.map(({ bytes }) => bytes)).toEqual(Array(20).fill(0));
  before = await digest();
});
