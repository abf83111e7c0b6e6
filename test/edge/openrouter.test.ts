import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newId } from "../../src/base/ids.js";
import { DAY, HOUR, now } from "../../src/base/time.js";
import { createHolds } from "../../src/holds/engine.js";
import { closePeriod, openPeriod, readPeriod, rollCounters } from "../../src/holds/periods.js";
import { usedThisWeek } from "../../src/holds/weeks.js";
import { getChildKey } from "../../src/keys/child-keys.js";
import {
  captureOf,
  expectBooksAreRight,
  holdOf,
  openBooks,
  openDatabase,
  setClock,
} from "../support/books.js";
import {
  ADMIN,
  type LiveGateway,
  type RestAnswer,
  restClient,
  startLiveGateway,
} from "../support/live-gateway.js";

type Json = Record<string, unknown>;

const KEYS = "/api/v1/keys";
const FIELDS = [
  ...["hash", "name", "label", "disabled", "limit", "limit_remaining", "limit_reset"],
  ...["limit_daily", "limit_monthly", "limit_total", "include_byok_in_limit"],
  ...["usage", "usage_daily", "usage_weekly", "usage_monthly"],
  ...["byok_usage", "byok_usage_daily", "byok_usage_weekly", "byok_usage_monthly"],
  ...["created_at", "updated_at", "expires_at", "creator_user_id", "external_user", "workspace_id"],
];

let gateway: LiveGateway;
let owner: { account: string; token: string };
let gm: { id: string; secret: string };
let readOnly: { id: string; secret: string };
let sibling: { id: string; secret: string };
let stranger: { id: string; secret: string };
beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
  owner = await gateway.anOwner("owner@example.com", "1000000000");
  gm = await gateway.aManagementKey(owner.token);
  readOnly = await gateway.aManagementKey(owner.token, { access: "read_only" });
  sibling = await gateway.aManagementKey(owner.token);
  const other = await gateway.anOwner("other@example.com", "5");
  stranger = await gateway.aManagementKey(other.token);
});
afterAll(async () => {
  await expectBooksAreRight(gateway.sql);
  await gateway.close();
});

const call = (route: string, body?: unknown, bearer = gm.secret) =>
  gateway.rest(route, { bearer, ...(body !== undefined && { body }) });

async function made(body: Json | string, bearer = gm.secret) {
  const { status, json } = await call(`POST ${KEYS}`, body, bearer);
  expect([status, json.error]).toEqual([201, undefined]);
  const data = json.data as Json;
  return { data, hash: String(data.hash), key: String(json.key) };
}

async function changed(hash: string, body: Json | string): Promise<Json> {
  const { status, json } = await call(`PATCH ${KEYS}/${hash}`, body);
  expect([status, json.error]).toEqual([200, undefined]);
  return json.data as Json;
}

/** Status, our own word, and the field at fault. */
function refusal({ status, json }: RestAnswer) {
  const { code, metadata } = json.error as { code: number; metadata: Json };
  expect(code).toBe(status);
  return [status, metadata.code, metadata.param];
}

const invalid = (param: string) => [400, "invalid_request_error", param];

/** A child as our own REST shows it. */
const inRest = async (hash: string) => {
  const id = hash.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  const path = `/api/management/keys/${gm.id}/children/${id}`;
  return await gateway.done(`GET ${path}`, { bearer: owner.token });
};

