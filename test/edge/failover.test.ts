import OpenAI, { APIError } from "openai";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { expectBooksAreRight } from "../support/books.js";
import { startTestGateway, type TestGateway } from "../support/gateway.js";
import { answers, says, startUpstream, type TestUpstream } from "../support/upstreams.js";

const HI = [{ role: "user" as const, content: "hi" }];
/** Each test has a model of its own, since circuits are kept for each. */
const MODELS = ["demo/fast", "demo/slow", "demo/long", "demo/no-usage", "demo/cut", "demo/hang"];

let first: TestUpstream;
let second: TestUpstream;
let gateway: TestGateway;
let model: string;
let next = 0;
beforeAll(async () => {
  [first, second] = [await startUpstream(answers("first")), await startUpstream(answers("second"))];
  gateway = await startTestGateway({
    upstreams: [
      { name: "first", url: first.url, idle_timeout_seconds: 2 },
      { name: "second", url: second.url, priority: 1, idle_timeout_seconds: 2 },
    ],
  });
});
beforeEach(() => {
  model = MODELS[next++ % MODELS.length] ?? "";
  first.visits.length = 0;
  second.visits.length = 0;
  second.behave(answers("second"));
});
afterAll(async () => {
  await gateway?.close();
  await Promise.all([first?.close(), second?.close()]);
});

const clientOf = (secret: string, maxRetries = 0) =>
  new OpenAI({ apiKey: secret, baseURL: `${gateway.url}/v1`, maxRetries });

async function recordsOf(child: string) {
  const [open] = await gateway.sql<{ n: number }[]>`
    select count(*)::int n from open_hold where child_key_id = ${child}`;
  const usage = await gateway.sql<{ input_tokens: bigint; output_tokens: bigint }[]>`
    select input_tokens, output_tokens from usage_record where child_key_id = ${child}`;
  return { open: open?.n, usage: usage.map((it) => [it.input_tokens, it.output_tokens]) };
}

const visits = () => [first.visits.length, second.visits.length];

async function errorOf(call: Promise<unknown>): Promise<APIError> {
  const error = await call.catch((reason: unknown) => reason);
  if (!(error instanceof APIError)) throw new Error(`no APIError: ${error}`);
  return error;
}

test("an upstream that refuses before its first byte is replaced unseen, and one answer is paid, in one piece and streamed", async () => {
  const { id, secret } = await gateway.createChild();
  first.behave(says(503));
  const answer = await clientOf(secret).chat.completions.create({ model, messages: HI });
  expect(answer.choices[0]?.message.content).toBe("second");
  const stream = await clientOf(secret).chat.completions.create({
    ...{ model, messages: HI, stream: true },
  });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  expect(text).toBe("second");
  expect(visits()).toEqual([2, 2]);
  expect(await recordsOf(id)).toEqual({
    open: 0,
    usage: [
      [3n, 2n],
      [3n, 2n],
    ],
  });
});

