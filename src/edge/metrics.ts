import type { ServerResponse } from "node:http";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { Refusal } from "../base/errors.js";
import { elapsed, SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import type { Delivery } from "../holds/delivery/deliver.js";
import type { Holds } from "../holds/holds.js";
import type { Upstreams } from "../inference/upstreams.js";
import type { RateLimiter } from "../keys/rate-limit.js";
import { watchBacklog } from "./backlog-metrics.js";
import { watchLimiter } from "./rate-metrics.js";
import { watchUpstreams } from "./upstream-metrics.js";
import { watchWebhooks } from "./webhook-metrics.js";

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export type Metrics = ReturnType<typeof createMetrics>;

/** Prometheus metrics of a gateway. What waits in the database is counted at each scrape. */
export function createMetrics(sql: Sql, version: string) {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const requests = new Histogram({
    name: "keytoll_http_request_seconds",
    help: "Time from a request's headers to its last byte, by route and status",
    labelNames: ["route", "status"],
    buckets: SECONDS,
    registers,
  });
  const money = new Histogram({
    name: "keytoll_hold_seconds",
    help: "Time of authorize, capture, void and extend, waiting for a batch included",
    labelNames: ["call"],
    buckets: SECONDS,
    registers,
  });
  const refused = new Counter({
    name: "keytoll_hold_refusals_total",
    help: "Refusals of the money core, by reason",
    labelNames: ["call", "reason"],
    registers,
  });
  watchBacklog(registers, sql);
  watchWebhooks(registers, sql);
  new Gauge({
    name: "keytoll_build_info",
    help: "1, with the version of this program",
    labelNames: ["version"],
    registers,
  }).set({ version }, 1);

  async function timed<T>(call: string, work: Promise<T>): Promise<T> {
    const start = elapsed();
    try {
      return await work;
    } catch (error) {
      refused.inc({ call, reason: error instanceof Refusal ? error.reason : "internal_error" });
      throw error;
    } finally {
      money.observe({ call }, (elapsed() - start) / SECOND);
    }
  }

  return {
    /** Everything in Prometheus' text format. */
    text: () => registry.metrics(),
    contentType: registry.contentType,

    /** Measures a request until its answer has left. */
    watch(response: ServerResponse, route: string): void {
      const start = elapsed();
      response.once("close", () => {
        const status = response.writableFinished ? String(response.statusCode) : "hung_up";
        requests.observe({ route, status }, (elapsed() - start) / SECOND);
      });
    },

    /** Counts what of the ends of holds Postgres has not taken, at each scrape. */
    watchDelivery: (delivery: Pick<Delivery, "standing">) => watchDelivery(registers, delivery),

    /** Shows how each upstream stands, at each scrape. */
    watchUpstreams: (upstreams: Upstreams) => watchUpstreams(registers, upstreams),

    /** Counts what rate limits have refused, at each scrape. */
    watchLimiter: (limiter: RateLimiter) => watchLimiter(registers, limiter),

    /** The same money core, measured. */
    measured: (holds: Holds): Holds => ({
      authorize: (request) => timed("authorize", holds.authorize(request)),
      capture: (capture) => timed("capture", holds.capture(capture)),
      void: (hold) => timed("void", holds.void(hold)),
      extend: (extension) => timed("extend", holds.extend(extension)),
      close: () => holds.close(),
    }),
  };
}

function watchDelivery(registers: Registry[], { standing }: Pick<Delivery, "standing">): void {
  new Gauge({
    name: "keytoll_undelivered_ends",
    help: "Ends of holds that Postgres has not taken, by where else they are",
    labelNames: ["place"],
    registers,
    collect() {
      const { waiting, unknown } = standing();
      for (const [place, count] of Object.entries(waiting)) this.set({ place }, count);
      this.set({ place: "spool_unknown" }, unknown);
    },
  });
  new Gauge({
    name: "keytoll_undelivered_oldest_seconds",
    help: "How long the oldest of them has waited",
    registers,
    collect() {
      this.set(standing().oldestSeconds);
    },
  });
  new Gauge({
    name: "keytoll_spool_bytes",
    help: "Size of the local spool",
    registers,
    collect() {
      this.set(standing().spoolBytes);
    },
  });
  new Counter({
    name: "keytoll_handovers_total",
    help: "Ends of holds that a settle-hold workflow or the local spool took for Postgres",
    labelNames: ["to"],
    registers,
    collect() {
      const { handedOver } = standing();
      this.reset();
      for (const [to, count] of Object.entries(handedOver)) this.inc({ to }, count);
    },
  });
}
