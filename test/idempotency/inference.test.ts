import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { expectBooksAreRight } from "../support/books.js";
import { costIn, MODEL, openWorld, PATIENCE, type World } from "./world.js";

let world: World;
let other: Awaited<ReturnType<World["start"]>>;
beforeAll(async () => {
  world = await openWorld();
  other = await world.start();
});
afterAll(() => world?.close());

let keys = 0;
const aKey = () => `key-${++keys}`;

const codeOf = (text: string): string => JSON.parse(text).error.code;

test("of concurrent repeats at two gateways one runs and is charged, and all get its bytes", async () => {
  const { gateway, upstream, child } = world;
  const [key, asked, before] = [aKey(), upstream.asked(), await world.charged()];
  upstream.hold();
  const all = Array.from({ length: 20 }, (_, i) =>
    (i % 2 ? gateway : other).ask(child.secret, key),
  );
  await vi.waitFor(() => expect(upstream.waiting()).toBe(1), PATIENCE);
  upstream.release();
  const answers = await Promise.all(all);
  const [first] = answers;
  expect(new Set(answers.map((it) => it.text)).size).toBe(1);
  expect(answers.map((it) => it.status)).toEqual(answers.map(() => 200));
  expect(answers.filter((it) => it.replayed === "true")).toHaveLength(19);
  expect(upstream.asked()).toBe(asked + 1);
  const cost = costIn(first?.text ?? "");
  expect(await world.charged()).toEqual({
    cost: before.cost + cost,
    requests: before.requests + 1,
  });
  await expectBooksAreRight(world.sql);
});

test("without a key, and with another key, the same request runs and is charged again", async () => {
  const { gateway, upstream, child } = world;
  const [asked, before] = [upstream.asked(), await world.charged()];
  for (const key of [undefined, undefined, aKey(), aKey()]) await gateway.ask(child.secret, key);
  expect(upstream.asked()).toBe(asked + 4);
  expect((await world.charged()).requests).toBe(before.requests + 4);
});

test("another body under the same key is a conflict that nobody retries, and another child's is not", async () => {
  const { gateway, child, manager } = world;
  const key = aKey();
  const first = await gateway.ask(child.secret, key);
  const conflict = await other.ask(child.secret, key, { temperature: 0 });
  expect(conflict.status).toBe(409);
  expect(codeOf(conflict.text)).toBe("idempotency_conflict");
  expect(conflict.headers.get("x-should-retry")).toBe("false");
  const sibling = await gateway.aChild(manager.secret, manager.id);
  const own = await other.ask(sibling.secret, key, { temperature: 0 });
  expect([own.status, own.replayed]).toEqual([200, null]);
  expect((await other.ask(child.secret, key)).text).toBe(first.text);
});

test("a key is 1 to 255 visible characters", async () => {
  const { gateway, child } = world;
  for (const key of ["a b", "x".repeat(256), "é"]) {
    const { status, text } = await gateway.ask(child.secret, key);
    expect(status).toBe(400);
    expect(JSON.parse(text).error.param).toBe("Idempotency-Key");
  }
  expect((await gateway.ask(child.secret, "x".repeat(255))).status).toBe(200);
});

test("what was refused or failed is not remembered", async () => {
  const { gateway, upstream, child, manager } = world;
  const poor = await gateway.aChild(manager.secret, manager.id, { limit_daily_ngonka: "1" });
  const key = aKey();
  const refused = await gateway.ask(poor.secret, key);
  expect(refused.status).toBe(402);
  const route = `PATCH /api/management/keys/${manager.id}/children/${poor.id}`;
  const body = { limit_daily_ngonka: null };
  await gateway.done(route, { bearer: manager.secret, body });
  expect((await other.ask(poor.secret, key, { temperature: 1 })).status).toBe(200);

  upstream.answerWith(400);
  expect((await gateway.ask(child.secret, key)).status).toBe(400);
  upstream.answerWith(200);
  const answer = await other.ask(child.secret, key);
  expect([answer.status, answer.replayed]).toEqual([200, null]);
});

