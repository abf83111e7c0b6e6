import type { Client } from "@temporalio/client";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { elapsed, now, SECOND } from "../../src/base/time.js";
import { startWorker } from "../../src/worker.js";
import { type LiveGateway, restClient, startLiveGateway } from "../support/live-gateway.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import { configFor, quietLog, temporalClient } from "./world.js";

let gateway: LiveGateway;
let other: Awaited<ReturnType<LiveGateway["startAnother"]>>;
let client: Client;
let worker: Awaited<ReturnType<typeof startWorker>>;

beforeAll(async () => {
  gateway = await startLiveGateway();
  other = await gateway.startAnother();
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  client = await temporalClient(temporal);
  worker = await startWorker({ config: configFor(temporal), sql: gateway.sql, log: quietLog });
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await other?.close();
  await gateway?.close();
});

test("an expired key is refused by every gateway at its instant, and out of their caches within a second of its record", async () => {
  const { token } = await gateway.anOwner("evicted@example.com");
  const gm = await gateway.aManagementKey(token);
  const expiresAt = now() + 2 * SECOND;
  const gc = await gateway.aChild(token, gm.id, { expires_at: new Date(expiresAt).toISOString() });
  const doors = [restClient(gateway.http), restClient(other.http)];
  const ask = async () =>
    await Promise.all(
      doors.map(async ({ rest }) => {
        const asked = now();
        const { status } = await rest("GET /v1/models", { bearer: gc.secret });
        return { status, asked };
      }),
    );
  expect((await ask()).map(({ status }) => status)).toEqual([200, 200]);
  const after = await vi.waitUntil(
    async () => {
      const answers = await ask();
      for (const { status, asked } of answers) if (asked >= expiresAt) expect(status).toBe(401);
      return answers.every(({ status }) => status === 401);
    },
    { timeout: 10_000, interval: 10 },
  );
  expect(after).toBe(true);

  await vi.waitUntil(
    async () => {
      const rows = await gateway.sql`
        select from audit_event where subject = ${gc.id} and action = 'child_key.expired'`;
      return rows.length === 1;
    },
    { timeout: 20_000, interval: 20 },
  );
  const recorded = elapsed();
  // Whoever still believes in the row of before goes on refusing
  await gateway.sql`update child_key set expires_at = now() + interval '1 day' where id = ${gc.id}`;
  await vi.waitUntil(async () => (await ask()).every(({ status }) => status === 200), {
    timeout: 5_000,
    interval: 10,
  });
  expect(elapsed() - recorded).toBeLessThan(SECOND);
});
