import { refuse } from "../base/errors.js";
import type { ChildCaller } from "../keys/caller.js";
import type { Limit, RateAnswer, RateLimiter } from "../keys/rate-limit.js";

const nothing = () => {};

/**
 * Counts a request against the requests per minute of its key and of the account behind it, and
 * against those of the account that may run at once: against all of them, or against none.
 *
 * @param tell learns what is left to the key, also of a refused request; not called where the key
 *   has no limit of its own. What the account may is nobody's business but its owner's
 * @returns what must be called when the request has ended, whatever became of it
 * @throws rate_limit_exceeded  with the seconds after which one more is allowed; for requests that
 *   run at once, where nobody can know, 1
 */
export async function admit(
  limiter: RateLimiter,
  caller: ChildCaller,
  tell?: (rate: RateAnswer) => void,
): Promise<() => void> {
  const limits = limitsOf(caller);
  if (limits.length === 0) return nothing;
  const admission = await limiter.enter(limits);
  const { allowed, answers, leave } = admission;
  const [own] = answers;
  if (caller.rateLimitRpm !== null && own) tell?.(own);
  if (!allowed) {
    const { retryAfterSeconds: retryAfter, retryAfterMs } = admission;
    throw refuse("rate_limit_exceeded", { retryAfter, retryAfterMs, shouldRetry: true });
  }
  return leave;
}

const NONE: readonly Limit[] = [];

/** The key's own first. In braces: what is counted of one account lies on one node of a cluster. */
function limitsOf({ account, child, rateLimitRpm, accountLimits }: ChildCaller): readonly Limit[] {
  const { rateLimitRpm: accountRpm, concurrency } = accountLimits;
  if (rateLimitRpm === null && accountRpm === null && concurrency === null) return NONE;
  const limits: Limit[] = [];
  const add = (kind: Limit["kind"], name: string, key: string, limit: number | null) =>
    limit !== null && limits.push({ kind, name, key: `{${account}}:${key}`, limit });
  add("rate", "key_rpm", child, rateLimitRpm);
  add("rate", "account_rpm", "rpm", accountRpm);
  add("slots", "account_concurrency", "slots", concurrency);
  return limits;
}