describe("a key that is created", () => {
  test("has every field that OpenRouter's clients check, and its secret once", async () => {
    const { data, hash, key } = await made({ name: "Client B", limit: 1.5 });
    expect(Object.keys(data).sort()).toEqual([...FIELDS].sort());
    expect(hash).toMatch(/^[0-9a-f]{32}$/);
    expect(data).toMatchObject({ label: `gc-...${key.slice(-4)}`, workspace_id: gm.id });
    const { status, json } = await call(`GET ${KEYS}/${hash}`);
    expect([status, json]).toEqual([200, { data }]);
    expect(JSON.stringify(json)).not.toContain(key);
  });

  test.each([
    ["daily", { limit_daily: 0.25, limit_monthly: null, limit_total: null }],
    ["monthly", { limit_daily: null, limit_monthly: 0.25, limit_total: null }],
    [null, { limit_daily: null, limit_monthly: null, limit_total: 0.25 }],
  ])("with limit_reset %s has the limit of that period alone", async (limit_reset, limits) => {
    const { data, hash } = await made({ name: "Client B", limit: 0.25, limit_reset });
    expect(data).toMatchObject({ limit: 0.25, limit_remaining: 0.25, limit_reset, ...limits });
    const period = limit_reset ?? "total";
    expect(await inRest(hash)).toMatchObject({ [`limit_${period}_ngonka`]: "250000000" });
  });

  test("without a limit has none, whichever way that is said", async () => {
    for (const body of [{}, { limit: null }, { limit: null, limit_reset: null }]) {
      const { data } = await made({ name: "Client B", ...body });
      expect(data).toMatchObject({ limit: null, limit_remaining: null, limit_reset: null });
    }
  });

  test("takes its limit to the last digit as it is written, not as a double has it", async () => {
    const { hash } = await made('{"name": "Exact", "limit": 1234567890.123456789}');
    expect(await inRest(hash)).toMatchObject({ limit_total_ngonka: "1234567890123456789" });
    await changed(hash, '{"limit": 3, "l\\u0069mit": 0.1000000019}');
    expect(await inRest(hash)).toMatchObject({ limit_total_ngonka: "100000001" });
  });

  test("expires at a time in UTC", async () => {
    const { data } = await made({ name: "Short", expires_at: "2099-01-01T00:00:00Z" });
    expect(data.expires_at).toBe("2099-01-01T00:00:00.000Z");
  });

  test("with an Idempotency-Key is created once, and shows its secret again", async () => {
    const headers = { "idempotency-key": "once" };
    const body = { name: "Once", limit: 2 };
    const ask = (more = {}) =>
      gateway.rest(`POST ${KEYS}`, { bearer: gm.secret, body: { ...body, ...more }, headers });
    const answers = [await ask(), await ask()];
    expect(answers.map(({ status }) => status)).toEqual([201, 201]);
    expect(answers[1]?.json).toEqual(answers[0]?.json);
    expect(answers[1]?.headers.get("idempotent-replayed")).toBe("true");
    const conflict = await ask({ limit: 3 });
    expect(refusal(conflict)).toEqual([409, "idempotency_conflict", undefined]);
  });

  test("is as welcome from a key in x-api-key", async () => {
    const headers = { "x-api-key": gm.secret };
    const { status } = await gateway.rest(`POST ${KEYS}`, { body: { name: "X" }, headers });
    expect(status).toBe(201);
  });

  const good = { name: "Client B" };
  test.each<[string, unknown, string]>([
    ["no name", { limit: 1 }, "name"],
    ["a blank name", { name: " " }, "name"],
    ["a name that is a number", { name: 5 }, "name"],
    ["a limit as text", { ...good, limit: "1" }, "limit"],
    ["a limit below zero", { ...good, limit: -0.1 }, "limit"],
    ["a limit above int64", { ...good, limit: 1e10 }, "limit"],
    ["a limit by the week", { ...good, limit: 1, limit_reset: "weekly" }, "limit_reset"],
    ["a limit by the year", { ...good, limit: 1, limit_reset: "yearly" }, "limit_reset"],
    ["a period of no limit", { ...good, limit_reset: "daily" }, "limit_reset"],
    ["an expiry that has passed", { ...good, expires_at: "2020-01-01T00:00:00Z" }, "expires_at"],
    ["an expiry elsewhere", { ...good, expires_at: "2099-01-01T00:00:00+02:00" }, "expires_at"],
    ["keys of providers", { ...good, include_byok_in_limit: true }, "include_byok_in_limit"],
    ["a creator", { ...good, creator_user_id: "user_1" }, "creator_user_id"],
    ["another workspace", { ...good, workspace_id: newId() }, "workspace_id"],
    ["a partner's user", { ...good, external: { user: "x" } }, "external"],
    ["a name by another name", { ...good, constructor: 1 }, "constructor"],
    ["a list", [], "body"],
  ])("is refused with %s, by name", async (_what, body, param) => {
    expect(refusal(await call(`POST ${KEYS}`, body))).toEqual(invalid(param));
  });
});

