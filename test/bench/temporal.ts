import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client, Connection } from "@temporalio/client";
import { end, killAll } from "../../src/dev/endings.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { startGuardian } from "../../src/dev/guardian.js";
import type { Process } from "../../src/dev/processes.js";
import { startTemporal } from "../../src/dev/temporal.js";
import { startVerb, stop } from "./processes.js";

const namespace = "default";

/** A development server of its own, with its database file, as `npm start` runs it. */
export interface BenchTemporal {
  address: string;
  client: Client;
  /** Kills it, and starts it again with its database once `meanwhile` is done. */
  away(meanwhile: () => Promise<void>): Promise<void>;
  /** Kills it, removes its database and starts it again at the same address. */
  wipe(): Promise<void>;
  stop(): Promise<void>;
}

export async function startBenchTemporal(): Promise<BenchTemporal> {
  const dataDir = mkdtempSync(join(tmpdir(), "keytoll-bench-temporal-"));
  const guardian = startGuardian();
  const binary = await findTemporal(() => {});
  const watch = (process: Process) => guardian.watch({ process, kind: "temporal" });
  const start = () =>
    startTemporal({
      binary,
      dataDir,
      namespace,
      port: 0,
      uiPort: 0,
      keep: true,
      say: () => {},
      watch,
    });
  let server = await start();
  const connection = await Connection.connect({ address: server.address });
  return {
    address: server.address,
    client: new Client({ connection, namespace }),
    async away(meanwhile) {
      await killAll([{ process: server.process, kind: "temporal" }]);
      await meanwhile();
      server = await start();
    },
    async wipe() {
      await killAll([{ process: server.process, kind: "temporal" }]);
      for (const suffix of ["", "-wal", "-shm"]) {
        rmSync(join(dataDir, `temporal.db${suffix}`), { force: true });
      }
      server = await start();
    },
    async stop() {
      await connection.close();
      await end({ process: server.process, kind: "temporal" });
      guardian.dismiss();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

/** A worker as a process of its own, as an operator runs it. */
export function startBenchWorker(databaseUrl: string, address: string) {
  const KEYTOLL_DATA_DIR = mkdtempSync(join(tmpdir(), "keytoll-bench-worker-"));
  const { PATH, HOME } = process.env;
  const child = startVerb("work", {
    ...{ PATH, HOME, TZ: "UTC", KEYTOLL_DATA_DIR, KEYTOLL_LOG_LEVEL: "silent" },
    ...{ DATABASE_URL: databaseUrl, TEMPORAL_ADDRESS: address },
    KEYTOLL_SECRET: "a pepper of the bench in 32 bytes or more",
  });
  return {
    pid: child.pid,
    async stop() {
      await stop(child);
      rmSync(KEYTOLL_DATA_DIR, { recursive: true, force: true });
    },
  };
}
