import { Counter, Gauge, type Registry } from "prom-client";
import type { Sql } from "../db/sql.js";
import { webhookTotals } from "../webhooks/deliveries.js";

/** Counts deliveries of webhooks at each scrape; they are made by the workers. */
export function watchWebhooks(registers: Registry[], sql: Sql): void {
  const pending = new Gauge({
    name: "keytoll_webhook_pending",
    help: "Deliveries that wait, those of paused endpoints included",
    registers,
  });
  const oldest = new Gauge({
    name: "keytoll_webhook_oldest_pending_seconds",
    help: "How long the oldest delivery to an active endpoint has waited",
    registers,
  });
  new Counter({
    name: "keytoll_webhook_deliveries_total",
    help: "Deliveries by outcome",
    labelNames: ["outcome"],
    registers,
    async collect() {
      const totals = await webhookTotals(sql).catch(() => undefined);
      if (!totals) return;
      this.reset();
      this.inc({ outcome: "delivered" }, Number(totals.delivered));
      this.inc({ outcome: "failed" }, Number(totals.failed));
      pending.set(Number(totals.pending));
      oldest.set(totals.oldestSeconds);
    },
  });
}