describe("a key that is changed", () => {
  test("keeps what the body does not name", async () => {
    const { hash, data } = await made({ name: "A", limit: 1, limit_reset: "daily" });
    expect(await changed(hash, { name: "B" })).toMatchObject({ ...data, ...renamed("B") });
    expect(await changed(hash, { limit: 2 })).toMatchObject({ limit: 2, limit_reset: "daily" });
    const monthly = { limit: 2, limit_daily: null, limit_monthly: 2 };
    expect(await changed(hash, { limit_reset: "monthly" })).toMatchObject(monthly);
    const total = { limit: 3, limit_monthly: null, limit_total: 3, limit_reset: null };
    expect(await changed(hash, { limit: 3, limit_reset: null })).toMatchObject(total);
    expect(await changed(hash, { limit: null })).toMatchObject({ limit: null, limit_total: null });
    expect(await changed(hash, { include_byok_in_limit: false })).toMatchObject({ name: "B" });
  });

  const renamed = (name: string) => ({ name, updated_at: expect.any(String) });

  test("shows the limit of the shortest period, and leaves those of others in force", async () => {
    const { id } = await gateway.aChild(owner.token, gm.id, {
      limit_daily_ngonka: "1000000000",
      limit_monthly_ngonka: "5000000000",
      limit_total_ngonka: "9000000000",
    });
    const hash = id.replaceAll("-", "");
    const all = { limit_daily: 1, limit_monthly: 5, limit_total: 9 };
    const { json } = await call(`GET ${KEYS}/${hash}`);
    expect(json.data).toMatchObject({ limit: 1, limit_reset: "daily", ...all });
    expect(await changed(hash, { limit: 2 })).toMatchObject({ ...all, limit_daily: 2 });
    const removed = { limit: 5, limit_reset: "monthly", limit_daily: null, limit_total: 9 };
    expect(await changed(hash, { limit: null })).toMatchObject(removed);
  });

  test("is disabled and enabled, and listed accordingly", async () => {
    const { hash, key } = await made({ name: "Paused" });
    const listed = async (query: string) => {
      const { json } = await call(`GET ${KEYS}${query}`);
      return (json.data as Json[]).some((each) => each.hash === hash);
    };
    expect(await changed(hash, { disabled: true })).toMatchObject({ disabled: true });
    expect((await call("GET /api/v1/key", undefined, key)).status).toBe(401);
    expect(await listed("")).toBe(false);
    expect(await listed("?include_disabled=false")).toBe(false);
    expect(await listed("?include_disabled=true")).toBe(true);
    expect(await changed(hash, { disabled: false })).toMatchObject({ disabled: false });
    expect([await listed(""), (await call("GET /api/v1/key", undefined, key)).status]).toEqual([
      true,
      200,
    ]);
  });

  test("is changed whole where two changes meet: one of them sees the other", async () => {
    const { hash } = await made({ name: "A", limit: 1, limit_reset: "daily" });
    await Promise.all([changed(hash, { limit: 2 }), changed(hash, { limit_reset: "monthly" })]);
    const { json } = await call(`GET ${KEYS}/${hash}`);
    expect(json.data).toMatchObject({ limit_daily: null, limit_monthly: 2, limit_total: null });
  });

  test.each<[unknown, string]>([
    [{}, "body"],
    [{ expires_at: null }, "expires_at"],
    [{ workspace_id: null }, "workspace_id"],
    [{ disabled: "yes" }, "disabled"],
    [{ name: null }, "name"],
    [{ limit: null, limit_reset: "daily" }, "limit_reset"],
    [{ limit: true }, "limit"],
  ])("is refused with %j, by name", async (body, param) => {
    const { hash, data } = await made({ name: "A", limit: 1 });
    expect(refusal(await call(`PATCH ${KEYS}/${hash}`, body))).toEqual(invalid(param));
    expect((await call(`GET ${KEYS}/${hash}`)).json).toEqual({ data });
  });
});

