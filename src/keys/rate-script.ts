import { createHash } from "node:crypto";
import type { Redis } from "ioredis";
import { elapsed, SECOND } from "../base/time.js";
import type { Entry, Limit, Said } from "./rate-window.js";

/** Milliseconds that a slot stays taken of which nothing is heard: its gateway was killed. */
export const SLOT_LIFE = 30 * SECOND;
/** Milliseconds after which a request that Redis has not read yet is no longer to be counted. */
const LATE = SECOND;
const MICROSECOND = 1e-3;

/**
 * Asks all limits of a request at once, and counts it where each has room: a refused one counts
 * nowhere. A rate is a list of the times of the last allowed requests, newest last and never more
 * than the limit, so there is room where the limit-th newest has left the window. Slots are a set
 * of entries by the time when they are free again. Time is Redis' own, and what comes late (Redis
 * was stopped, and who asked has gone on without it) counts nothing.
 */
const ENTER = `
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local latest, window, life, entry = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if latest > 0 and clock > latest then return {-1, clock} end

local function at(key, index) return tonumber(redis.call('LINDEX', key, index)) end
local answer, starts, room = {1, clock}, {}, true
for i, key in ipairs(KEYS) do
  local kind, limit = ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i])
  local used, retry, reset, now = 0, 0, 0, clock
  if kind == 'slots' then
    used = redis.call('ZCOUNT', key, '(' .. string.format('%.0f', clock), '+inf')
  else
    local size = redis.call('LLEN', key)
    if size > 0 then now = math.max(now, at(key, -1)) end
    local first, behind = 0, size
    while first < behind do
      local middle = math.floor((first + behind) / 2)
      if at(key, middle) > now - window then behind = middle else first = middle + 1 end
    end
    used = size - first
    reset = (used > 0 and at(key, first) or now) + window - now
    if used >= limit then retry = at(key, size - limit) + window - now end
  end
  if used >= limit then room = false end
  starts[i] = now
  answer[3 * i], answer[3 * i + 1], answer[3 * i + 2] = used, retry, reset
end
if not room then answer[1] = 0 return answer end

for i, key in ipairs(KEYS) do
  local kind, limit = ARGV[3 + 2 * i], tonumber(ARGV[4 + 2 * i])
  if kind == 'slots' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', clock))
    redis.call('ZADD', key, string.format('%.0f', clock + life), entry)
    redis.call('PEXPIRE', key, math.ceil(life / 1000))
  else
    redis.call('RPUSH', key, string.format('%.0f', starts[i]))
    redis.call('LTRIM', key, -limit, -1)
    redis.call('PEXPIRE', key, math.ceil(window / 1000))
  end
end
return answer`;

/** Keeps slots that are in use, also those that Redis has lost. */
const STAY = `
local time = redis.call('TIME')
local life = tonumber(ARGV[1])
local free = string.format('%.0f', time[1] * 1000000 + time[2] + life)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], free, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(life / 1000))
return 1`;

const script = (text: string) => ({ text, name: createHash("sha1").update(text).digest("hex") });
const SCRIPTS = { enter: script(ENTER), stay: script(STAY) };

const nameOf = (key: string): string => `keytoll:rate:${key}`;
const toMicroseconds = (ms: number): number => Math.round(ms / MICROSECOND);

export type SharedCounts = ReturnType<typeof createSharedCounts>;

/** What all gateways count together, in Redis. */
export function createSharedCounts(redis: Redis, window: number) {
  // Redis' clock less ours, as the newest answer told it
  let ahead: number | undefined;

  async function ask(limits: readonly Limit[], entry: Entry, latest: number): Promise<number[]> {
    const args: (string | number)[] = limits.map(({ key }) => nameOf(key));
    args.push(Math.round(latest), toMicroseconds(window), toMicroseconds(SLOT_LIFE), entry);
    for (const { kind, limit } of limits) args.push(kind, limit);
    const answer = (await run(redis, SCRIPTS.enter, limits.length, args)) as number[];
    ahead = (answer[1] ?? 0) - toMicroseconds(elapsed());
    return answer;
  }

  return {
    /** Counts a request where all its limits have room. @throws Error where Redis fails */
    async enter(
      limits: readonly Limit[],
      entry: Entry,
    ): Promise<{ allowed: boolean; said: Said[] }> {
      const now = toMicroseconds(elapsed());
      const latest = ahead === undefined ? 0 : now + ahead + toMicroseconds(LATE);
      let answer = await ask(limits, entry, latest);
      // Late by its clock, in time by ours: the clock has been set
      if (answer[0] === -1) answer = await ask(limits, entry, 0);
      return { allowed: answer[0] === 1, said: limits.map((_, i) => saidIn(answer, i)) };
    },
    /** Frees the slot of an entry. Where that fails, it is free after its life. */
    leave(key: string, entry: Entry): void {
      redis.zrem(nameOf(key), entry).catch(() => {});
    },
    /** Keeps slots for another life. @throws Error where Redis fails */
    async stay(key: string, entries: Iterable<Entry>): Promise<void> {
      await run(redis, SCRIPTS.stay, 1, [nameOf(key), toMicroseconds(SLOT_LIFE), ...entries]);
    },
  };
}

function saidIn(answer: readonly number[], index: number): Said {
  const [used = 0, retry = 0, reset = 0] = answer.slice(2 + 3 * index, 5 + 3 * index);
  return { used, retryMs: retry * MICROSECOND, resetMs: reset * MICROSECOND };
}

async function run(
  redis: Redis,
  { name, text }: { name: string; text: string },
  keys: number,
  args: (string | number)[],
): Promise<unknown> {
  try {
    return await redis.evalsha(name, keys, ...args);
  } catch (error) {
    // Redis forgets scripts when it restarts
    if (!(error instanceof Error && error.message.startsWith("NOSCRIPT"))) throw error;
    return await redis.eval(text, keys, ...args);
  }
}
