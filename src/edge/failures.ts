import { isIPv6 } from "node:net";
import { Refusal, refuse } from "../base/errors.js";
import type { RateLimiter } from "../keys/rate-limit.js";

/** Counts failed sign-ins by address, whether a key, a token or a password was wrong. */
export interface Failures {
  /**
   * @returns what to throw in place of `error`: itself, or `rate_limit_exceeded` where the address
   *   has failed too often. Errors that are no failed sign-in are not counted
   */
  count(error: unknown, ip: string): Promise<unknown>;
}

/**
 * Only what fails is counted, and only what fails is refused: whoever shares an address with a
 * guesser, behind one NAT or one proxy, signs in as before. The address is that of the connection;
 * headers that name another one are anybody's invention.
 *
 * @param limit failures in any 60 s; null: they are not counted
 */
export function failuresOf(limiter: RateLimiter, limit: number | null): Failures {
  return {
    async count(error, ip) {
      if (limit === null || !(error instanceof Refusal) || !isFailure(error)) return error;
      const turn = await limiter.take(`failed:${networkOf(ip)}`, limit, "failed_auth");
      if (turn.allowed) return error;
      return refuse("rate_limit_exceeded", {
        message: "too many failed sign-ins from this address",
        retryAfter: turn.retryAfterSeconds,
        retryAfterMs: turn.retryAfterMs,
        shouldRetry: false,
      });
    },
  };
}

const isFailure = ({ reason }: Refusal): boolean =>
  reason === "invalid_api_key" || reason === "email_taken";

/** Whoever has one IPv6 address has a whole /64 of them. */
function networkOf(ip: string): string {
  const v4 = /^::ffff:([0-9.]+)$/i.exec(ip)?.[1];
  if (v4 !== undefined || !isIPv6(ip)) return v4 ?? ip;
  const [head = "", tail = ""] = ip.split("%", 1).join("").split("::");
  const [before, after] = [head, tail].map((part) => (part === "" ? [] : part.split(":")));
  const groups = before ?? [];
  const zeros = ip.includes("::") ? 8 - groups.length - (after?.length ?? 0) : 0;
  const all = [...groups, ...Array.from({ length: zeros }, () => "0"), ...(after ?? [])];
  return `${all
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":")}::/64`;
}
