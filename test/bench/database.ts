import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import { migrate } from "../../src/db/migrate.js";
import { endAll } from "../../src/dev/endings.js";
import { startGuardian } from "../../src/dev/guardian.js";
import { startPostgres } from "../../src/dev/postgres.js";
import type { Process } from "../../src/dev/processes.js";

/** A Postgres of its own for a measurement, with fsync on as everywhere. */
export interface BenchServer {
  /** A migrated database with no row in it: plans and tables as on a first day. */
  emptyDatabase(): Promise<string>;
  /** What it runs on, for the report. */
  version: string;
  stop(): Promise<void>;
}

export async function startBenchServer(): Promise<BenchServer> {
  const dataDir = mkdtempSync(join(tmpdir(), "keytoll-bench-"));
  const guardian = startGuardian();
  const started: Process[] = [];
  const watch = (it: Process) => {
    guardian.watch({ process: it, kind: "postgres" });
    started.push(it);
  };
  const server = await startPostgres({ dataDir, port: 0, say: () => {}, watch });
  const root = postgres(server.url, { max: 1, onnotice: () => {} });
  const [settings] = await root`
    select current_setting('server_version') as version, current_setting('fsync') as fsync`;
  let made = 0;
  return {
    version: `PostgreSQL ${settings?.version}, fsync ${settings?.fsync}`,
    async emptyDatabase() {
      const name = `bench_${made++}`;
      await root.unsafe(`create database ${name}`);
      const url = new URL(server.url);
      url.pathname = `/${name}`;
      await migrate(url.href);
      return url.href;
    },
    async stop() {
      await root.end();
      await endAll(started.map((it) => ({ process: it, kind: "postgres" })));
      guardian.dismiss();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}
