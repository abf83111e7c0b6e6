import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Redis as Client } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { createLog } from "../src/base/log.js";
import { pause } from "../src/base/time.js";
import { openRedis } from "../src/db/redis.js";
import { stopProcess } from "../src/dev/processes.js";
import { type Redis, startRedis } from "../src/dev/redis.js";
import { createRateLimiter, type RateLimiter } from "../src/keys/rate-limit.js";
import { type LiveGateway, startLiveGateway } from "./support/live-gateway.js";
import { redisUrl } from "./support/services.js";

const quiet = createLog("silent", "test");
const BACK = { timeout: 15_000 };
const dataDir = mkdtempSync(join(tmpdir(), "keytoll-redis-"));
let server: Redis;

/** On the same port each time, and empty. */
async function begin(): Promise<void> {
  const started = await startRedis({ dataDir, port: 0, say: () => {} });
  if (!started) throw new Error("no redis-server");
  server = started;
}
const signal = (name: NodeJS.Signals) => process.kill(server.process.pid, name);
async function kill(): Promise<void> {
  signal("SIGKILL");
  await server.ended;
}

let keys = 0;
const aKey = () => `key-${++keys}`;

afterAll(() => rmSync(dataDir, { recursive: true }));

describe.skipIf(!redisUrl())("two gateways and a Redis that fails", () => {
  let clients: Client[];
  let limiters: RateLimiter[];

  beforeEach(async () => {
    await begin();
    clients = [1, 2].map(() => openRedis(server.url));
    await vi.waitFor(() => Promise.all(clients.map((it) => it.ping())), BACK);
    limiters = clients.map((redis) => createRateLimiter({ redis, log: quiet }));
  });
  afterEach(async () => {
    for (const limiter of limiters) limiter.close();
    for (const client of clients) client.disconnect();
    signal("SIGCONT");
    await stopProcess(server.process, "SIGKILL", 0);
  });

  /** Asks both gateways, one after another. @returns how many each lets through */
  async function throughEach(key: string, count: number, limit: number): Promise<number[]> {
    const each = limiters.map(async (limiter) => {
      let passed = 0;
      for (let i = 0; i < count; i++) if ((await limiter.take(key, limit)).allowed) passed += 1;
      return passed;
    });
    return await Promise.all(each);
  }
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
  const together = () =>
    vi.waitFor(async () => {
      for (const limiter of limiters) await limiter.take(aKey(), 5);
      expect(limiters.map((it) => it.standing().alone)).toEqual([false, false]);
    }, BACK);
  async function expectOneCount(): Promise<void> {
    await together();
    expect(sum(await throughEach(aKey(), 12, 10))).toBe(10);
  }

  test("stopped: the first request waits 100 ms, those after it for nothing, and each gateway holds the limit", async () => {
    const key = aKey();
    expect(await throughEach(key, 5, 30)).toEqual([5, 5]);
    signal("SIGSTOP");
    const start = performance.now();
    // Were each to wait, it would be four seconds
    expect(await throughEach(key, 40, 30)).toEqual([25, 25]);
    expect(performance.now() - start).toBeLessThan(1_500);
    const sent = clients.map((it) => vi.spyOn(it, "sendCommand"));
    await throughEach(aKey(), 200, 200);
    for (const spy of sent) expect(spy.mock.calls.length).toBeLessThan(5);
    signal("SIGCONT");
    await expectOneCount();
    expect(sum(await throughEach(key, 5, 30))).toBe(0);
  });

  test("killed: no request waits, and each gateway holds the limit; when it is back and empty, all count together", async () => {
    const key = aKey();
    expect(await throughEach(key, 5, 30)).toEqual([5, 5]);
    await kill();
    expect(await throughEach(key, 40, 30)).toEqual([25, 25]);
    await begin();
    await expectOneCount();
    expect(sum(await throughEach(key, 5, 30))).toBe(0);
  });

  test("back without its data, it learns again what runs; what has ended meanwhile is free", async () => {
    const [first, second] = limiters as [RateLimiter, RateLimiter];
    const key = aKey();
    const limits = [{ kind: "slots", name: "test", key, limit: 3 } as const];
    const running = [
      await first.enter(limits),
      await first.enter(limits),
      await first.enter(limits),
    ];
    expect((await second.enter(limits)).allowed).toBe(false);
    await kill();
    running.pop()?.leave();
    const alone = await first.enter(limits);
    expect(alone.allowed).toBe(true);
    running.push(alone);
    running.pop()?.leave();
    await begin();
    await together();
    const counted = () => clients[0]?.zcard(`keytoll:rate:${key}`);
    await vi.waitFor(async () => expect(await counted()).toBe(2), BACK);
    const third = await second.enter(limits);
    expect(third.allowed).toBe(true);
    expect((await second.enter(limits)).allowed).toBe(false);
    for (const entry of [...running, third]) entry.leave();
    await vi.waitFor(async () => expect(await counted()).toBe(0), BACK);
  });

  test("stopped: what comes and goes meanwhile does not pile up on its line, what it knew of is freed", async () => {
    const [limiter] = limiters as [RateLimiter];
    const key = aKey();
    const limits = [{ kind: "slots", name: "test", key, limit: 10 } as const];
    const known = await limiter.enter(limits);
    signal("SIGSTOP");
    const sent = vi.spyOn(clients[0] as Client, "sendCommand");
    for (let i = 0; i < 500; i++) (await limiter.enter(limits)).leave();
    expect(sent.mock.calls.length).toBeLessThan(10);
    known.leave();
    signal("SIGCONT");
    await together();
    await vi.waitFor(
      async () => expect(await clients[0]?.zcard(`keytoll:rate:${key}`)).toBe(0),
      BACK,
    );
  });
});

