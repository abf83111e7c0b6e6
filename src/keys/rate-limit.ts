import { createHash } from "node:crypto";
import type { Redis } from "ioredis";
import type { Log } from "../base/log.js";
import { elapsed, MINUTE, SECOND } from "../base/time.js";
import { createWindows, type Verdict } from "./rate-window.js";

export interface RateAnswer {
  allowed: boolean;
  limit: number;
  /** Requests that would still be allowed now. */
  remaining: number;
  /** Whole seconds until one more is allowed; 0 where it is now. */
  retryAfterSeconds: number;
  /** Whole seconds until the oldest counted request leaves the window. */
  resetSeconds: number;
}

export interface RateLimiter {
  /**
   * Counts a request of `key` where no more than `limit` are in any 60 s; a refused one does not
   * count.
   */
  take(key: string, limit: number): Promise<RateAnswer>;
}

/**
 * After a failure, Redis is left alone for so long, so that a slow one does not slow every request.
 */
const COOL_DOWN = SECOND;
const MICROSECOND = 1e-3;

/**
 * The list of a key holds the times of its last allowed requests, newest last and never more than
 * its limit, so the request is allowed where the limit-th newest has left the window. Time is
 * Redis' own and never goes back.
 */
const SCRIPT = `
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local function at(index) return tonumber(redis.call('LINDEX', KEYS[1], index)) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local size = redis.call('LLEN', KEYS[1])
if size > 0 then now = math.max(now, at(-1)) end

local first, behind = 0, size
while first < behind do
  local middle = math.floor((first + behind) / 2)
  if at(middle) > now - window then behind = middle else first = middle + 1 end
end
local used = size - first
if used >= limit then
  return {0, used, at(size - limit) + window - now, at(first) + window - now}
end
local oldest = used > 0 and at(first) or now
redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
redis.call('LTRIM', KEYS[1], -limit, -1)
redis.call('PEXPIRE', KEYS[1], window / 1000)
return {1, used + 1, 0, oldest + window - now}`;
const SCRIPT_NAME = createHash("sha1").update(SCRIPT).digest("hex");

/**
 * Counts requests in a sliding window, exactly, in Redis for all gateways together. Without Redis,
 * or while it fails or takes over 100 ms, each gateway counts for itself, and goes on from what it
 * let through before.
 */
export function createRateLimiter({
  redis,
  log,
}: {
  redis: Redis | undefined;
  log: Log;
}): RateLimiter {
  const windows = createWindows(MINUTE);
  let failing = false;
  let askAgainAt = 0;

  async function askRedis(store: Redis, key: string, limit: number): Promise<Verdict | undefined> {
    if (failing) {
      if (elapsed() < askAgainAt) return undefined;
      // This one request asks, all others wait for what it finds
      askAgainAt = elapsed() + COOL_DOWN;
    }
    try {
      const verdict = await runScript(store, key, limit);
      if (failing) log.info("redis answers again: rate limits count for all gateways together");
      failing = false;
      return verdict;
    } catch (error) {
      if (!failing) {
        // Not the error itself, which carries the script and the caller's key
        const problem = error instanceof Error ? error.message : "";
        log.warn({ problem }, "redis fails: each gateway counts rate limits for itself");
      }
      failing = true;
      askAgainAt = elapsed() + COOL_DOWN;
      return undefined;
    }
  }

  return {
    async take(key, limit) {
      const shared = redis && (await askRedis(redis, key, limit));
      if (shared?.allowed) windows.note(key);
      return toAnswer(shared ?? windows.take(key, limit), limit);
    },
  };
}

type ScriptAnswer = [allowed: number, used: number, retry: number, reset: number];

async function runScript(redis: Redis, key: string, limit: number): Promise<Verdict> {
  const args = [`keytoll:rate:${key}`, limit, MINUTE / MICROSECOND] as const;
  const answer = (await redis.evalsha(SCRIPT_NAME, 1, ...args).catch((error: Error) => {
    // Redis forgets scripts when it restarts
    if (error.message.startsWith("NOSCRIPT")) return redis.eval(SCRIPT, 1, ...args);
    throw error;
  })) as ScriptAnswer;
  const [allowed, used, retry, reset] = answer;
  return {
    allowed: allowed === 1,
    used,
    retryMs: retry * MICROSECOND,
    resetMs: reset * MICROSECOND,
  };
}

function toAnswer({ allowed, used, retryMs, resetMs }: Verdict, limit: number): RateAnswer {
  return {
    allowed,
    limit,
    remaining: Math.max(0, limit - used),
    retryAfterSeconds: allowed ? 0 : Math.max(1, Math.ceil(retryMs / SECOND)),
    resetSeconds: Math.max(1, Math.ceil(resetMs / SECOND)),
  };
}
