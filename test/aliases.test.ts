import OpenAI from "openai";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { ADMIN, type LiveGateway, startLiveGateway } from "./support/live-gateway.js";

let gateway: LiveGateway;
let owner: { account: string; token: string };
let gm: string;
beforeAll(async () => {
  gateway = await startLiveGateway();
  await gateway.priceDemoModels("15000001", "30000003");
  owner = await gateway.anOwner("owner@example.com", "1000000000");
  gm = (await gateway.aManagementKey(owner.token)).id;
});
afterAll(() => gateway?.close());

const HI = [{ role: "user" as const, content: "hi" }];
const MODELS = "/api/management/models";
const clientOf = (apiKey: string) =>
  new OpenAI({ apiKey, baseURL: `${gateway.http}/v1`, maxRetries: 0 });
const idsOf = async (secret: string) =>
  (await clientOf(secret).models.list()).data.map((m) => m.id);
const name = (alias: string, model: string, bearer = owner.token) =>
  gateway.rest(`PUT ${MODELS}/${alias}`, { bearer, body: { model } });

test("a model that its owner has named is listed, asked for and shown by that name, at every gateway", async () => {
  const { id, secret } = await gateway.aChild(owner.token, gm);
  const another = await gateway.startAnother();
  try {
    const elsewhere = new OpenAI({ apiKey: secret, baseURL: `${another.http}/v1`, maxRetries: 0 });
    expect((await elsewhere.models.list()).data.map((m) => m.id)).toContain("demo/fast");
    expect((await name("acme/best-1", "demo/fast")).status).toBe(200);
    await vi.waitFor(async () => expect(await idsOf(secret)).toContain("acme/best-1"));
    expect(await idsOf(secret)).not.toContain("demo/fast");
    expect((await clientOf(secret).models.retrieve("acme/best-1")).id).toBe("acme/best-1");
    await vi.waitFor(async () => {
      const asked = elsewhere.chat.completions.create({ model: "acme/best-1", messages: HI });
      expect((await asked).model).toBe("acme/best-1");
    });
  } finally {
    await another.close();
  }
  const { completions } = clientOf(secret).chat;
  for await (const chunk of await completions.create({
    ...{
      model: "acme/best-1",
      messages: HI,
      stream: true,
      stream_options: { include_usage: true },
    },
  })) {
    expect(chunk.model).toBe("acme/best-1");
  }
  await expect(completions.create({ model: "demo/fast", messages: HI })).rejects.toMatchObject({
    status: 404,
    code: "model_not_found",
  });
  const records = await gateway.sql`
    select model from usage_record where child_key_id = ${id}`;
  expect(records.map((record) => record.model)).toEqual(["demo/fast", "demo/fast"]);
});

test("a key's list may name a model by its alias or by its id, and other owners see neither", async () => {
  expect((await name("acme/slow", "demo/slow")).status).toBe(200);
  const lists = [["acme/slow"], ["demo/slow"]];
  for (const models of lists) {
    const { secret } = await gateway.aChild(owner.token, gm, { models });
    await vi.waitFor(async () => expect(await idsOf(secret)).toEqual(["acme/slow"]));
    const own = await gateway.done("GET /v1/key", { bearer: secret });
    expect(own.models).toEqual(["acme/slow"]);
  }
  const stranger = await gateway.anOwner("stranger@example.com", "1000000000");
  const other = await gateway.aManagementKey(stranger.token);
  const { secret } = await gateway.aChild(stranger.token, other.id);
  expect(await idsOf(secret)).toContain("demo/slow");
  const foreign = clientOf(secret).chat.completions.create({ model: "acme/slow", messages: HI });
  await expect(foreign).rejects.toMatchObject({ status: 404 });
  const listed = await gateway.rest(`GET ${MODELS}`, { bearer: stranger.token });
  expect(listed.json).toEqual({ data: [] });
  const taken = await gateway.rest(`DELETE ${MODELS}/acme/slow`, { bearer: stranger.token });
  expect(taken.status).toBe(404);
});