describe("keys", () => {
  test("are deleted for good, and again is the same", async () => {
    const { hash, key } = await made({ name: "Gone" });
    for (const _ of [1, 2]) {
      const { status, json } = await call(`DELETE ${KEYS}/${hash}`);
      expect([status, json]).toEqual([200, { deleted: true }]);
    }
    expect(refusal(await call(`GET ${KEYS}/${hash}`))).toEqual([404, "not_found", undefined]);
    const patch = await call(`PATCH ${KEYS}/${hash}`, { name: "Back" });
    expect(refusal(patch)).toEqual([404, "not_found", undefined]);
    expect((await call("GET /api/v1/key", undefined, key)).status).toBe(401);
    const { json } = await call(`GET ${KEYS}?include_disabled=true`);
    expect((json.data as Json[]).some((each) => each.hash === hash)).toBe(false);
  });

  test("are listed a hundred a page, newest first, from any place on", async () => {
    const { secret, id } = await gateway.aManagementKey(owner.token);
    const names = Array.from({ length: 103 }, (_, i) => `Client ${102 - i}`);
    for (const name of names.toReversed()) await made({ name }, secret);
    const page = async (query: string) => {
      const { status, json } = await call(`GET ${KEYS}?${query}`, undefined, secret);
      expect(status).toBe(200);
      return (json.data as Json[]).map(({ name }) => name);
    };
    expect(await page("")).toEqual(names.slice(0, 100));
    expect(await page("offset=0")).toEqual(names.slice(0, 100));
    expect(await page("offset=2")).toEqual(names.slice(2, 102));
    expect(await page(`offset=100&workspace_id=${id}`)).toEqual(names.slice(100));
    expect(await page("offset=103")).toEqual([]);
  });

  test.each([
    ["offset=-1", "offset"],
    ["offset=x", "offset"],
    ["offset=1e3", "offset"],
    ["include_disabled=yes", "include_disabled"],
    ["workspace_id=default", "workspace_id"],
    ["cursor=x", "cursor"],
  ])("are not listed by %s", async (query, param) => {
    expect(refusal(await call(`GET ${KEYS}?${query}`))).toEqual(invalid(param));
  });

  test("of others are not there, and nothing tells that they are", async () => {
    const { hash } = await made({ name: "Mine" });
    const unknown = newId().replaceAll("-", "");
    const odd = [
      "",
      "x",
      hash.toUpperCase(),
      `${hash}0`,
      `${hash}/x`,
      "%00",
      "..%2f",
      "constructor",
    ];
    const others = [sibling.secret, stranger.secret];
    for (const verb of ["GET", "PATCH", "DELETE"]) {
      const body = verb === "PATCH" ? { name: "Stolen" } : undefined;
      for (const each of [unknown, ...odd]) {
        const answer = await call(`${verb} ${KEYS}/${each}`, body);
        expect.soft(refusal(answer), each).toEqual([404, "not_found", undefined]);
      }
      for (const bearer of others) {
        const answer = await call(`${verb} ${KEYS}/${hash}`, body, bearer);
        expect(refusal(answer)).toEqual([404, "not_found", undefined]);
      }
    }
    expect((await call(`GET ${KEYS}/${hash}`)).json.data).toMatchObject({ name: "Mine" });
    expect((await call(`GET ${KEYS}`, undefined, sibling.secret)).json).toEqual({ data: [] });
  });

  test("are only read with read_only access", async () => {
    const hash = newId().replaceAll("-", "");
    const secret = readOnly.secret;
    expect((await call(`GET ${KEYS}`, undefined, secret)).status).toBe(200);
    expect((await call("GET /api/v1/credits", undefined, secret)).status).toBe(200);
    for (const [route, body] of [
      [`POST ${KEYS}`, { name: "A" }],
      [`PATCH ${KEYS}/${hash}`, { name: "A" }],
      [`DELETE ${KEYS}/${hash}`, undefined],
    ] as const) {
      expect(refusal(await call(route, body, secret))).toEqual([403, "read_only_key", undefined]);
    }
  });

  test("take no other verbs, and no body beyond measure", async () => {
    const answer = await call(`PUT ${KEYS}`, { name: "A" });
    expect(refusal(answer)).toEqual([405, "method_not_allowed", undefined]);
    expect(answer.headers.get("allow")).toBe("GET, POST");
    const big = await call(`POST ${KEYS}`, { name: "A", limit: "x".repeat(70_000) });
    expect(refusal(big)).toEqual([413, "request_too_large", undefined]);
  });
});

