import { pino } from "pino";
import { afterEach, expect, test, vi } from "vitest";
import { Refusal } from "../../src/base/errors.js";
import { createLog } from "../../src/base/log.js";
import type { Dialect } from "../../src/inference/kind.js";
import { STRICT } from "../../src/inference/strict.js";
import type { UpstreamSpec } from "../../src/inference/upstream.js";
import { createUpstreams, type Upstreams } from "../../src/inference/upstreams.js";
import { createDice } from "../chaos/dice.js";
import {
  answers,
  type Behaviour,
  deadUrl,
  says,
  specOf,
  startUpstream,
  type TestUpstream,
} from "../support/upstreams.js";

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const close of closers.splice(0).reverse()) await close();
});

/** The clock that upstreams are left alone by stands still, and goes on only when told. */
function stopClock() {
  vi.useFakeTimers({ toFake: ["performance"] });
  return { goOn: (ms: number) => vi.advanceTimersByTime(ms) };
}

async function upstream(behaviour: Behaviour): Promise<TestUpstream> {
  const started = await startUpstream(behaviour);
  closers.push(started.close);
  return started;
}

type Fields = Partial<UpstreamSpec> & { url: string };

/** Named a, b, c ... in their order. */
function opened(...all: Fields[]): Upstreams {
  const specs = all.map((fields, i) => specOf({ name: "abc"[i] ?? "more", ...fields }));
  const upstreams = createUpstreams(specs, createLog("silent", "test"));
  closers.push(upstreams.close);
  return upstreams;
}

interface Wanted {
  model?: string;
  dialect?: Dialect;
  signal?: AbortSignal;
}

/** What came of a request: "a 200", or the refusal's reason and the seconds to wait. */
async function asking(upstreams: Upstreams, wanted: Wanted = {}): Promise<string> {
  const { model = "m", dialect = "openai", signal = new AbortController().signal } = wanted;
  const route = upstreams.route(model, dialect);
  if (route === undefined) return "no route";
  try {
    const bodyFor = (id: string) => JSON.stringify({ model: id });
    const exchange = await route.post("/chat/completions", bodyFor, signal);
    exchange.discard();
    const wait = exchange.status === 200 ? "" : ` ${exchange.retryAfter ?? "-"}`;
    return `${exchange.upstream} ${exchange.status}${wait}`;
  } catch (error) {
    if (!(error instanceof Refusal)) return String(error);
    return `${error.reason} ${error.details.retryAfter ?? "-"}`;
  }
}

async function many(times: number, work: () => Promise<string>): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const answer of await Promise.all(Array.from({ length: times }, work))) {
    counts[answer] = (counts[answer] ?? 0) + 1;
  }
  return counts;
}

const standingOf = (upstreams: Upstreams, name: string) => {
  const found = upstreams.standing().find((it) => it.name === name);
  if (found === undefined) throw new Error(`no upstream ${name}`);
  return found;
};

test("a model goes to those that name it, by the id that it has there, every other to those that name none", async () => {
  const [a, b] = [await upstream(answers()), await upstream(answers())];
  const models = new Map([["m1", "Vendor/M1"]]);
  const upstreams = opened({ url: a.url, models }, { url: b.url });
  expect(await asking(upstreams, { model: "m1" })).toBe("a 200");
  expect(await asking(upstreams, { model: "m2" })).toBe("b 200");
  // Ids are told apart by case
  expect(await asking(upstreams, { model: "M1" })).toBe("b 200");
  expect(a.visits.map(({ body }) => body.model)).toEqual(["Vendor/M1"]);
  expect(b.visits.map(({ body }) => body.model)).toEqual(["m2", "M1"]);
  const named = opened({ url: a.url, models });
  expect([named.serves("m1"), named.serves("m2")]).toEqual([true, false]);
  expect(named.route("m2", "openai")).toBeUndefined();
});

