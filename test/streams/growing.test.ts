import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { priceOf } from "../../src/base/money.js";
import { InferenceService } from "../../src/gen/keytoll/v1/inference_pb.js";
import { changeChildKey } from "../../src/keys/child-keys.js";
import { setModelPrice } from "../../src/pricing/prices.js";
import { expectBooksAreRight, setClock } from "../support/books.js";
import { DEMO_PRICE, startTestGateway, type TestGateway } from "../support/gateway.js";
import {
  begin,
  booksOf,
  DONE,
  expectPaid,
  finish,
  HI,
  plays,
  streamed,
  text,
  usage,
  writesForEver,
} from "../support/streaming.js";
import { startUpstream, type TestUpstream, type Visit } from "../support/upstreams.js";

const STEP = 100;
const MODEL = "demo/fast";
let upstream: TestUpstream;
let gateway: TestGateway;

beforeAll(async () => {
  upstream = await startUpstream(() => {});
  gateway = await startTestGateway({ upstreamUrl: upstream.url });
  const terms = { ...DEMO_PRICE, maxOutputTokens: 8_192, enabled: true };
  await setModelPrice(gateway.sql, { model: MODEL, ...terms, holdStepTokens: STEP });
});
afterAll(async () => {
  await expectBooksAreRight(gateway.sql);
  await gateway.close();
  await upstream.close();
});

const bodyOf = (more: object = {}) => ({
  ...{ model: MODEL, messages: HI, stream: true },
  ...{ stream_options: { include_usage: true }, ...more },
});
/** Most that the prompt can cost with so many tokens written: a token a byte, and the template. */
const ceiling = (body: object, output: number) =>
  priceOf(DEMO_PRICE, BigInt(JSON.stringify(body).length + 256), BigInt(output));

/** Lets a test write a stream by hand, once it is asked for. */
function byHand() {
  let resolve = (_: Visit) => {};
  const asked = new Promise<Visit>((then) => {
    resolve = then;
  });
  upstream.behave((visit) => {
    begin(visit.response);
    resolve(visit);
  });
  return asked;
}

describe("the hold of a stream that grows", () => {
  test("covers one step at first, the next before it is needed, and what was written in the end", async () => {
    const { id, secret } = await gateway.createChild();
    const body = bodyOf({ max_tokens: 400 });
    const asked = byHand();
    const answer = streamed(gateway, secret, body);
    const { response } = await asked;
    const parts = async () => (await booksOf(gateway, id)).open.map(({ amount }) => amount);
    const first = ceiling(body, STEP);
    expect(await parts()).toEqual([first]);

    response.write(text("x".repeat(45)));
    response.write(text("x".repeat(10)));
    const second = ceiling(body, 2 * STEP) - first;
    await vi.waitFor(async () => expect(await parts()).toEqual([first, second]));
    for (let i = 0; i < 5; i++) response.write(text("y".repeat(50)));
    await vi.waitFor(async () => {
      const held = (await parts()).reduce((sum, amount) => sum + amount, 0n);
      expect(held).toBe(ceiling(body, 400));
    });
    response.end(`${finish()}${usage(11, 222)}${DONE}`);

    const { done, finishes, stop, usage: bill } = await answer;
    expect([done, finishes, stop]).toEqual([true, ["stop"], undefined]);
    const cost = priceOf(DEMO_PRICE, 11n, 222n);
    expect(bill).toMatchObject({ completion_tokens: 222, cost_units: `${cost}` });
    await expectPaid(gateway, id, { cost, output_tokens: 222n, estimated: false });
    const { ended } = await booksOf(gateway, id);
    expect(ended.map(({ part }) => part)).toEqual([0, 1, 2, 3]);
    expect(ended.reduce((sum, it) => sum + it.cost, 0n)).toBe(cost);
  });

  test("is as for the whole answer where it is short, in one piece, or where the model has no step", async () => {
    const { id, secret } = await gateway.createChild();
    const held = async (more: object, act: (body: object) => Promise<unknown>) => {
      const body = bodyOf(more);
      const asked = byHand();
      const answer = act(body);
      const { response } = await asked;
      const [hold, ...rest] = (await booksOf(gateway, id)).open;
      expect(rest).toEqual([]);
      response.destroy();
      await answer;
      return [hold?.amount, body];
    };
    const stream = (body: object) => streamed(gateway, secret, body as Record<string, unknown>);
    const [short, shortBody] = await held({ max_tokens: STEP }, stream);
    expect(short).toBe(ceiling(shortBody as object, STEP));
    const [stepless, steplessBody] = await held({ model: "demo/slow", max_tokens: 400 }, stream);
    expect(stepless).toBe(ceiling(steplessBody as object, 400));
    const unary = { stream: false, stream_options: undefined, max_tokens: 400 };
    const [whole, wholeBody] = await held(unary, stream);
    expect(whole).toBe(ceiling(wholeBody as object, 400));
  });
});