describe("models", () => {
  const ids = async (query: string) => {
    const { status, json } = await call(`GET /api/v1/models?${query}`, undefined, child);
    expect(status).toBe(200);
    expect(json.total_count).toBeGreaterThanOrEqual((json.data as Json[]).length);
    return (json.data as Json[]).map(({ id }) => String(id));
  };
  let child: string;
  beforeAll(async () => {
    child = (await gateway.aChild(owner.token, gm.id, { models: MODELS })).secret;
    const prices = { input_ngonka_per_mtok: "15000001", output_ngonka_per_mtok: "30000003" };
    const body = { ...prices, image_tokens: 100 };
    await gateway.done("PUT /api/admin/models/demo/vision", { bearer: ADMIN, body });
  });
  const MODELS = ["demo/fast", "demo/slow", "demo/vision"];

  test("are those of the key, from any place on", async () => {
    expect(await ids("")).toEqual(MODELS);
    expect(await ids("limit=500&offset=0")).toEqual(MODELS);
    expect(await ids("limit=1&offset=1")).toEqual(["demo/slow"]);
    expect(await ids("offset=3")).toEqual([]);
  });

  test("are found by what they take", async () => {
    expect(await ids("supported_parameters=tools,temperature")).toEqual(MODELS);
    expect(await ids("supported_parameters=web_search_options")).toEqual([]);
    expect(await ids("input_modalities=text,image")).toEqual(["demo/vision"]);
    expect(await ids("output_modalities=all")).toEqual(MODELS);
    expect(await ids("output_modalities=image")).toEqual([]);
    const refused = await call("GET /api/v1/models?category=legal", undefined, child);
    expect(refusal(refused)).toEqual(invalid("category"));
  });

  test("are one by one the same, and remain OpenAI's under /v1", async () => {
    const one = await call("GET /api/v1/models/demo/vision", undefined, child);
    const all = await call("GET /api/v1/models", undefined, child);
    expect((all.json.data as Json[]).at(-1)).toEqual(one.json);
    expect(one.json).toMatchObject({
      object: "model",
      architecture: { modality: "text+image->text" },
    });
    const plain = await call("GET /v1/models/demo/vision?category=legal", undefined, child);
    expect(plain.json).not.toHaveProperty("architecture");
  });
});

