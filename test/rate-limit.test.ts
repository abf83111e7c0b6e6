import { type AddressInfo, connect, createServer } from "node:net";
import type { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { createLog } from "../src/base/log.js";
import { openRedis } from "../src/db/redis.js";
import { createRateLimiter, type RateLimiter } from "../src/keys/rate-limit.js";
import { redisUrl } from "./support/services.js";

const quiet = createLog("silent", "test");
let keys = 0;
const aKey = () => `key-${++keys}-${Math.random()}`;
const takeMany = (limiter: RateLimiter, key: string, count: number, limit: number) =>
  Promise.all(Array.from({ length: count }, () => limiter.take(key, limit)));

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
      resetSeconds: 60,
    });
    vi.advanceTimersByTime(20_000);
    expect(await limiter.take(key, 2)).toMatchObject({ remaining: 0, resetSeconds: 40 });
    for (let i = 0; i < 50; i++) {
      expect(await limiter.take(key, 2)).toMatchObject({ allowed: false, retryAfterSeconds: 40 });
    }
    vi.advanceTimersByTime(39_999);
    expect((await limiter.take(key, 2)).allowed).toBe(false);
    vi.advanceTimersByTime(1);
    expect((await limiter.take(key, 2)).allowed).toBe(true);
    expect(await limiter.take(key, 2)).toMatchObject({ allowed: false, retryAfterSeconds: 20 });
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
    redis = openRedis(redisUrl() ?? "");
    other = openRedis(redisUrl() ?? "");
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
    for (const [i, time] of times.entries())
      await redis.lset(list, i, `${Number(time) - ms * 1_000}`);
  }

  test("a limit of 50 admits exactly 50 of 400 concurrent requests, from two gateways", async () => {
    const limiters = [redis, other].map((it) => createRateLimiter({ redis: it, log: quiet }));
    const key = aKey();
    const answers = await Promise.all(limiters.map((it) => takeMany(it, key, 200, 50)));
    expect(answers.flat().filter((it) => it.allowed)).toHaveLength(50);
  });

  test("the window slides: each request leaves it 60 s after it came", async () => {
    const limiter = createRateLimiter({ redis, log: quiet });
    const key = aKey();
    await takeMany(limiter, key, 2, 4);
    await age(key, 30_000);
    await takeMany(limiter, key, 2, 4);
    const refused = await limiter.take(key, 4);
    expect(refused).toMatchObject({ allowed: false, remaining: 0, limit: 4 });
    expect(refused.retryAfterSeconds).toBeGreaterThanOrEqual(29);
    expect(refused.retryAfterSeconds).toBeLessThanOrEqual(30);
    await age(key, 30_000);
    const answers = await takeMany(limiter, key, 3, 4);
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
    expect(await limiter.take(key, 6)).toMatchObject({ allowed: true, remaining: 5 });
    expect(await redis.pttl(`keytoll:rate:${key}`)).toBeGreaterThan(59_000);
  });

  test("a request is one round trip", async () => {
    const limiter = createRateLimiter({ redis, log: quiet });
    await limiter.take(aKey(), 5);
    const sent = vi.spyOn(redis, "sendCommand");
    await limiter.take(aKey(), 5);
    expect(sent).toHaveBeenCalledTimes(1);
    sent.mockRestore();
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