describe("a stream whose money ends", () => {
  test("by its key's limit is cut with a clean end, exactly paid, and the limit is never overrun", async () => {
    const body = bodyOf({ max_tokens: 4_000 });
    const limitTotal = ceiling(body, 3 * STEP) + 7n;
    const { id, secret } = await gateway.createChild({ limitTotal });
    const cut = new Promise<void>((resolve) => {
      upstream.behave(({ response }) => void writesForEver(response, text("word ")).then(resolve));
    });
    const answer = await streamed(gateway, secret, body);
    await cut;
    expect(answer.status).toBe(200);
    expect(answer.error).toBeUndefined();
    expect(answer.finishes).toEqual(["length"]);
    expect(answer.done).toBe(true);
    expect(answer.stop).toEqual({
      code: "child_key_limit_exceeded",
      message: "the spend limit of this key is reached",
    });
    // What was read is what is held at most: a token for each byte of "word "
    const words = answer.text.length / 5;
    expect(words).toBe((3 * STEP) / 5);
    const { paid, open } = await booksOf(gateway, id);
    expect(open).toEqual([]);
    expect(paid).toMatchObject([{ output_tokens: BigInt(words), estimated: true }]);
    expect(answer.usage).toMatchObject({ cost_units: `${paid[0]?.cost}`, estimated: true });
    expect(paid[0]?.cost).toBeLessThanOrEqual(limitTotal);
  });

  test("by the owner's balance says so, and OpenAI's own client reads it to its end", async () => {
    const body = bodyOf({ max_tokens: 4_000 });
    const poor = await gateway.createOwner("poor@example.com", ceiling(body, STEP) + 1n);
    const { id, secret } = await poor.createChild();
    upstream.behave(({ response }) => void writesForEver(response, text("word ")));
    const client = new OpenAI({ apiKey: secret, baseURL: `${gateway.url}/v1`, maxRetries: 0 });
    const stream = await client.chat.completions.create({
      ...{ model: MODEL, messages: HI, stream: true, max_tokens: 4_000 },
      stream_options: { include_usage: true },
    });
    const ends: unknown[] = [];
    let last: OpenAI.ChatCompletionChunk | undefined;
    for await (const chunk of stream) {
      last = chunk;
      if (chunk.choices[0]?.finish_reason) ends.push([chunk.choices[0].finish_reason, chunk]);
    }
    const stop_reason = { code: "insufficient_balance", message: expect.any(String) };
    expect(ends).toEqual([["length", expect.objectContaining({ stop_reason })]]);
    expect(last?.usage).toMatchObject({ completion_tokens: STEP / 5 });
    await expectPaid(gateway, id, { output_tokens: BigInt(STEP / 5) });
  });

  test("because its key was disabled stops at the next part, with every answer ended", async () => {
    const { id, secret } = await gateway.createChild();
    const asked = byHand();
    const answer = streamed(gateway, secret, { max_tokens: 1_000, n: 2 });
    const { response } = await asked;
    response.write(text("x".repeat(40)) + text("y".repeat(40), 1) + finish(1));
    await vi.waitFor(async () => expect((await booksOf(gateway, id)).open).toHaveLength(1));
    const owner = { kind: "owner", account: gateway.account } as const;
    const ref = { managementKey: gateway.managementKey, child: id };
    await changeChildKey(gateway.sql, owner, ref, { status: "disabled" });
    response.write(text("x".repeat(80)));
    await new Promise((resolve) => response.on("close", resolve));
    const { finishes, stop, done } = await answer;
    expect(finishes).toEqual(["stop", "length"]);
    expect(stop).toMatchObject({ code: "invalid_api_key" });
    expect(done).toBe(true);
    const { paid, open } = await booksOf(gateway, id);
    expect(open).toEqual([]);
    expect(paid).toHaveLength(1);
  });

  test("tells when a daily limit begins anew, and what siblings hold is theirs", async () => {
    const body = bodyOf({ max_tokens: 4_000 });
    const limitDaily = ceiling(body, 2 * STEP);
    const { id, secret } = await gateway.createChild({ limitDaily });
    upstream.behave(({ response }) => void writesForEver(response, text("word ")));
    const answer = await streamed(gateway, secret, body);
    const midnight = new Date(Date.now() + 86_400_000).toISOString().slice(0, 10);
    expect(answer.stop).toMatchObject({ resets_at: `${midnight}T00:00:00.000Z` });
    const [row] = await gateway.sql<{ used_daily: bigint }[]>`
      select used_daily from child_key where id = ${id}`;
    const { paid } = await booksOf(gateway, id);
    expect(row?.used_daily).toBe(paid[0]?.cost);
  });

  test("says why over RPC too, in the chunk that ends it and in no other", async () => {
    const { secret } = await gateway.createChild({
      limitDaily: ceiling(bodyOf({ max_tokens: 4_000 }), 2 * STEP),
    });
    upstream.behave(({ response }) => void writesForEver(response, text("word ")));
    const client = createClient(
      InferenceService,
      createConnectTransport({ baseUrl: gateway.url, httpVersion: "1.1" }),
    );
    const headers = { authorization: `Bearer ${secret}` };
    const completion = { model: MODEL, messages: HI, maxTokens: 4_000 };
    const chunks = [];
    for await (const chunk of client.streamChatCompletion({ completion }, { headers })) {
      chunks.push(chunk);
    }
    const ends = chunks.filter(({ stopReason }) => stopReason !== undefined);
    expect(ends.map(({ choices }) => choices[0]?.finishReason)).toEqual(["length"]);
    expect(ends[0]?.stopReason).toMatchObject({
      code: "child_key_limit_exceeded",
      message: "the spend limit of this key is reached",
    });
    const tomorrow = Math.floor(Date.now() / 86_400_000 + 1) * 86_400;
    expect(ends[0]?.stopReason?.resetsAt).toMatchObject({ seconds: BigInt(tomorrow), nanos: 0 });
    expect(chunks.at(-1)?.usage?.estimated).toBe(true);
  });

  test("does so for each of many at once, and together they never spend more than the limit", async () => {
    const body = bodyOf({ max_tokens: 2_000 });
    const limitTotal = 12n * ceiling(body, STEP);
    const { id, secret } = await gateway.createChild({ limitTotal });
    upstream.behave(({ response }) => void writesForEver(response, text("some words ".repeat(8))));
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => streamed(gateway, secret, body)),
    );
    for (const { finishes, stop, done, error } of answers) {
      expect([finishes, done, error]).toEqual([["length"], true, undefined]);
      if (stop !== undefined) expect(stop.code).toBe("child_key_limit_exceeded");
    }
    const { paid, open, ended } = await booksOf(gateway, id);
    expect([open.length, paid.length]).toEqual([0, 8]);
    const cost = paid.reduce((sum, it) => sum + it.cost, 0n);
    expect(cost).toBeLessThanOrEqual(limitTotal);
    expect(ended.length).toBeGreaterThan(8);
  });
});

