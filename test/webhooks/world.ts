import { vi } from "vitest";
import { readConfig } from "../../src/base/config.js";
import { newId } from "../../src/base/ids.js";
import { connect, type Sql } from "../../src/db/sql.js";
import { startDemoUpstream } from "../../src/inference/demo-upstream.js";
import { startGateway } from "../../src/server.js";
import { startWorker } from "../../src/worker.js";
import { freshDatabase, type TestDatabase } from "../support/database.js";
import { environment, restClient, UPSTREAM_KEY } from "../support/live-gateway.js";
import { freshNamespace, temporalAddress } from "../support/services.js";
import { DATA_DIR, quietLog, temporalClient } from "../workflows/world.js";

export const PATIENCE = { timeout: 40_000, interval: 50 };

type Json = Record<string, unknown>;
export type World = Awaited<ReturnType<typeof aWorld>>;

/** A gateway and a worker on a database and a namespace of their own; webhooks may go to 127.0.0.0/8. */
export async function aWorld() {
  const database: TestDatabase = await freshDatabase();
  const upstream = await startDemoUpstream({ port: 0, key: UPSTREAM_KEY });
  const temporal = { address: temporalAddress(), namespace: await freshNamespace() };
  const env = {
    ...environment(database.url, upstream.url),
    TEMPORAL_ADDRESS: temporal.address,
    TEMPORAL_NAMESPACE: temporal.namespace,
    KEYTOLL_DATA_DIR: DATA_DIR,
    KEYTOLL_WEBHOOK_ALLOW_PRIVATE: "127.0.0.0/8",
  };
  const config = readConfig(env);
  const gateway = await startGateway(config, env, quietLog);
  const sql: Sql = connect(database.url, { name: "webhook test", max: 4 });
  const application = connect(database.applicationUrl, { name: "webhook worker", max: 8 });
  const work = () => startWorker({ config, sql: application, log: quietLog });
  let worker: Awaited<ReturnType<typeof startWorker>> | undefined = await work();
  const client = await temporalClient(temporal);
  const rest = restClient(gateway.http);

  async function stopWorker(): Promise<void> {
    await worker?.stop();
    worker = undefined;
  }
  return {
    ...rest,
    http: gateway.http,
    env,
    temporal,
    config,
    sql,
    client,
    stopWorker,
    async startWorker(): Promise<void> {
      worker = await work();
    },
    async close() {
      await stopWorker();
      await gateway.close();
      await upstream.close();
      await client.connection.close();
      await Promise.all([sql.end({ timeout: 5 }), application.end({ timeout: 5 })]);
      await database.drop();
    },
  };
}

let owners = 0;

/** An owner with money, a management key and one endpoint. */
export async function aShop(
  world: World,
  url: string,
  { events = [], paid = "1000000000" }: { events?: string[]; paid?: string } = {},
) {
  owners += 1;
  const owner = await world.anOwner(`owner${owners}@example.com`, paid);
  const manager = await world.aManagementKey(owner.token);
  const endpoint = await anEndpoint(world, owner.token, url, events);
  return { ...owner, manager: manager.id, endpoint };
}

/** @returns its id and secret */
export async function anEndpoint(world: World, token: string, url: string, events: string[] = []) {
  const route = "POST /api/webhooks/endpoints";
  const made = await world.done(route, { bearer: token, body: { url, events } });
  return { id: String(made.id), secret: String(made.secret), made: made as Json };
}

/** Waits until `check` no longer throws. */
export const until = (check: () => unknown, patience = PATIENCE) => vi.waitFor(check, patience);

/** Uses exactly `cost` ngonka as a child. @returns the status of what refused it, or 200 */
export async function use(world: World, token: string, child: string, cost: bigint) {
  const ask = (method: string, body: Json) =>
    world.rest(`POST /keytoll.v1.HoldService/${method}`, {
      bearer: token,
      headers: { "content-type": "application/json" },
      body,
    });
  const holdId = newId();
  const amountNgonka = String(cost);
  const hold = { holdId, childKeyId: child, amountNgonka, deadlineSeconds: 60 };
  const { status } = await ask("Authorize", hold);
  if (status !== 200) return status;
  return (await ask("Capture", { holdId, costNgonka: amountNgonka })).status;
}
