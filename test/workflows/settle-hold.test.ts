import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client } from "@temporalio/client";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { captureEnding } from "../../src/holds/delivery/ending.js";
import { createHandover } from "../../src/holds/delivery/handover.js";
import { openClient } from "../../src/temporal/client.js";
import { startWorker } from "../../src/worker.js";
import { UPDATES, workflowIds } from "../../workflows/contract.js";
import {
  type Cashier,
  openCashier,
  ownCapture,
  PATIENCE,
  type Server,
  startServer,
} from "../holds/outage.js";
import { type Books, expectBooksAreRight, openBooks } from "../support/books.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import { configFor, detailsOf, everyHistory, quietLog, temporalClient } from "./world.js";

const LONG = { timeout: 90_000 };
const NOBODY = "127.0.0.1:1";

let server: Server;
let sql: Sql;
let client: Client;
let temporal: { address: string; namespace: string };
let dataDir: string;
let books: Books;
beforeAll(async () => {
  server = await startServer();
  sql = connect(server.url, { name: "test worker", max: 6 });
  temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(temporal);
});
afterAll(async () => {
  await client?.connection.close();
  await sql?.end({ timeout: 5 });
  await server?.close();
});
beforeEach(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "keytoll-settle-"));
  books = await openBooks(sql);
});
afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

/** Runs `work` with a cashier whose Temporal is at that address. */
async function withCashier<T>(address: string, work: (cashier: Cashier) => Promise<T>): Promise<T> {
  const place = openClient({ ...temporal, address });
  const handOver = createHandover(place.client, quietLog);
  const cashier = await openCashier({ url: server.url, dataDir, handOver });
  try {
    return await work(cashier);
  } finally {
    await cashier.close();
    await place.close();
  }
}

const usage = async () =>
  await sql`select cost::int, outcome from ended_hold where account_id = ${books.account}`;

