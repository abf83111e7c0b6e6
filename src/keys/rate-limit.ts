import { randomBytes } from "node:crypto";
import type { Redis } from "ioredis";
import type { Log } from "../base/log.js";
import { elapsed, MINUTE, SECOND } from "../base/time.js";
import { createSharedCounts, SLOT_LIFE } from "./rate-script.js";
import { createLocalCounts, type Entry, type Limit, type Said } from "./rate-window.js";

export type { Limit } from "./rate-window.js";

export interface RateAnswer {
  allowed: boolean;
  limit: number;
  /** Requests that would still be allowed now. */
  remaining: number;
  /** Whole seconds until one more is allowed; 0 where it is now. */
  retryAfterSeconds: number;
  /** The same in milliseconds, and always less than a minute. */
  retryAfterMs: number;
  /** Whole seconds until the oldest counted request leaves the window. */
  resetSeconds: number;
}

/** What a request may do, by all its limits. */
export interface Admission {
  /** False where one of the limits had no room: then the request counts against none. */
  allowed: boolean;
  /** Whole seconds after which all have room again, if nothing else comes; 0 where it is allowed. */
  retryAfterSeconds: number;
  /** The same in milliseconds, and always less than a minute. */
  retryAfterMs: number;
  /** What each limit says, in their order. */
  answers: RateAnswer[];
  /** Frees the slots of a request that has ended; again is the same. */
  leave(): void;
}

export interface RateLimiter {
  /** Counts a request against all its limits, or against none. */
  enter(limits: readonly Limit[]): Promise<Admission>;
  /**
   * Counts a request of `key` where no more than `limit` are in any 60 s; a refused one does not
   * count.
   *
   * @param name what is limited, for the operator
   */
  take(key: string, limit: number, name?: string): Promise<RateAnswer>;
  /** For metrics: refusals by the limit's name, and whether gateways count together. */
  standing(): { refused: ReadonlyMap<string, number>; alone: boolean };
  close(): void;
}

/**
 * After a failure, Redis is left alone for so long, so that a slow one does not slow every request.
 */
const COOL_DOWN = SECOND;
/** Milliseconds that Redis' count of a request may lie behind ours. */
const SLACK = 100;
/**
 * Some clients try again at once rather than wait for a minute or more. At most they come too early
 * by the slack, and are told so.
 */
const LONGEST_WAIT = MINUTE - 1;

interface Settings {
  redis: Redis | undefined;
  log: Log;
}

/**
 * Counts requests exactly, in Redis for all gateways together: those in any 60 s, and those that
 * run at once. Without Redis, or while it fails or takes over 100 ms, each gateway counts for
 * itself, and goes on from what it let through before. What a gateway alone has used up, it refuses
 * without asking.
 */
export function createRateLimiter({ redis, log }: Settings): RateLimiter {
  const local = createLocalCounts(MINUTE);
  const shared = redis && createSharedCounts(redis, MINUTE);
  const refused = new Map<string, number>();
  const ourselves = randomBytes(8).toString("base64url");
  let entries = 0;
  let failing = false;
  let askAgainAt = 0;

  function failed(error: unknown): void {
    if (!failing) {
      // Not the error itself, which carries the script and the caller's key
      const problem = error instanceof Error ? error.message : "";
      log.warn({ problem }, "redis fails: each gateway counts rate limits for itself");
    }
    failing = true;
    askAgainAt = elapsed() + COOL_DOWN;
  }

  async function stayAll(): Promise<void> {
    if (!shared) return;
    for (const [key, held] of local.slots) await shared.stay(key, held);
  }
  const staying = shared && setInterval(() => failing || stayAll().catch(failed), SLOT_LIFE / 3);
  staying?.unref();

  /** Undefined where it is not asked; null where it fails, and may yet read what it was asked. */
  async function askRedis(limits: readonly Limit[], entry: Entry) {
    if (!shared) return undefined;
    if (failing) {
      if (elapsed() < askAgainAt) return undefined;
      // This one request asks, all others wait for what it finds
      askAgainAt = elapsed() + COOL_DOWN;
    }
    try {
      const answer = await shared.enter(limits, entry);
      if (failing) {
        log.info("redis answers again: rate limits count for all gateways together");
        failing = false;
        stayAll().catch(failed);
      }
      return answer;
    } catch (error) {
      failed(error);
      return null;
    }
  }

  function leaving(limits: readonly Limit[], entry: Entry, asked: boolean): () => void {
    const slots = limits.filter(({ kind }) => kind === "slots");
    return () => {
      for (const { key } of slots.splice(0)) {
        local.leave(key, entry);
        // What a stopped Redis never heard of need not pile up on its line
        if (asked || !failing) shared?.leave(key, entry);
      }
    };
  }

  function refusal(limits: readonly Limit[], said: readonly Said[], slack: number): Admission {
    const answers = limits.map((limit, i) => toAnswer(limit, said[i], 0, slack));
    for (const [i, { name }] of limits.entries()) {
      if (answers[i]?.allowed === false) refused.set(name, (refused.get(name) ?? 0) + 1);
    }
    const retryAfterSeconds = Math.max(...answers.map((it) => it.retryAfterSeconds));
    const retryAfterMs = Math.max(...answers.map((it) => it.retryAfterMs));
    return { allowed: false, retryAfterSeconds, retryAfterMs, answers, leave: nothing };
  }

  async function enter(limits: readonly Limit[]): Promise<Admission> {
    const before = local.look(limits);
    if (!roomIn(limits, before)) return refusal(limits, before, shared ? SLACK : 0);
    const at = elapsed();
    const entry = `${ourselves}${entries++}`;
    const answer = await askRedis(limits, entry);
    const said = answer?.said ?? local.look(limits);
    if (!(answer?.allowed ?? roomIn(limits, said))) return refusal(limits, said, 0);

    local.count(limits, entry, answer ? at : elapsed());
    const answers = limits.map((limit, i) => toAnswer(limit, said[i], 1, 0));
    const leave = leaving(limits, entry, answer !== undefined);
    return { allowed: true, retryAfterSeconds: 0, retryAfterMs: 0, answers, leave };
  }

  return {
    enter,
    async take(key, limit, name = "other") {
      const { answers } = await enter([{ kind: "rate", name, key, limit }]);
      return answers[0] as RateAnswer;
    },
    standing: () => ({ refused, alone: shared === undefined || failing }),
    close: () => clearInterval(staying),
  };
}

const nothing = () => {};

const roomIn = (limits: readonly Limit[], said: readonly Said[]): boolean =>
  limits.every(({ limit }, i) => (said[i]?.used ?? 0) < limit);

/** @param counted how many of the used ones this request is: 1 where it was counted, else 0 */
function toAnswer(
  { limit }: Limit,
  { used, retryMs, resetMs }: Said = { used: 0, retryMs: 0, resetMs: 0 },
  counted: number,
  slack: number,
): RateAnswer {
  const allowed = used < limit;
  // When a slot is free nobody can know
  const wait = retryMs > 0 ? Math.ceil(retryMs + slack) : SECOND;
  return {
    allowed,
    limit,
    remaining: Math.max(0, limit - used - counted),
    retryAfterSeconds: allowed ? 0 : Math.ceil(wait / SECOND),
    retryAfterMs: allowed ? 0 : Math.min(wait, LONGEST_WAIT),
    resetSeconds: Math.max(1, Math.ceil(resetMs / SECOND)),
  };
}