test("after the first byte nobody else is asked: what came is delivered and paid for", async () => {
  const { id, secret } = await gateway.createChild();
  first.behave(({ response }) => {
    const choices = [{ index: 0, delta: { content: "half of it" }, finish_reason: null }];
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: ${JSON.stringify({ id: "x", created: 1, choices })}\n\n`, () =>
      response.destroy(),
    );
  });
  const stream = await clientOf(secret).chat.completions.create({
    ...{ model, messages: HI, stream: true },
  });
  const texts: (string | null | undefined)[] = [];
  const reading = (async () => {
    for await (const chunk of stream) texts.push(chunk.choices[0]?.delta.content);
  })();
  await expect(reading).rejects.toThrow("not available");
  expect(texts).toEqual(["half of it"]);
  expect(visits()).toEqual([1, 0]);
  await vi.waitFor(async () => expect((await recordsOf(id)).open).toBe(0));
  expect((await recordsOf(id)).usage).toHaveLength(1);
});

test("where all refuse, the caller learns the last one's reason and when to come back, and pays nothing", async () => {
  const { id, secret } = await gateway.createChild();
  first.behave(says(503, { "retry-after": 40 }));
  second.behave(says(429, { "retry-after": 30 }));
  const error = await errorOf(clientOf(secret).chat.completions.create({ model, messages: HI }));
  expect([error.status, error.code]).toEqual([429, "upstream_rate_limited"]);
  expect(error.headers?.get("retry-after")).toBe("30");
  expect(error.message).not.toContain("secret-host");
  // While they are left alone the answer is ours, and no other
  const again = await errorOf(clientOf(secret).chat.completions.create({ model, messages: HI }));
  expect([again.status, again.code]).toEqual([429, "upstream_rate_limited"]);
  expect(Number(again.headers?.get("retry-after"))).toBeGreaterThan(20);
  expect(visits()).toEqual([1, 1]);
  expect(await recordsOf(id)).toEqual({ open: 0, usage: [] });
});

test("a caller who hangs up while the second upstream is asked stops it, and pays nothing", async () => {
  const { id, secret } = await gateway.createChild();
  first.behave(says(502));
  const closed = new Promise((resolve) => {
    second.behave(({ response }) => response.on("close", resolve));
  });
  const hangUp = new AbortController();
  const call = clientOf(secret).chat.completions.create(
    { model, messages: HI },
    { signal: hangUp.signal },
  );
  call.catch(() => {});
  await vi.waitFor(() => expect(visits()).toEqual([1, 1]));
  hangUp.abort();
  await closed;
  await vi.waitFor(async () => expect(await recordsOf(id)).toEqual({ open: 0, usage: [] }));
});

test("an SDK's own retries reach a passing fault again, and a definite refusal never", async () => {
  const { id, secret } = await gateway.createChild();
  const cases: [number, number, string][] = [
    // Both refuse once; the next try is the SDK's
    [500, 2, "first"],
    [400, 1, "400"],
    [413, 1, "413"],
  ];
  for (const [status, asked, outcome] of cases) {
    for (const upstream of [first, second]) {
      upstream.visits.length = 0;
      upstream.behave((visit) => {
        const times = upstream.visits.length;
        return times === 1
          ? says(status)(visit)
          : answers(upstream === first ? "first" : "")(visit);
      });
    }
    const answer = await clientOf(secret, 2)
      .chat.completions.create({ model, messages: HI })
      .then((it) => it.choices[0]?.message.content)
      .catch((error: APIError) => {
        if (status === 413) expect(error.headers?.get("x-should-retry")).toBe("false");
        return String(error.status);
      });
    expect([status, answer, first.visits.length]).toEqual([status, outcome, asked]);
  }
  expect((await recordsOf(id)).usage).toHaveLength(1);
});

test("an upstream that refuses our account is for the operator to see, never for the caller", async () => {
  const { secret } = await gateway.createChild();
  for (const upstream of [first, second]) upstream.behave(says(402));
  const error = await errorOf(clientOf(secret).chat.completions.create({ model, messages: HI }));
  expect([error.status, error.code]).toEqual([503, "model_unavailable"]);
  first.behave(says(401));
  await errorOf(clientOf(secret).chat.completions.create({ model, messages: HI }));

  const metrics = await (await fetch(`${gateway.url}/metrics`)).text();
  const value = (name: string) => metrics.split("\n").find((line) => line.startsWith(name));
  const figures = [
    'keytoll_upstream_requests_total{upstream="first",outcome="account"} 2',
    'keytoll_upstream_circuit{upstream="first",model=""} 2',
    'keytoll_upstream_in_flight{upstream="first"} 0',
  ];
  for (const figure of figures) expect(value(figure.slice(0, -1))).toBe(figure);
  expect(value('keytoll_upstream_retries_total{upstream="first"}')).toMatch(/ [1-9][0-9]*$/);

  const ready = (await (await fetch(`${gateway.url}/readyz`)).json()) as {
    dependencies: { name: string; ready: boolean; required: boolean; detail: string }[];
  };
  const upstreams = ready.dependencies.filter(({ name }) => name.startsWith("upstream"));
  expect(upstreams).toMatchObject([
    { name: "upstream first", ready: false, required: false },
    { name: "upstream second", ready: true, required: false },
  ]);
  expect(upstreams[0]?.detail).toMatch(/^circuit open; 0 in flight; .*our key \(401\)/);
  expect(upstreams[1]?.detail).toBe("circuit closed; 0 in flight");
});

test("after all that the books are right", async () => {
  await expectBooksAreRight(gateway.sql);
});