test(
  "a request that Postgres did not take is settled by its workflow, though its gateway is gone",
  LONG,
  async () => {
    const worker = await startWorker({ config: configFor(temporal), sql, log: quietLog });
    const [paid, void_] = await withCashier(temporal.address, async (cashier) => {
      const holds = [await cashier.hold(books), await cashier.hold(books)] as const;
      await server.stop();
      expect(await cashier.delivery.capture(ownCapture(books, holds[0]), 100n)).toBe(70n);
      await cashier.delivery.void({ account: books.account, id: holds[1] });
      expect(cashier.delivery.standing()).toMatchObject({
        waiting: { memory: 0, workflow: 2, spool: 0 },
        handedOver: { workflow: 2, spool: 0 },
      });
      return holds;
    });
    const handle = client.workflow.getHandle(workflowIds.settleHold(paid));
    await vi.waitFor(async () => {
      expect(await detailsOf(handle)).toBe(
        `capture 0.00000007 GNK of hold ${paid}: waiting for Postgres`,
      );
    }, PATIENCE);
    await server.start();

    expect(await handle.result()).toEqual({ kind: "captured", costNgonka: "70" });
    expect(await detailsOf(handle)).toContain("done, the customer pays 0.00000007 GNK");
    const described = await handle.describe();
    expect(await described.staticSummary()).toBe(
      "captures a finished request that Postgres did not take",
    );
    expect(described.searchAttributes).toMatchObject({
      ...{ KeytollJob: ["settle-hold"], KeytollAccount: [books.account] },
    });
    const other = client.workflow.getHandle(workflowIds.settleHold(void_));
    expect(await other.result()).toEqual({ kind: "voided" });
    expect([...(await usage())].sort((a, b) => a.cost - b.cost)).toEqual([
      { cost: 0, outcome: "voided" },
      { cost: 70, outcome: "captured" },
    ]);
    expect(await everyHistory(client)).not.toMatch(/g[cm]-|password|secret"/);
    await worker.stop();
    await expectBooksAreRight(sql);
  },
);

test(
  "a gateway that lives does not wait for the workflow, and both together pay once",
  LONG,
  async () => {
    await withCashier(temporal.address, async (cashier) => {
      const id = await cashier.hold(books);
      await server.stop();
      await cashier.delivery.capture(ownCapture(books, id), 100n);
      await server.start();
      await vi.waitFor(
        () => expect(cashier.delivery.standing().waiting.workflow).toBe(0),
        PATIENCE,
      );
      expect([...(await usage())]).toEqual([{ cost: 70, outcome: "captured" }]);

      const worker = await startWorker({ config: configFor(temporal), sql, log: quietLog });
      const { workflow } = client;
      expect(await workflow.getHandle(workflowIds.settleHold(id)).result()).toMatchObject({
        kind: "captured",
      });
      await worker.stop();
      expect([...(await usage())]).toEqual([{ cost: 70, outcome: "captured" }]);
    });
    await expectBooksAreRight(sql);
  },
);

test(
  "with Temporal away as well it goes to the spool, and nobody waits long for finding out",
  LONG,
  async () => {
    await withCashier(NOBODY, async (cashier) => {
      const ids = await Promise.all(Array.from({ length: 20 }, () => cashier.hold(books)));
      await server.stop();
      const start = performance.now();
      await Promise.all(ids.map((id) => cashier.delivery.capture(ownCapture(books, id), 100n)));
      expect(performance.now() - start).toBeLessThan(5_000);
      expect(cashier.delivery.standing().waiting).toEqual({ memory: 0, workflow: 0, spool: 20 });
      await server.start();
      await vi.waitFor(() => expect(cashier.delivery.standing().waiting.spool).toBe(0), PATIENCE);
    });
    expect(await usage()).toHaveLength(20);
    await expectBooksAreRight(sql);
  },
);

test(
  "the end of a hold that the database does not know fails its workflow instead of trying for ever",
  LONG,
  async () => {
    const worker = await startWorker({ config: configFor(temporal), sql, log: quietLog });
    const handOver = createHandover(client, quietLog);
    const hold = newId();
    const ending = captureEnding(ownCapture(books, hold));
    expect([await handOver(ending), await handOver(ending)]).toEqual([true, true]);
    const result = client.workflow.getHandle(workflowIds.settleHold(hold)).result();
    await expect(result).rejects.toMatchObject({
      cause: { cause: { message: "this database knows no such hold" } },
    });
    await worker.stop();
  },
);

test(
  "where an operator gives up, the workflow ends with who and why, and the sweep ends the hold",
  LONG,
  async () => {
    const worker = await startWorker({ config: configFor(temporal), sql, log: quietLog });
    const hold = await withCashier(NOBODY, (cashier) => cashier.hold(books));
    const handle = client.workflow.getHandle(workflowIds.settleHold(hold));
    const order = { by: "Ada", reason: "the upstream billed nothing" };
    const giveUp = (args: Partial<typeof order>) =>
      handle.executeUpdate<void, [object]>(UPDATES.giveUp, { args: [args] });
    await sql.begin(async (tx) => {
      await tx`select 1 from account where id = ${books.account} for update`;
      await createHandover(client, quietLog)(captureEnding(ownCapture(books, hold)));
      await expect(giveUp({ by: "Ada" })).rejects.toMatchObject({
        cause: { message: "reason: wants 1 to 200 characters" },
      });
      await giveUp(order);
      expect(await handle.result()).toEqual({ kind: "given_up" });
      await tx`select pg_cancel_backend(pid) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'`;
    });
    expect(await detailsOf(handle)).toContain(
      "left to the sweep after its deadline by Ada: the upstream billed nothing",
    );
    expect(
      await sql`select subject, change from audit_event where action = 'hold.given_up'`,
    ).toEqual([{ subject: hold, change: expect.objectContaining(order) }]);
    expect(await usage()).toHaveLength(0);
    await worker.stop();
  },
);