describe("what is shown as used", () => {
  const chat = (key: string) => {
    const messages = [{ role: "user", content: "hi" }];
    return call("POST /api/v1/chat/completions", { model: "demo/fast", messages }, key);
  };

  test("is what the requests cost, of a key and in its own eyes alike", async () => {
    const { hash, key } = await made({ name: "Spender", limit: 0.5, limit_reset: "monthly" });
    const { usage } = (await chat(key)).json as { usage: { cost: number; cost_units: string } };
    const spent = { usage: usage.cost, usage_daily: usage.cost, usage_weekly: usage.cost };
    const left = Number(500_000_000n - BigInt(usage.cost_units)) / 1e9;
    const { json } = await call(`GET ${KEYS}/${hash}`);
    expect(json.data).toMatchObject({ ...spent, limit: 0.5, limit_remaining: left });

    const own = (await call("GET /api/v1/key", undefined, key)).json;
    expect(own.data).toMatchObject({ ...spent, limit: 0.5, limit_remaining: left });
    expect(own).toMatchObject({ object: "key", monthly_used: usage.cost_units });
    expect(Object.keys((await call("GET /v1/key", undefined, key)).json)).not.toContain("data");
    expect(JSON.stringify(own)).not.toMatch(/gonka|gnk|usd/i);
  });

  test("is in dollars, costs and prices too, where the operator's unit is", async () => {
    const rate = { KEYTOLL_LIMIT_UNIT: "usd", KEYTOLL_USD_PER_GNK: "0.05" };
    const dollars = await gateway.startAnother(rate);
    const { rest } = restClient(dollars.http);
    const body = { name: "Dollars", limit: 0.01, limit_reset: "daily" };
    const { json } = await rest(`POST ${KEYS}`, { bearer: gm.secret, body });
    expect(json.data).toMatchObject({ limit: 0.01 });
    const bearer = String(json.key);
    const hash = String((json.data as Json).hash);
    expect(await inRest(hash)).toMatchObject({ limit_daily_ngonka: "200000000" });

    const messages = [{ role: "user", content: "hi" }];
    let cost = 0;
    for (const stream of [false, true]) {
      const asked = { model: "demo/fast", messages, stream };
      const { json: answer } = await rest("POST /api/v1/chat/completions", { bearer, body: asked });
      const text = stream ? String(answer.text) : JSON.stringify(answer);
      const [, shown, units] = /"cost":([0-9.e-]+),"cost_units":"(\d+)"/.exec(text) ?? [];
      expect(Number(shown)).toBeCloseTo((Number(units) / 1e9) * 0.05, 12);
      cost += Number(units);
    }
    const own = (await rest("GET /api/v1/key", { bearer })).json.data as Record<string, number>;
    expect(own.usage_daily).toBeCloseTo((cost / 1e9) * 0.05, 10);
    expect(own.limit_remaining).toBeCloseTo(0.01 - (cost / 1e9) * 0.05, 10);
    const models = (await rest("GET /api/v1/models", { bearer })).json.data as Json[];
    const fast = models.find(({ id }) => id === "demo/fast");
    expect(fast?.pricing).toMatchObject({ prompt: "0.00000000075000005" });
    await dollars.close();
  });

  test("of the account is what was paid in less what is left", async () => {
    const { json } = await call("GET /api/v1/credits");
    const { total_credits, total_usage } = json.data as Record<string, number>;
    const account = await gateway.done("GET /api/account", { bearer: owner.token });
    expect(total_credits).toBe(1);
    expect(Math.round((1 - Number(total_usage)) * 1e9).toString()).toBe(account.available_ngonka);
    const other = await call("GET /api/v1/credits", undefined, stranger.secret);
    expect(other.json).toEqual({ data: { total_credits: 5e-9, total_usage: 0 } });
  });

  test("of the week begins on Monday, whether its days were summed up or not", async () => {
    const { sql, close } = await openDatabase();
    const today = Math.floor(now() / DAY) * DAY;
    const monday = today - ((new Date(today).getUTCDay() + 6) % 7) * DAY;
    const idAt = (time: number) => {
      const hex = time.toString(16).padStart(12, "0");
      return `${hex.slice(0, 8)}-${hex.slice(8)}${newId().slice(13)}`;
    };
    const to = (time: number) => setClock(sql, new Date(time).toISOString());
    await to(monday - 2 * HOUR);
    const books = await openBooks(sql);
    const { account, owner: manager, ref, child } = books;
    const holds = createHolds(sql, { gateway: newId() });
    const use = async (time: number, cost: bigint) => {
      await to(time);
      const id = idAt(time);
      await holds.authorize(holdOf(books, 1_000n, { id }));
      await holds.capture(captureOf(account, id, cost));
    };
    const sumUp = async (day: number) => {
      const period = readPeriod("day", new Date(day).toISOString().slice(0, 10));
      await openPeriod(sql, period);
      await rollCounters(sql, period);
      await closePeriod(sql, period);
    };
    const week = async () => {
      const key = await getChildKey(sql, manager, ref);
      return (await usedThisWeek(sql, account, [key])).get(child);
    };

    await use(monday - HOUR, 1n);
    expect(await week()).toBe(1n);
    await use(monday + HOUR, 2n);
    expect(await week()).toBe(2n);
    await use(monday + DAY + HOUR, 4n);
    await use(monday + 2 * DAY + HOUR, 8n);
    await holds.authorize(holdOf(books, 16n, { id: idAt(monday + 2 * DAY + HOUR) }));
    expect(await week()).toBe(2n + 4n + 8n + 16n);
    await sumUp(monday + DAY);
    expect(await week()).toBe(30n);
    await sumUp(monday + 2 * DAY);
    expect(await week()).toBe(30n);
    await to(monday + 7 * DAY);
    expect(await week()).toBe(0n);
    await holds.close();
    await close();
  });
});
