import { Counter, Gauge, type Registry } from "prom-client";
import type { Upstreams } from "../inference/upstreams.js";

const CIRCUIT = { closed: 0, half_open: 1, open: 2 } as const;

/** Shows how each upstream stands, looked at for each scrape. */
export function watchUpstreams(
  registers: Registry[],
  { standing }: Pick<Upstreams, "standing">,
): void {
  new Counter({
    name: "keytoll_upstream_requests_total",
    help: "Requests to upstreams, those that were asked again included, by how they went",
    labelNames: ["upstream", "outcome"],
    registers,
    collect() {
      this.reset();
      for (const { name: upstream, outcomes } of standing()) {
        for (const [outcome, count] of Object.entries(outcomes)) {
          this.inc({ upstream, outcome }, count);
        }
      }
    },
  });
  new Counter({
    name: "keytoll_upstream_retries_total",
    help: "Requests that failed at an upstream and were asked again, by that upstream",
    labelNames: ["upstream"],
    registers,
    collect() {
      this.reset();
      for (const { name: upstream, retries } of standing()) this.inc({ upstream }, retries);
    },
  });
  new Gauge({
    name: "keytoll_upstream_in_flight",
    help: "Requests that are under way at an upstream",
    labelNames: ["upstream"],
    registers,
    collect() {
      for (const { name: upstream, inFlight } of standing()) this.set({ upstream }, inFlight);
    },
  });
  new Gauge({
    name: "keytoll_upstream_circuit",
    help: "0 closed, 1 half open, 2 open; the worst of an upstream, and each model that has trouble",
    labelNames: ["upstream", "model"],
    registers,
    collect() {
      this.reset();
      for (const { name: upstream, state, troubles } of standing()) {
        this.set({ upstream, model: "" }, CIRCUIT[state]);
        for (const { model, state: circuit } of troubles) {
          if (model !== undefined) this.set({ upstream, model }, CIRCUIT[circuit]);
        }
      }
    },
  });
}