test("a caller who hangs up a growing stream pays for what was produced, all parts ended", async () => {
  const { id, secret } = await gateway.createChild();
  upstream.behave(({ response }) => void writesForEver(response, text("word ")));
  const abort = new AbortController();
  const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}` },
    body: JSON.stringify(bodyOf({ max_tokens: 8_000 })),
    signal: abort.signal,
  });
  await answer.body?.getReader().read();
  abort.abort();
  await vi.waitFor(async () => {
    const { open, paid } = await booksOf(gateway, id);
    expect([open.length, paid.length]).toEqual([0, 1]);
  });
});

test("a stream that is shorter than its first step is never asked for more", async () => {
  const { id, secret } = await gateway.createChild();
  upstream.behave(plays(text("short"), finish(), usage(2, 1), DONE));
  const { finishes } = await streamed(gateway, secret, { max_tokens: 1_000 });
  expect(finishes).toEqual(["stop"]);
  expect((await booksOf(gateway, id)).ended).toHaveLength(1);
  await expectPaid(gateway, id, { cost: priceOf(DEMO_PRICE, 2n, 1n) });
});

// Last: from here on it is tomorrow
test("a hold that grows over midnight counts each part in the period in which it was authorized", async () => {
  const { id, secret } = await gateway.createChild({ limitDaily: 10_000_000n });
  const today = new Date().toISOString().slice(0, 10);
  const tomorrow = new Date(Date.parse(today) + 86_400_000).toISOString().slice(0, 10);
  const asked = byHand();
  await setClock(gateway.sql, `${today}T23:59:59Z`);
  const answer = streamed(gateway, secret, { max_tokens: 150 });
  const { response } = await asked;
  await setClock(gateway.sql, `${tomorrow}T00:00:01Z`);
  response.write(text("x".repeat(60)));
  await vi.waitFor(async () => expect((await booksOf(gateway, id)).open).toHaveLength(2));
  response.end(`${finish()}${usage(1, 140)}${DONE}`);
  await answer;
  const { ended } = await booksOf(gateway, id);
  expect(ended.map(({ day }) => day)).toEqual([today, tomorrow]);
});
