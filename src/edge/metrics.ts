import type { ServerResponse } from "node:http";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { getBacklog } from "../accounts/accounts.js";
import { Refusal } from "../base/errors.js";
import { elapsed, SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";
import type { Holds } from "../holds/holds.js";

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export type Metrics = ReturnType<typeof createMetrics>;

/** Prometheus metrics of a gateway. What waits in the database is counted at each scrape. */
export function createMetrics(sql: Sql) {
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
  new Gauge({
    name: "keytoll_backlog",
    help: "What waits: open holds, unsettled usage records, outbox entries",
    labelNames: ["what"],
    registers,
    async collect() {
      const { openHolds, unsettledRecords, outboxEntries } = await getBacklog(sql);
      this.set({ what: "open_holds" }, Number(openHolds));
      this.set({ what: "unsettled_records" }, Number(unsettledRecords));
      this.set({ what: "outbox_entries" }, Number(outboxEntries));
    },
  });

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