test("an upstream is asked in its own dialect only, with the key where that dialect has it", async () => {
  const [a, b] = [await upstream(answers()), await upstream(answers())];
  const upstreams = opened(
    { url: a.url, models: new Map([["m1", "m1"]]), dialect: "anthropic", key: "key-a" },
    { url: b.url, key: "key-b" },
  );
  expect(await asking(upstreams, { model: "m1" })).toBe("no route");
  const served = (model: string) => [
    upstreams.serves(model),
    upstreams.serves(model, "openai"),
    upstreams.serves(model, "anthropic"),
  ];
  expect([served("m1"), served("m2")]).toEqual([
    [true, false, true],
    [true, true, false],
  ]);
  expect(await asking(upstreams, { model: "m1", dialect: "anthropic" })).toBe("a 200");
  expect(await asking(upstreams, { model: "m2", dialect: "anthropic" })).toBe("no route");
  expect(await asking(upstreams, { model: "m2" })).toBe("b 200");
  const [toA, toB] = [a.visits[0]?.headers, b.visits[0]?.headers];
  expect(toA).toMatchObject({ "x-api-key": "key-a", "anthropic-version": "2023-06-01" });
  expect(toA).not.toHaveProperty("authorization");
  expect(toB).toMatchObject({ authorization: "Bearer key-b" });
  expect(toB).not.toHaveProperty("x-api-key");
});

test("upstreams of one priority share the requests by their weights", async () => {
  const url = (await upstream(answers())).url;
  const upstreams = opened({ url, weight: 1 }, { url, weight: 2 }, { url, weight: 7 });
  const counts: Record<string, number> = {};
  for (let i = 0; i < 30; i++) {
    for (const [who, n] of Object.entries(await many(20, () => asking(upstreams)))) {
      counts[who] = (counts[who] ?? 0) + n;
    }
  }
  // Six standard deviations of 600 throws
  for (const [who, share] of [
    ["a 200", 0.1],
    ["b 200", 0.2],
    ["c 200", 0.7],
  ] as const) {
    const tolerance = 6 * Math.sqrt((share * (1 - share)) / 600);
    expect(Math.abs((counts[who] ?? 0) / 600 - share)).toBeLessThan(tolerance);
  }
});

test("a later priority is asked only where nobody of an earlier one can take it", async () => {
  const [a, b] = [await upstream(answers()), await upstream(answers())];
  const upstreams = opened({ url: b.url, priority: 5 }, { url: a.url, priority: 0 });
  expect(await many(30, () => asking(upstreams))).toEqual({ "b 200": 30 });
  a.behave(says(503));
  expect(await many(30, () => asking(upstreams))).toEqual({ "a 200": 30 });
});

test.each([402, 403, 429, 500, 502, 503, 529])(
  "a %i before the first byte of an answer goes to another upstream",
  async (status) => {
    const [a, b] = [await upstream(says(status)), await upstream(answers())];
    const upstreams = opened({ url: a.url }, { url: b.url, priority: 1 });
    expect(await asking(upstreams)).toBe("b 200");
    expect([a.visits.length, b.visits.length]).toEqual([1, 1]);
    expect(standingOf(upstreams, "a")).toMatchObject({ inFlight: 0, retries: 1 });
  },
);

test("an upstream that cannot be reached costs nothing but another one's turn", async () => {
  const b = await upstream(answers());
  const upstreams = opened({ url: await deadUrl() }, { url: b.url, priority: 1 });
  expect(await many(20, () => asking(upstreams))).toEqual({ "b 200": 20 });
  const { state, troubles, outcomes } = standingOf(upstreams, "a");
  expect([state, troubles[0]?.problem]).toEqual(["open", expect.stringContaining("REFUSED")]);
  expect(outcomes).toMatchObject({ unreachable: 20, broken: 0 });
});

test.each([400, 401, 404, 408, 413, 422, 504])(
  "a %i is nobody else's business: it is not asked twice",
  async (status) => {
    const [a, b] = [await upstream(says(status)), await upstream(answers())];
    const upstreams = opened({ url: a.url }, { url: b.url, priority: 1 });
    expect(await asking(upstreams)).toContain(`a ${status}`);
    expect([a.visits.length, b.visits.length]).toEqual([1, 0]);
  },
);

