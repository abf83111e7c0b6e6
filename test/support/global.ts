import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import type { TestProject } from "vitest/node";
import { migrate } from "../../src/db/migrate.js";
import { type Charge, endAll, type Kind } from "../../src/dev/endings.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { startGuardian } from "../../src/dev/guardian.js";
import { startPostgres } from "../../src/dev/postgres.js";
import type { Process, Watch } from "../../src/dev/processes.js";
import { type Say, watched } from "../../src/dev/progress.js";
import { startRedis } from "../../src/dev/redis.js";
import { startTemporal } from "../../src/dev/temporal.js";

declare module "vitest" {
  interface ProvidedContext {
    /** Of the server's own database, for making and dropping others. */
    postgresUrl: string;
    /** Name of the migrated, empty database that tests copy. */
    templateDatabase: string;
    temporalAddress: string;
    redisUrl: string | undefined;
  }
}

const TEMPLATE = "keytoll_template";

const say: Say = (line) => console.log(`[services] ${line}`);

/**
 * Starts what the tests run on, on free ports and in a fresh folder; a guardian ends it even after
 * a kill -9.
 */
export default async function startServices(project: TestProject): Promise<() => Promise<void>> {
  process.env.TZ = "UTC";
  const dataDir = mkdtempSync(join(tmpdir(), "keytoll-test-"));
  const guardian = startGuardian();
  const charges: Charge[] = [];
  const watch = (kind: Kind) => (it: Process) => {
    guardian.watch({ process: it, kind });
    charges.push({ process: it, kind });
  };
  const parts = [
    startPostgres({ dataDir, port: 0, say, watch: watch("postgres") }),
    temporalServer(dataDir, watch("temporal")),
    startRedis({ dataDir, port: 0, say, watch: watch("redis") }),
  ] as const;
  const starting = Promise.all(parts);
  const stop = async () => {
    // What is still starting up must not do so behind our back
    await starting.catch(() => Promise.allSettled(parts));
    await endAll(charges);
    guardian.dismiss();
    rmSync(dataDir, { recursive: true, force: true });
  };
  try {
    const [database, temporal, redis] = await watched(say, "Postgres, Temporal, Redis", starting);
    await watched(say, "migrating the template", makeTemplate(database.url));
    project.provide("postgresUrl", database.url);
    project.provide("templateDatabase", TEMPLATE);
    project.provide("temporalAddress", temporal.address);
    project.provide("redisUrl", redis?.url);
    return stop;
  } catch (error) {
    await stop();
    throw error;
  }
}

async function temporalServer(dataDir: string, watch: Watch) {
  const binary = await findTemporal(say);
  const namespace = "default";
  return startTemporal({ binary, dataDir, keep: false, port: 0, uiPort: 0, namespace, say, watch });
}

async function makeTemplate(serverUrl: string): Promise<void> {
  const sql = postgres(serverUrl, { max: 1 });
  await sql.unsafe(`create database ${TEMPLATE}`);
  await sql.end();
  const url = new URL(serverUrl);
  url.pathname = `/${TEMPLATE}`;
  await migrate(url.href);
}
