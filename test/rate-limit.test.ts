import { type AddressInfo, connect, createServer } from "node:net";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { createLog } from "../src/base/log.js";
import { openRedis } from "../src/db/redis.js";
import { admit } from "../src/inference/admit.js";
import type { ChildCaller } from "../src/keys/caller.js";
import { createRateLimiter, type Limit, type RateLimiter } from "../src/keys/rate-limit.js";
import { redisUrl } from "./support/services.js";

const quiet = createLog("silent", "test");
let keys = 0;
const aKey = () => `key-${++keys}-${Math.random()}`;
const takeMany = (limiter: RateLimiter, key: string, count: number, limit: number) =>
  Promise.all(Array.from({ length: count }, () => limiter.take(key, limit)));

const rate = (key: string, limit: number): Limit => ({ kind: "rate", name: "test", key, limit });
const slots = (key: string, limit: number): Limit => ({ kind: "slots", name: "test", key, limit });
const aCaller: ChildCaller = {
  ...{ kind: "child", account: "a", child: "c", managementKey: "m", secretVersion: 1 },
  ...{ rateLimitRpm: null, accountLimits: { rateLimitRpm: null, concurrency: null } },
  models: null,
  costFields: "neutral",
};

describe("in this process alone", () => {
  afterEach(() => {
    vi.useRealTimers();
  });
  const fake = () => vi.useFakeTimers({ toFake: ["performance", "Date"] });

  test("no more than N requests pass in any 60 s, whenever they come", async () => {
    fake();
    const limiter = createRateLimiter({ redis: undefined, log: quiet });
    const key = aKey();
    const allowed: number[] = [];
    for (let now = 0; now < 300; now++) {
      // bursts that would fool windows that begin at fixed times
      for (let i = 0; i < (now % 7) + 1; i++) {
        if ((await limiter.take(key, 10)).allowed) allowed.push(now);
      }
      vi.advanceTimersByTime(1_000);
    }
    const most = Math.max(
      ...allowed.map((from) => allowed.filter((at) => at >= from && at < from + 60).length),
    );
    expect(most).toBe(10);
    expect(allowed.length).toBe(50);
  });

  test("refused requests do not count, and the answer tells when one more is allowed", async () => {
    fake();
    const limiter = createRateLimiter({ redis: undefined, log: quiet });
    const key = aKey();
    expect(await limiter.take(key, 2)).toEqual({
      allowed: true,
      limit: 2,
      remaining: 1,
      retryAfterSeconds: 0,
      retryAfterMs: 0,
      resetSeconds: 60,
    });
    vi.advanceTimersByTime(20_000);
    expect(await limiter.take(key, 2)).toMatchObject({ remaining: 0, resetSeconds: 40 });
    for (let i = 0; i < 50; i++) {
      expect(await limiter.take(key, 2)).toMatchObject({ allowed: false, retryAfterSeconds: 40 });
    }
    vi.advanceTimersByTime(38_766);
    expect(await limiter.take(key, 2)).toMatchObject({ retryAfterSeconds: 2, retryAfterMs: 1_234 });
    vi.advanceTimersByTime(1_233);
    expect(await limiter.take(key, 2)).toMatchObject({ retryAfterSeconds: 1, retryAfterMs: 1 });
    vi.advanceTimersByTime(1);
    expect((await limiter.take(key, 2)).allowed).toBe(true);
    expect(await limiter.take(key, 2)).toMatchObject({ allowed: false, retryAfterSeconds: 20 });
  });

  test("after its Retry-After, if nothing else comes, a request passes all its limits", async () => {
    fake();
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(70_000), { maxLength: 60 }), async (waits) => {
        const limiter = createRateLimiter({ redis: undefined, log: quiet });
        const limits = [rate("a", 3), rate("b", 7), rate("c", 5)];
        for (const [i, wait] of waits.entries()) {
          const mine = limits.slice(i % 2);
          const { allowed, retryAfterSeconds } = await limiter.enter(mine);
          if (!allowed) {
            vi.advanceTimersByTime(retryAfterSeconds * 1_000);
            expect((await limiter.enter(mine)).allowed).toBe(true);
          }
          vi.advanceTimersByTime(wait % 5 === 0 ? 0 : wait);
        }
      }),
      { numRuns: 200 },
    );
  });

  test("a refused request counts against none of its limits, and its slots are never taken", async () => {
    fake();
    const limiter = createRateLimiter({ redis: undefined, log: quiet });
    const [tight, wide, places] = [rate("t", 1), rate("w", 2), slots("p", 1)];
    const first = await limiter.enter([tight, wide, places]);
    expect(first.allowed).toBe(true);
    first.leave();
    for (let i = 0; i < 5; i++)
      expect((await limiter.enter([wide, tight, places])).allowed).toBe(false);
    expect(await limiter.enter([wide, places])).toMatchObject({ allowed: true });
    const wait = { retryAfterSeconds: 1, retryAfterMs: 1_000 };
    expect(await limiter.enter([places])).toMatchObject({ allowed: false, ...wait });
    expect(limiter.standing().refused.get("test")).toBe(6);
  });

  test("a limit that is lowered or raised holds at once", async () => {
    fake();
    const limiter = createRateLimiter({ redis: undefined, log: quiet });
    const key = aKey();
    await takeMany(limiter, key, 5, 5);
    expect(await limiter.take(key, 3)).toMatchObject({ allowed: false, remaining: 0 });
    expect(await limiter.take(key, 6)).toMatchObject({ allowed: true, remaining: 0 });
  });
});