test("a name that is taken back shows the model's own id again, and all of it is on record", async () => {
  const { secret } = await gateway.aChild(owner.token, gm, { models: ["demo/long"] });
  const bearer = owner.token;
  const first = await name("acme/long", "demo/long");
  expect(first.json).toMatchObject({ alias: "acme/long", model: "demo/long" });
  expect((await name("acme/long", "demo/long")).json).toEqual(first.json);
  await vi.waitFor(async () => expect(await idsOf(secret)).toEqual(["acme/long"]));
  const listed = await gateway.rest(`GET ${MODELS}`, { bearer });
  expect(listed.json.data).toContainEqual(first.json);
  expect((await gateway.rest(`DELETE ${MODELS}/acme/long`, { bearer })).status).toBe(200);
  await vi.waitFor(async () => expect(await idsOf(secret)).toEqual(["demo/long"]));
  expect((await gateway.rest(`DELETE ${MODELS}/acme/long`, { bearer })).status).toBe(404);
  const events = await gateway.sql`
    select action from audit_event where subject = 'acme/long' order by id`;
  expect(events.map((event) => event.action)).toEqual(["model_alias.set", "model_alias.deleted"]);
});

test("names that are none, models without a price and callers who are not the owner are refused", async () => {
  const { secret } = await gateway.aChild(owner.token, gm);
  const managing = (await gateway.aManagementKey(owner.token)).secret;
  expect((await name("a%20b", "demo/fast")).json).toMatchObject({ error: { param: "alias" } });
  expect((await name("a".repeat(201), "demo/fast")).status).toBe(400);
  expect((await name("acme/x", "demo/none")).json).toMatchObject({ error: { param: "model" } });
  expect((await name("acme/x", "")).json).toMatchObject({ error: { param: "model" } });
  for (const bearer of [secret, managing, ADMIN, "x"]) {
    expect([401, 403]).toContain((await name("acme/x", "demo/fast", bearer)).status);
  }
  const full = await gateway.anOwner("full@example.com");
  for (let i = 0; i < 100; i++) {
    expect((await name(`m/${i}`, "demo/fast", full.token)).status).toBe(200);
  }
  expect((await name("m/100", "demo/fast", full.token)).json).toMatchObject({
    error: { param: "alias" },
  });
  expect((await name("m/0", "demo/slow", full.token)).status).toBe(200);
});

test("a key's cost_fields decide how its children are told costs, at every door, from the next request on", async () => {
  const bearer = owner.token;
  const plain = await gateway.done("POST /api/management/keys", { bearer, body: { name: "a" } });
  expect(plain.cost_fields).toBe("neutral");
  const body = { name: "b", cost_fields: "gonka" };
  const key = await gateway.done("POST /api/management/keys", { bearer, body });
  expect(key.cost_fields).toBe("gonka");
  const { secret } = await gateway.aChild(bearer, String(key.id), { models: ["demo/slow"] });
  const model = "acme/slow";
  const usages = async () => {
    const asked = { model, messages: HI, max_tokens: 2 };
    const chat = await gateway.done("POST /v1/chat/completions", { bearer: secret, body: asked });
    const message = await gateway.done("POST /v1/messages", { bearer: secret, body: asked });
    const stream = await clientOf(secret).chat.completions.create({
      ...{ ...asked, stream: true, stream_options: { include_usage: true } },
    });
    let last: unknown;
    for await (const { usage } of stream) last = usage;
    return [chat.usage, message.usage, last] as Record<string, unknown>[];
  };
  for (const usage of await usages()) {
    expect(usage.total_cost_gnk).toBe(usage.cost);
    expect(Number(usage.cost_units) / 1e9).toBe(usage.cost);
  }
  const patch = { bearer, body: { cost_fields: "none" } };
  expect(await gateway.done(`PATCH /api/management/keys/${key.id}`, patch)).toMatchObject({
    cost_fields: "none",
  });
  await vi.waitFor(async () => {
    for (const usage of await usages()) {
      expect(JSON.stringify(usage)).not.toMatch(/cost/);
      expect(JSON.stringify(usage)).toMatch(/tokens/);
    }
  });
  const wrong = { bearer, body: { cost_fields: "usd" } };
  expect((await gateway.rest(`PATCH /api/management/keys/${key.id}`, wrong)).status).toBe(400);
});
