import { Counter, Gauge, type Registry } from "prom-client";
import type { RateLimiter } from "../keys/rate-limit.js";

/** Counts refusals by what was used up, and tells whether gateways count together. */
export function watchLimiter(registers: Registry[], { standing }: RateLimiter): void {
  new Counter({
    name: "keytoll_rate_limit_refusals_total",
    help: "Requests that a limit had no room for, by limit",
    labelNames: ["limit"],
    registers,
    collect() {
      this.reset();
      for (const [limit, count] of standing().refused) this.inc({ limit }, count);
    },
  });
  new Gauge({
    name: "keytoll_rate_limit_alone",
    help: "1 while this gateway counts rate limits for itself: Redis is not there, or fails",
    registers,
    collect() {
      this.set(standing().alone ? 1 : 0);
    },
  });
}
