import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Id, newId } from "../../src/base/ids.js";
import { createLog } from "../../src/base/log.js";
import { SECOND } from "../../src/base/time.js";
import { migrate } from "../../src/db/migrate.js";
import { connect } from "../../src/db/sql.js";
import { startGuardian } from "../../src/dev/guardian.js";
import { type Postgres, startPostgres } from "../../src/dev/postgres.js";
import { type Process, stopProcess } from "../../src/dev/processes.js";
import { createDelivery } from "../../src/holds/delivery/deliver.js";
import type { OwnCapture } from "../../src/holds/delivery/ending.js";
import type { Handover } from "../../src/holds/delivery/handover.js";
import { createSpool } from "../../src/holds/delivery/spool.js";
import { createHolds } from "../../src/holds/engine.js";
import { renewLease } from "../../src/holds/store.js";
import { holdOf } from "../support/asking.js";
import type { Books } from "../support/books.js";

export const log = createLog("silent", "test");
/** For what Postgres has to do first. */
export const PATIENCE = { timeout: 30_000, interval: 20 };

export type Server = Awaited<ReturnType<typeof startServer>>;

/** A migrated Postgres of the test's own, which it may stop. */
export async function startServer() {
  const dataDir = mkdtempSync(join(tmpdir(), "keytoll-out-"));
  const guardian = startGuardian();
  const watch = (it: Process) => guardian.watch({ process: it, kind: "postgres" });
  const start = () => startPostgres({ dataDir, port: 0, say: () => {}, watch });
  let server: Postgres | undefined = await start();
  const { url } = server;
  await migrate(url);
  const stop = async (signal: NodeJS.Signals) => {
    if (server) await stopProcess(server.process, signal, 20 * SECOND);
    server = undefined;
  };
  return {
    url,
    /** As a crash: what it was doing is cut off, and recovered at the next start. */
    stop: () => stop("SIGQUIT"),
    /** On the same port again. */
    async start() {
      server = await start();
    },
    async close() {
      await stop("SIGINT");
      guardian.dismiss();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

interface Parts {
  url: string;
  dataDir: string;
  handOver?: Handover;
  /** Bytes that its spool may have. */
  spoolLimit?: number;
}

export type Cashier = Awaited<ReturnType<typeof openCashier>>;

/** What a gateway has for money, with short waits: a money core, a lease, a delivery, a spool. */
export async function openCashier({ url, dataDir, handOver, spoolLimit }: Parts) {
  const gateway = newId();
  const sql = connect(url, { name: "test cashier", max: 6 });
  await renewLease(sql, gateway);
  const holds = createHolds(sql, { gateway });
  const limit = spoolLimit === undefined ? {} : { limit: spoolLimit };
  const spool = createSpool({ dataDir, log, ...limit });
  const times = { wait: 300, again: 100, look: 1_000 };
  const delivery = createDelivery({ sql, holds, spool, handOver, log, times });
  return {
    gateway,
    sql,
    holds,
    spool,
    delivery,
    /** Opens a hold of 100 ngonka for a request of this gateway. */
    async hold(books: Books, seconds = 120): Promise<Id> {
      const request = holdOf(books, 100n, { own: true, seconds });
      await holds.authorize(request);
      return request.id;
    },
    async close() {
      await delivery.close();
      await sql.end({ timeout: 1 });
      await holds.close();
    },
  };
}

export const ownCapture = ({ account }: Books, id: Id, cost = 70n): OwnCapture => ({
  ...{
    account,
    id,
    cost,
    inputTokens: 3n,
    outputTokens: 4n,
    estimated: false,
    fingerprint: 5n,
    own: true,
  },
});
