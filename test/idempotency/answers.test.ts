import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { createAnswers, type KeyedRequest } from "../../src/idempotency/answers.js";
import { forgetOldRequests } from "../../src/idempotency/upkeep.js";
import { expectBooksAreRight, openDatabase, setClock } from "../support/books.js";
import { costIn, openWorld, PATIENCE, type World } from "./world.js";

const [OLD, NEW] = [
  "an old secret of 32 bytes or even more",
  "a new secret of 32 bytes or even more",
];
const ENDING = { cost: 7n, inputTokens: 3n, outputTokens: 4n, estimated: false };
const log = createLog("silent", "test");
const here = new AbortController().signal;

let database: Awaited<ReturnType<typeof openDatabase>>;
let world: World;
beforeAll(async () => {
  [database, world] = await Promise.all([openDatabase(), openWorld()]);
});
afterAll(() => Promise.all([database?.close(), world?.close()]));

const answersOf = (secrets: string[], wait = 100) =>
  createAnswers({ sql: database.sql, secrets, log, wait });
const aRequest = (): KeyedRequest => ({
  ...{ account: newId(), child: newId(), key: "key", route: "/chat", requestId: newId() },
  fingerprint: 5n,
});

async function answered(secrets: string[], text = "the answer"): Promise<KeyedRequest> {
  const [answers, request] = [answersOf(secrets), aRequest()];
  const found = await answers.claim(request, here);
  if (!("claim" in found)) throw new Error("no claim");
  await answers.keep(found.claim, ENDING, text);
  return request;
}

test("an answer is kept for 24 hours by the database's clock, and then forgotten", async () => {
  const { sql } = database;
  await setClock(sql, "2026-03-01T10:00:00Z");
  const request = await answered([OLD]);
  await setClock(sql, "2026-03-02T09:59:59.999Z");
  expect(await answersOf([OLD]).claim(request, here)).toMatchObject({ text: "the answer" });
  expect(await forgetOldRequests(sql)).toBe(0);
  await setClock(sql, "2026-03-02T10:00:00Z");
  expect(await forgetOldRequests(sql)).toBe(1);
  const late = await answered([OLD]);
  await setClock(sql, "2026-03-03T10:00:00Z");
  expect(await answersOf([OLD]).claim({ ...late, fingerprint: 6n }, here)).toHaveProperty("claim");
});

test("after a rotation of KEYTOLL_SECRET what the old one sealed is read while it is still given", async () => {
  const request = await answered([OLD]);
  expect(await answersOf([NEW, OLD]).claim(request, here)).toMatchObject({ text: "the answer" });
  await expect(answersOf([NEW]).claim(request, here)).rejects.toMatchObject({
    reason: "answer_not_kept",
    details: { shouldRetry: false, facts: { original_request_id: request.requestId } },
  });
});

test("an answer that was moved or changed in the table is not given out", async () => {
  const [one, other] = [await answered([OLD], "mine"), await answered([OLD], "theirs")];
  await database.sql`
    update idempotent_request i set sealed = o.sealed from idempotent_request o
     where i.scope_id = ${one.child} and o.scope_id = ${other.child}`;
  await expect(answersOf([OLD]).claim(one, here)).rejects.toMatchObject({
    reason: "answer_not_kept",
  });
});

test("who waits too long is told to come back, and who hangs up waits no longer", async () => {
  const [answers, request] = [answersOf([OLD]), aRequest()];
  await answers.claim(request, here);
  await expect(answers.claim(request, here)).rejects.toMatchObject({
    reason: "busy",
    details: { shouldRetry: true, retryAfter: 5 },
  });
  const line = new AbortController();
  const waiting = answersOf([OLD], 60_000).claim(request, line.signal);
  line.abort(new Error("gone"));
  await expect(waiting).rejects.toThrow("gone");
});

test("an answer that Postgres did not take leaves once, and its repeat is told that it was charged", async () => {
  const { gateway, sql, child, upstream } = world;
  await sql.unsafe("alter function keep_answers rename to keep_answers_away");
  const first = await gateway.ask(child.secret, "unstored");
  await sql.unsafe("alter function keep_answers_away rename to keep_answers");
  const asked = upstream.asked();
  const again = await gateway.ask(child.secret, "unstored");
  expect([first.status, again.status]).toEqual([200, 409]);
  expect(JSON.parse(again.text).error).toMatchObject({
    code: "answer_not_kept",
    original_request_id: first.headers.get("x-request-id"),
  });
  expect(upstream.asked()).toBe(asked);
  expect(await world.charged()).toEqual({ cost: costIn(first.text), requests: 1 });
});

test("a gateway that was only thought dead charges nothing once another has its key", async () => {
  const { gateway, sql, upstream, child } = world;
  const [other, before] = [await world.start(), await world.charged()];
  upstream.hold();
  const slow = gateway.ask(child.secret, "zombie");
  await vi.waitFor(() => expect(upstream.waiting()).toBe(1), PATIENCE);
  await sql`update open_hold set deadline = deadline - interval '1 day'`;
  await sql`select sweep_holds(500, interval '0')`;
  const repeat = other.ask(child.secret, "zombie");
  await vi.waitFor(() => expect(upstream.waiting()).toBe(2), PATIENCE);
  upstream.release();
  const [lost, answer] = await Promise.all([slow, repeat]);
  expect([lost.status, lost.headers.get("x-should-retry")]).toEqual([503, "true"]);
  expect([answer.status, answer.replayed]).toEqual([200, null]);
  expect((await gateway.ask(child.secret, "zombie")).text).toBe(answer.text);
  expect(await world.charged()).toEqual({
    cost: before.cost + costIn(answer.text),
    requests: before.requests + 1,
  });
  await expectBooksAreRight(sql);
});