test("a caller who hung up and comes again is charged once, for the answer that it gets", async () => {
  const { gateway, upstream, child } = world;
  const [key, before] = [aKey(), await world.charged()];
  upstream.hold();
  const line = new AbortController();
  const hasty = fetch(`${gateway.http}/v1/chat/completions`, {
    method: "POST",
    signal: line.signal,
    headers: { authorization: `Bearer ${child.secret}`, "idempotency-key": key },
    body: JSON.stringify({ model: MODEL, messages: [{ role: "user", content: "hello" }] }),
  });
  await vi.waitFor(() => expect(upstream.waiting()).toBe(1), PATIENCE);
  line.abort();
  await expect(hasty).rejects.toThrow();
  const open = () => world.sql`select 1 from open_hold where child_key_id = ${child.id}`;
  await vi.waitFor(async () => expect(await open()).toHaveLength(0), PATIENCE);
  upstream.release();
  const answer = await other.ask(child.secret, key);
  expect([answer.status, answer.replayed]).toEqual([200, null]);
  expect(await world.charged()).toEqual({
    cost: before.cost + costIn(answer.text),
    requests: before.requests + 1,
  });
  await expectBooksAreRight(world.sql);
});

test("an answer too large to be kept is never charged twice: its repeat is told, with the request's id", async () => {
  const { gateway, upstream, child } = world;
  const [key, before] = [aKey(), await world.charged()];
  upstream.say(() => "x".repeat(1024 * 1024));
  const first = await gateway.ask(child.secret, key);
  upstream.say((n) => `answer ${n}`);
  expect(first.status).toBe(200);
  const again = await other.ask(child.secret, key);
  expect(again.status).toBe(409);
  expect(again.headers.get("x-should-retry")).toBe("false");
  expect(JSON.parse(again.text).error).toMatchObject({
    code: "answer_not_kept",
    original_request_id: first.headers.get("x-request-id"),
  });
  expect((await world.charged()).requests).toBe(before.requests + 1);
});

test("a stream under a key runs once, and its repeat is told that it was charged", async () => {
  const { gateway, upstream, child } = world;
  const [key, asked, before] = [aKey(), upstream.asked(), await world.charged()];
  upstream.answerWith(500);
  expect((await gateway.ask(child.secret, key, { stream: true })).status).toBe(503);
  upstream.answerWith(200);
  const first = await gateway.ask(child.secret, key, { stream: true });
  expect(first.text).toContain("[DONE]");
  const again = await other.ask(child.secret, key, { stream: true });
  expect([again.status, codeOf(again.text)]).toEqual([409, "answer_not_kept"]);
  expect(upstream.asked()).toBe(asked + 2);
  expect((await world.charged()).requests).toBe(before.requests + 1);
});

test("every door has it: Anthropic's messages, OpenRouter's path, and calls by Connect", async () => {
  const { gateway, upstream, child } = world;
  const messages = [{ role: "user", content: "hello" }];
  const text = { model: MODEL, messages, max_tokens: 20 };
  const doors: [route: string, body: object][] = [
    ["POST /v1/messages", text],
    ["POST /api/v1/chat/completions", text],
    ["POST /keytoll.v1.InferenceService/CreateChatCompletion", { model: MODEL, messages }],
  ];
  for (const [route, body] of doors) {
    const headers = { "idempotency-key": aKey(), "content-type": "application/json" };
    const asked = upstream.asked();
    const first = await gateway.rest(route, { bearer: child.secret, headers, body });
    const again = await other.rest(route, { bearer: child.secret, headers, body });
    expect([first.status, again.status], JSON.stringify(first.json)).toEqual([200, 200]);
    expect(again.json, route).toEqual(first.json);
    const replayed = [first, again].map((it) => it.headers.get("idempotent-replayed"));
    expect(replayed, route).toEqual([null, "true"]);
    expect(upstream.asked(), route).toBe(asked + 1);
  }
});