describe.skipIf(!redisUrl())("callers of two gateways", () => {
  let gateway: LiveGateway;
  let other: Awaited<ReturnType<LiveGateway["startAnother"]>>;
  let token: string;
  let gm: string;

  beforeAll(async () => {
    await begin();
    gateway = await startLiveGateway({ REDIS_URL: server.url });
    other = await gateway.startAnother();
    await gateway.priceDemoModels("1000", "1000");
    ({ token } = await gateway.anOwner("faults@example.com", "1000000000"));
    gm = (await gateway.aManagementKey(token)).id;
  });
  afterAll(async () => {
    await other?.close();
    await gateway?.close();
    if (!server) return;
    signal("SIGCONT");
    await stopProcess(server.process, "SIGKILL", 0);
  });

  const BODY = JSON.stringify({
    ...{ model: "demo/fast", max_tokens: 5, messages: [{ role: "user", content: "hi" }] },
  });
  async function ask(url: string, secret: string): Promise<number> {
    const answer = await fetch(`${url}/v1/chat/completions`, {
      ...{ method: "POST", headers: { authorization: `Bearer ${secret}` }, body: BODY },
    });
    await answer.arrayBuffer();
    return answer.status;
  }
  const alone = async (url: string) =>
    /^keytoll_rate_limit_alone (\d)/m.exec(await (await fetch(`${url}/metrics`)).text())?.[1];

  test("are all answered while Redis is stopped, killed and back, and no gateway lets through more than the limit", async () => {
    const { secret } = await gateway.aChild(token, gm, { rate_limit_rpm: 60 });
    const urls = [gateway.http, other.http];
    const passed = [0, 0];
    const strange: number[] = [];
    let stop = false;
    const callers = [0, 1, 0, 1].map(async (which) => {
      while (!stop) {
        const status = await ask(urls[which] ?? "", secret);
        if (status === 200) passed[which] = (passed[which] ?? 0) + 1;
        else if (status !== 429) strange.push(status);
        else await pause(50);
      }
    });
    try {
      await vi.waitFor(() => expect(Math.min(...passed)).toBeGreaterThan(2), BACK);
      signal("SIGSTOP");
      await vi.waitFor(() => expect(passed).toEqual([60, 60]), BACK);
      signal("SIGCONT");
      await kill();
      await begin();
      await vi.waitFor(async () => {
        // What a gateway alone has used up it refuses without asking Redis: another key asks
        const probe = await gateway.aChild(token, gm, { rate_limit_rpm: 9 });
        for (const url of urls) {
          expect(await ask(url, probe.secret)).toBe(200);
          expect(await alone(url)).toBe("0");
        }
      }, BACK);
    } finally {
      stop = true;
      await Promise.all(callers);
    }
    expect(strange).toEqual([]);
    expect(passed).toEqual([60, 60]);
    // Redis counts for both again
    const fresh = await gateway.aChild(token, gm, { rate_limit_rpm: 10 });
    const statuses = await Promise.all(
      urls.flatMap((url) => Array.from({ length: 10 }, () => ask(url, fresh.secret))),
    );
    expect(statuses.filter((it) => it === 200)).toHaveLength(10);
  });
});
