import { Gauge, type Registry } from "prom-client";
import { getBacklog } from "../accounts/accounts.js";
import { now, SECOND } from "../base/time.js";
import type { Sql } from "../db/sql.js";

type Backlog = Awaited<ReturnType<typeof getBacklog>>;

interface Figure {
  name: string;
  help: string;
  /** Null where nothing is known yet. */
  of: (backlog: Backlog) => bigint | number | null;
}

const FIGURES: Figure[] = [
  {
    name: "keytoll_settlement_lag_records",
    help: "Captured usage records that are not posted to the journal yet",
    of: (it) => it.unsettledRecords,
  },
  {
    name: "keytoll_settlement_lag_seconds",
    help: "Age of the oldest of them, accounts that are set aside left out",
    of: (it) => it.settlementLagSeconds,
  },
  {
    name: "keytoll_settlement_accounts_set_aside",
    help: "Accounts whose usage cannot be posted, 100 at most",
    of: (it) => it.accountsSetAside.length,
  },
  {
    name: "keytoll_outbox_oldest_seconds",
    help: "Age of the oldest outbox entry that waits for Temporal",
    of: (it) => it.outboxOldestSeconds,
  },
  {
    name: "keytoll_outbox_set_aside",
    help: "Outbox entries that were given up, until an operator retries or drops them",
    of: (it) => it.outboxSetAside,
  },
  {
    name: "keytoll_reconcile_differences",
    help: "What the newest reconciliation found that is not as it should be",
    of: (it) => it.reconciliation?.differences ?? null,
  },
  {
    name: "keytoll_reconcile_age_seconds",
    help: "Time since the newest reconciliation was done",
    of: (it) =>
      it.reconciliation && Math.round((now() - it.reconciliation.finishedAt.getTime()) / SECOND),
  },
];

/** Shows what waits in the database, counted once for each scrape. */
export function watchBacklog(registers: Registry[], sql: Sql): void {
  let looking: Promise<Backlog | undefined> | undefined;
  /** All figures of a scrape are asked for at once, and come from one look. */
  const look = (): Promise<Backlog | undefined> => {
    // With Postgres away the other figures are the more wanted
    looking ??= getBacklog(sql)
      .catch(() => undefined)
      .finally(() => {
        looking = undefined;
      });
    return looking;
  };
  for (const { name, help, of } of FIGURES) {
    new Gauge({
      ...{ name, help, registers },
      async collect() {
        this.reset();
        const backlog = await look();
        const figure = backlog ? of(backlog) : null;
        if (figure === null) this.remove();
        else this.set(Number(figure));
      },
    });
  }
  new Gauge({
    name: "keytoll_backlog",
    help: "What waits: open holds, unsettled usage records, outbox entries",
    labelNames: ["what"],
    registers,
    async collect() {
      this.reset();
      const backlog = await look();
      if (!backlog) return;
      const { openHolds, unsettledRecords, outboxEntries } = backlog;
      this.set({ what: "open_holds" }, Number(openHolds));
      this.set({ what: "unsettled_records" }, Number(unsettledRecords));
      this.set({ what: "outbox_entries" }, Number(outboxEntries));
    },
  });
}