test("what an upstream may have worked on is never asked twice: no head in time, a reset, a broken answer", async () => {
  const silent: Behaviour = () => {};
  const reset: Behaviour = ({ response }) => response.destroy();
  const breaks: Behaviour = ({ response }) =>
    response.writeHead(200).write("{", () => response.destroy());
  const b = await upstream(answers());
  for (const [behaviour, outcome] of [
    [silent, "upstream_timeout -"],
    [reset, "model_unavailable -"],
    [breaks, "a 200"],
  ] as const) {
    const a = await upstream(behaviour);
    const upstreams = opened({ url: a.url }, { url: b.url, priority: 1 });
    expect(await asking(upstreams)).toBe(outcome);
    await vi.waitFor(() => expect(standingOf(upstreams, "a").inFlight).toBe(0));
    expect([a.visits.length, b.visits.length]).toEqual([1, 0]);
  }
});

test("one request asks three upstreams at most", async () => {
  const all = await Promise.all(Array.from({ length: 5 }, () => upstream(says(502))));
  const upstreams = opened(...all.map(({ url }) => ({ url })));
  expect(await asking(upstreams)).toContain("502");
  expect(all.reduce((sum, { visits }) => sum + visits.length, 0)).toBe(3);
});

test("the only upstream is asked once more where nothing was sent, and after no answer of its own", async () => {
  const dead = opened({ url: await deadUrl() });
  expect(await asking(dead)).toBe("model_unavailable -");
  expect(standingOf(dead, "a")).toMatchObject({ retries: 1, outcomes: { unreachable: 2 } });
  const a = await upstream(says(503));
  expect(await asking(opened({ url: a.url }))).toBe("a 503 -");
  expect(a.visits.length).toBe(1);
});

test("an upstream that says when to come back is left alone until then, and the caller learns it", async () => {
  stopClock();
  const a = await upstream(says(429, { "retry-after": 2 }));
  const alone = opened({ url: a.url });
  expect(await asking(alone)).toBe("a 429 2");
  expect(await many(5, () => asking(alone))).toEqual({ "upstream_rate_limited 2": 5 });
  expect(a.visits.length).toBe(1);
  // Another model there is not concerned
  a.behave(says(503, { "retry-after": 10 }));
  expect(await asking(alone, { model: "other" })).toBe("a 503 10");
  expect(await asking(alone, { model: "other" })).toBe("model_unavailable 10");

  const b = await upstream(says(429, { "retry-after": 60 }));
  const both = opened({ url: a.url }, { url: b.url, priority: 1 });
  a.behave(says(429, { "retry-after": 5 }));
  // Whoever is ready first says when
  expect(await asking(both)).toBe("b 429 5");
  expect(await asking(both)).toBe("upstream_rate_limited 5");
});

test("an upstream that is ready again is asked again, no sooner", async () => {
  const clock = stopClock();
  const a = await upstream(says(429, { "retry-after": 7 }));
  const upstreams = opened({ url: a.url });
  expect(await asking(upstreams)).toBe("a 429 7");
  a.behave(answers());
  clock.goOn(6_999);
  expect(await asking(upstreams)).toBe("upstream_rate_limited 1");
  clock.goOn(1);
  expect(await asking(upstreams)).toBe("a 200");
});