describe.skipIf(!redisUrl())("in redis", () => {
  let redis: Redis;
  let other: Redis;

  beforeAll(async () => {
    // What is counted here must not depend on how busy the machine is
    [redis, other] = [1, 2].map(() => new Redis(redisUrl() ?? "")) as [Redis, Redis];
    await vi.waitFor(() => Promise.all([redis.ping(), other.ping()]));
  });
  afterAll(() => {
    redis.disconnect();
    other.disconnect();
  });
  /** Makes the counted requests of a key older. */
  async function age(key: string, ms: number): Promise<void> {
    const list = `keytoll:rate:${key}`;
    const times = await redis.lrange(list, 0, -1);
    const all = times.map((time, i) => redis.lset(list, i, `${Number(time) - ms * 1_000}`));
    await Promise.all(all);
  }

  test("a limit of 50 admits exactly 50 of 400 concurrent requests, from two gateways", async () => {
    const limiters = [redis, other].map((it) => createRateLimiter({ redis: it, log: quiet }));
    const key = aKey();
    const answers = await Promise.all(limiters.map((it) => takeMany(it, key, 200, 50)));
    expect(answers.flat().filter((it) => it.allowed)).toHaveLength(50);
  });

  /** A gateway that has counted nothing itself, so that Redis decides. */
  const fresh = () => createRateLimiter({ redis, log: quiet });

  test("the window slides: each request leaves it 60 s after it came", async () => {
    const key = aKey();
    await takeMany(fresh(), key, 2, 4);
    await age(key, 30_000);
    await takeMany(fresh(), key, 2, 4);
    const refused = await fresh().take(key, 4);
    expect(refused).toMatchObject({ allowed: false, remaining: 0, limit: 4 });
    expect(refused.retryAfterSeconds).toBeGreaterThanOrEqual(29);
    expect(refused.retryAfterSeconds).toBeLessThanOrEqual(30);
    await age(key, 30_000);
    const answers = await takeMany(fresh(), key, 3, 4);
    expect(answers.map((it) => it.allowed)).toEqual([true, true, false]);
  });

  test("refused requests do not count, and a changed limit holds at once", async () => {
    const limiter = createRateLimiter({ redis, log: quiet });
    const key = aKey();
    await takeMany(limiter, key, 30, 5);
    expect(await redis.llen(`keytoll:rate:${key}`)).toBe(5);
    expect(await limiter.take(key, 3)).toMatchObject({ allowed: false, remaining: 0 });
    expect(await limiter.take(key, 6)).toMatchObject({ allowed: true, remaining: 0 });
    await age(key, 61_000);
    expect(await fresh().take(key, 6)).toMatchObject({ allowed: true, remaining: 5 });
    expect(await redis.pttl(`keytoll:rate:${key}`)).toBeGreaterThan(59_000);
  });

  test("a request is one round trip, however many limits it has, and none where it has none", async () => {
    const limiter = createRateLimiter({ redis, log: quiet });
    await limiter.take(aKey(), 5);
    const sent = vi.spyOn(redis, "sendCommand");
    await limiter.enter([rate(aKey(), 5), rate(aKey(), 5), slots(aKey(), 5)]);
    expect(sent).toHaveBeenCalledTimes(1);
    const accountLimits = { rateLimitRpm: null, concurrency: null };
    await admit(limiter, { ...aCaller, accountLimits });
    expect(sent).toHaveBeenCalledTimes(1);
    sent.mockRestore();
  });

  test("what this gateway alone has used up is refused without asking", async () => {
    const limiter = createRateLimiter({ redis, log: quiet });
    const key = aKey();
    await takeMany(limiter, key, 2, 2);
    const sent = vi.spyOn(redis, "sendCommand");
    const refused = await takeMany(limiter, key, 50, 2);
    expect(sent).not.toHaveBeenCalled();
    sent.mockRestore();
    expect(new Set(refused.map((it) => it.retryAfterSeconds))).toEqual(new Set([61]));
    expect(new Set(refused.map((it) => it.retryAfterMs))).toEqual(new Set([59_999]));
    const { retryAfterSeconds, retryAfterMs } = await fresh().take(key, 2);
    expect(retryAfterSeconds).toBe(60);
    expect(Math.ceil(retryAfterMs / 1_000)).toBe(60);
    expect(retryAfterMs).toBeLessThan(60_000);
  });

  test("after its Retry-After, if nothing else comes, a request passes all its limits", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(70_000), { maxLength: 12 }), async (waits) => {
        const limits = [rate(aKey(), 3), rate(aKey(), 5)];
        for (const wait of waits) {
          const { allowed, retryAfterSeconds } = await fresh().enter(limits);
          if (!allowed) {
            await ageAll(limits, retryAfterSeconds * 1_000);
            expect((await fresh().enter(limits)).allowed).toBe(true);
          }
          await ageAll(limits, wait);
        }
      }),
      { numRuns: 15 },
    );
  });
  const ageAll = async (limits: Limit[], ms: number) => {
    for (const { key } of limits) await age(key, ms);
  };

  test("of 300 requests at once through two gateways, no more run than there are slots", async () => {
    const limiters = [redis, other].map((it) => createRateLimiter({ redis: it, log: quiet }));
    const limits = [slots(aKey(), 20)];
    let running = 0;
    let most = 0;
    let refused = 0;
    const one = async (i: number): Promise<void> => {
      const entry = await (limiters[i % 2] as RateLimiter).enter(limits);
      if (!entry.allowed) {
        refused += 1;
        return;
      }
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, i % 7));
      running -= 1;
      entry.leave();
    };
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: 100 }, (_, i) => one(i)));
    }
    expect(most).toBe(20);
    expect(refused).toBeGreaterThan(0);
    // Nobody waits for a slot to be freed
    const name = `keytoll:rate:${limits[0]?.key}`;
    await vi.waitFor(async () => expect(await redis.zcard(name)).toBe(0));
  });

  test("a refused request counts against none of its limits", async () => {
    const [tight, wide, places] = [rate(aKey(), 1), rate(aKey(), 100), slots(aKey(), 100)];
    await fresh().enter([tight]);
    for (let i = 0; i < 5; i++) {
      expect((await fresh().enter([wide, tight, places])).allowed).toBe(false);
    }
    expect(await redis.llen(`keytoll:rate:${wide.key}`)).toBe(0);
    expect(await redis.zcard(`keytoll:rate:${places.key}`)).toBe(0);
  });

  test("the slots of a killed gateway come back, those of a living one never lapse", async () => {
    const limits = [slots(aKey(), 1)];
    const name = `keytoll:rate:${limits[0]?.key}`;
    await fresh().enter(limits);
    expect((await fresh().enter(limits)).allowed).toBe(false);
    const [entry = ""] = await redis.zrange(name, "0", "-1");
    const deadline = await redis.zscore(name, entry);
    const [seconds, microseconds] = await redis.time();
    const life = Number(deadline) - (Number(seconds) * 1e6 + Number(microseconds));
    expect(life).toBeGreaterThan(0);
    expect(life).toBeLessThanOrEqual(30e6);
    await redis.zadd(name, `${Number(deadline) - 30e6}`, entry);
    expect((await fresh().enter(limits)).allowed).toBe(true);

    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const living = fresh();
    const key = aKey();
    const { leave } = await living.enter([slots(key, 1)]);
    // Redis has lost it
    await redis.del(`keytoll:rate:${key}`);
    vi.advanceTimersByTime(10_000);
    vi.useRealTimers();
    await vi.waitFor(async () => expect(await redis.zcard(`keytoll:rate:${key}`)).toBe(1));
    expect((await fresh().enter([slots(key, 1)])).allowed).toBe(false);
    leave();
    leave();
    await vi.waitFor(async () => expect(await redis.zcard(`keytoll:rate:${key}`)).toBe(0));
    living.close();
  });

  test("what Redis reads long after it was asked counts nothing, unless its clock was set", async () => {
    const limiter = fresh();
    await limiter.take(aKey(), 1);
    const key = aKey();
    // Our clock stood still for two seconds: to Redis it looks as if the request had been on its way
    const clock = vi.spyOn(performance, "now").mockReturnValue(performance.now() - 2_000);
    const evaluated = vi.spyOn(redis, "evalsha");
    expect((await limiter.take(key, 5)).allowed).toBe(true);
    expect(evaluated).toHaveBeenCalledTimes(2);
    clock.mockRestore();
    evaluated.mockRestore();
    expect(await redis.llen(`keytoll:rate:${key}`)).toBe(1);
  });

  test("redis may forget the script", async () => {
    const limiter = createRateLimiter({ redis, log: quiet });
    await redis.script("FLUSH");
    const key = aKey();
    await limiter.take(key, 5);
    expect(await redis.llen(`keytoll:rate:${key}`)).toBe(1);
  });

  test("when redis goes away the gateway counts on from what it let through, and warns once", async () => {
    const own = openRedis(redisUrl() ?? "");
    await vi.waitFor(() => own.ping());
    const log = { ...quiet, warn: vi.fn(), info: vi.fn() } as never as typeof quiet;
    const limiter = createRateLimiter({ redis: own, log });
    const key = aKey();
    await takeMany(limiter, key, 3, 5);
    own.disconnect();
    const answers = await takeMany(limiter, key, 10, 5);
    expect(answers.filter((it) => it.allowed)).toHaveLength(2);
    expect(log.warn).toHaveBeenCalledTimes(1);

    await vi.waitFor(() => expect(own.status).toBe("end"));
    await own.connect();
    await vi.waitFor(
      async () => {
        await limiter.take(aKey(), 5);
        expect(log.info).toHaveBeenCalledTimes(1);
      },
      { timeout: 5_000 },
    );
    own.disconnect();
  });

  test("a redis that does not answer is not waited for longer than 100 ms, and then left alone", async () => {
    const line = await aLineTo(new URL(redisUrl() ?? ""));
    const own = openRedis(line.url);
    await vi.waitFor(() => own.ping());
    const log = { ...quiet, warn: vi.fn() } as never as typeof quiet;
    const limiter = createRateLimiter({ redis: own, log });
    const key = aKey();
    await takeMany(limiter, key, 2, 5);

    line.hold();
    const start = performance.now();
    const answers = await takeMany(limiter, key, 10, 5);
    for (let i = 0; i < 10; i++) expect((await limiter.take(key, 5)).allowed).toBe(false);
    expect(performance.now() - start).toBeLessThan(500);
    expect(answers.filter((it) => it.allowed)).toHaveLength(3);
    expect(log.warn).toHaveBeenCalledTimes(1);
    own.disconnect();
    line.close();
  });
});

/** A way to Redis that can be made to swallow every answer. */
async function aLineTo({ hostname, port, pathname }: URL) {
  let held = false;
  const line = createServer((near) => {
    const far = connect(Number(port), hostname);
    near.on("data", (bytes) => far.write(bytes));
    far.on("data", (bytes) => held || near.write(bytes));
    near.on("close", () => far.destroy());
    near.on("error", () => far.destroy());
  });
  await new Promise<void>((resolve) => line.listen(0, "127.0.0.1", resolve));
  const { port: own } = line.address() as AddressInfo;
  const hold = () => {
    held = true;
  };
  return { url: `redis://127.0.0.1:${own}${pathname}`, hold, close: () => line.close() };
}
