import { refuse } from "../base/errors.js";
import type { ChildCaller } from "../keys/caller.js";
import type { RateAnswer, RateLimiter } from "../keys/rate-limit.js";

/**
 * Counts a request against its key's requests per minute.
 *
 * @param tell learns what is left, also of a refused one; not called where the key has no limit
 * @throws rate_limit_exceeded  with the seconds until one more is allowed
 */
export async function admit(
  limiter: RateLimiter,
  { child, rateLimitRpm }: ChildCaller,
  tell?: (rate: RateAnswer) => void,
): Promise<void> {
  if (rateLimitRpm === null) return;
  const rate = await limiter.take(child, rateLimitRpm);
  tell?.(rate);
  if (rate.allowed) return;
  throw refuse("rate_limit_exceeded", { retryAfter: rate.retryAfterSeconds, shouldRetry: true });
}