test("a circuit opens on failures, lets one request try, and closes on its success", async () => {
  const clock = stopClock();
  const a = await upstream(says(503));
  const upstreams = opened({ url: a.url });
  const seen = new Set<string>();
  for (let i = 0; i < 8; i++) seen.add(await asking(upstreams));
  expect([...seen]).toEqual(["a 503 -", "a 503 1", "model_unavailable 1"]);
  expect(a.visits.length).toBe(5);
  expect(standingOf(upstreams, "a")).toMatchObject({
    state: "open",
    troubles: [{ model: "m", state: "open", problem: "it answers 503" }],
  });
  // Its other models go on
  a.behave(answers());
  expect(await asking(upstreams, { model: "other" })).toBe("a 200");

  clock.goOn(1_000);
  expect(standingOf(upstreams, "a").state).toBe("half_open");
  const trying = new Promise<() => void>((resolve) => {
    a.behave((visit) => resolve(() => answers()(visit)));
  });
  const probe = asking(upstreams);
  const release = await trying;
  expect(await many(5, () => asking(upstreams))).toEqual({ "model_unavailable 1": 5 });
  a.behave(answers());
  release();
  expect(await probe).toBe("a 200");
  expect(standingOf(upstreams, "a")).toMatchObject({ state: "closed", troubles: [] });
  expect(await many(5, () => asking(upstreams))).toEqual({ "a 200": 5 });
});

test("a request that makes an upstream fail keeps no other out, however often it is sent", async () => {
  stopClock();
  const [a, b] = [await upstream(says(500)), await upstream(says(500))];
  const upstreams = opened({ url: a.url }, { url: b.url });
  for (let i = 0; i < 12; i++) await asking(upstreams);
  expect(upstreams.standing().map(({ state }) => state)).toEqual(["open", "open"]);
  // Each is asked by itself now: a failure costs nobody else's time
  const before = a.visits.length + b.visits.length;
  expect(await asking(upstreams)).toMatch(/^[ab] 500/);
  expect(a.visits.length + b.visits.length).toBe(before + 1);
  for (const it of [a, b]) it.behave(answers());
  expect(await asking(upstreams)).toMatch(/^[ab] 200/);
});

test("an upstream that does not take our key is left alone at once, and the others go on", async () => {
  const [a, b] = [await upstream(says(401)), await upstream(answers())];
  const upstreams = opened({ url: a.url }, { url: b.url, priority: 1 });
  expect(await asking(upstreams)).toBe("a 401 -");
  expect(await many(10, () => asking(upstreams))).toEqual({ "b 200": 10 });
  expect(a.visits.length).toBe(1);
  const { troubles, outcomes } = standingOf(upstreams, "a");
  expect(troubles).toMatchObject([{ model: undefined, state: "open" }]);
  expect(outcomes.account).toBe(1);
});

test("the operator's log tells of retries, of circuits and of our account, and never the key", async () => {
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: "info" }, { write: (line) => lines.push(JSON.parse(line)) });
  const [a, b] = [await upstream(says(402)), await upstream(says(503))];
  const specs = [
    specOf({ name: "a", url: a.url, key: "secret-of-a", priority: 0 }),
    specOf({ name: "b", url: b.url, key: "secret-of-b", priority: 1 }),
  ];
  const upstreams = createUpstreams(specs, log);
  closers.push(upstreams.close);
  for (let i = 0; i < 5; i++) await asking(upstreams);
  const told = lines.map(({ level, upstream: name, msg }) => `${level} ${name} ${msg}`);
  const times = (text: string) => told.filter((line) => line.includes(text)).length;
  expect(times("50 a an upstream refuses our key or our account there")).toBe(5);
  expect(times("40 a asking another upstream")).toBe(5);
  expect(times("50 a circuit opened")).toBe(1);
  expect(times("50 b circuit opened")).toBe(1);
  expect(lines).toContainEqual(expect.objectContaining({ model: "m", problem: "it answers 402" }));
  expect(JSON.stringify(lines)).not.toContain("secret-of");
});

test("an upstream gets no more at once than it may, the next one the rest, and nobody waits in line", async () => {
  const waiting: (() => void)[] = [];
  const holds: Behaviour = (visit) => waiting.push(() => answers()(visit));
  const [a, b] = [await upstream(holds), await upstream(holds)];
  const upstreams = opened(
    { url: a.url, maxConcurrent: 3 },
    { url: b.url, maxConcurrent: 2, priority: 1 },
  );
  const all = many(8, () => asking(upstreams));
  await vi.waitFor(() => expect(waiting).toHaveLength(5));
  expect(await asking(upstreams)).toBe("upstream_rate_limited 1");
  expect(upstreams.standing().map(({ inFlight }) => inFlight)).toEqual([3, 2]);
  for (const release of waiting) release();
  expect(await all).toEqual({ "a 200": 3, "b 200": 2, "upstream_rate_limited 1": 3 });
  await vi.waitFor(() =>
    expect(upstreams.standing().map(({ inFlight }) => inFlight)).toEqual([0, 0]),
  );
});

test("a caller who hangs up during the second attempt ends it there, and leaves its place", async () => {
  const [a, b] = [await upstream(says(503)), await upstream(() => {})];
  const upstreams = opened({ url: a.url }, { url: b.url, priority: 1, maxConcurrent: 1 });
  const gone = new AbortController();
  const asked = asking(upstreams, { signal: gone.signal });
  await vi.waitFor(() => expect(b.visits).toHaveLength(1));
  const closed = new Promise((resolve) => b.visits[0]?.response.on("close", resolve));
  gone.abort(new Error("gone"));
  expect(await asked).toBe("Error: gone");
  await closed;
  expect(standingOf(upstreams, "b")).toMatchObject({ inFlight: 0, outcomes: { hung_up: 1 } });
  b.behave(answers());
  expect(await asking(upstreams)).toBe("b 200");
});

test("whatever upstreams and callers do, every place is given back, and no answer is lost or doubled", async () => {
  const dice = createDice(Date.now() % 1_000_000_007);
  const breaks: Behaviour = ({ response }) =>
    response.writeHead(200).write("{", () => response.destroy());
  const behaviours: Behaviour[] = [
    ...[answers(), answers(), answers(), breaks, () => {}],
    ({ response }) => response.destroy(),
    ...[400, 429, 500, 503, 504].map((status) => says(status)),
  ];
  const random: Behaviour = (visit) => dice.pick(behaviours)?.(visit);
  const started = [await upstream(random), await upstream(random), await upstream(random)];
  const upstreams = opened(
    ...started.map(({ url }, i) => ({
      ...{ url, maxConcurrent: 12, priority: i % 2, timeouts: { headers: 300, idle: 300 } },
    })),
  );
  let got = 0;
  const one = async (model: string) => {
    const line = new AbortController();
    const timer =
      dice.chance(0.3) && setTimeout(() => line.abort(new Error("gone")), dice.int(0, 40));
    try {
      const route = upstreams.route(model, "openai");
      const exchange = await route?.post("/x", () => "{}", line.signal);
      if (exchange?.status === 200) got += 1;
      const then = dice.int(1, 3);
      if (then === 1) exchange?.cancel();
      if (then === 2) exchange?.discard();
      if (then === 3) while (await exchange?.read());
    } catch {
      // Whatever it is: what counts is what is left behind
    } finally {
      if (timer) clearTimeout(timer);
    }
  };
  for (let round = 0; round < 8; round++) {
    await Promise.all(Array.from({ length: 60 }, (_, i) => one(`m${round}-${i % 3}`)));
  }
  await vi.waitFor(() =>
    expect(upstreams.standing().map(({ inFlight }) => inFlight)).toEqual([0, 0, 0]),
  );
  const all = upstreams.standing().map(({ outcomes }) => outcomes.answered);
  expect(all.reduce((sum, n) => sum + n, 0)).toBe(got);
  expect(got).toBeGreaterThan(20);
});

test("models that nobody serves leave nothing behind, however many are asked for", async () => {
  const a = await upstream(answers());
  const upstreams = opened({ url: a.url });
  for (let i = 0; i < 1_000; i++) upstreams.route(`made-up-${i}`, "openai");
  expect(await many(3, () => asking(upstreams))).toEqual({ "a 200": 3 });
  expect(a.visits.length).toBe(3);
});

test("a strict upstream knows no parameter that OpenAI's own API does not have", () => {
  for (const ours of ["model", "n", "max_tokens", "stream", "stream_options"]) {
    expect(STRICT.has(ours)).toBe(false);
  }
  expect(STRICT.has("top_k")).toBe(false);
});
