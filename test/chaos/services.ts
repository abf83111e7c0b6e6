import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import postgres from "postgres";
import { SECOND } from "../../src/base/time.js";
import { startChild } from "../../src/dev/children.js";
import { findTemporal } from "../../src/dev/find-temporal.js";
import { freePort } from "../../src/dev/ports.js";
import { startPostgres } from "../../src/dev/postgres.js";
import { parentOf } from "../../src/dev/processes.js";
import { startTemporal } from "../../src/dev/temporal.js";
import { ADMIN, SECRET } from "../support/live-gateway.js";
import type { Dice } from "./dice.js";
import type { House } from "./house.js";
import { type Line, startLine } from "./proxy.js";
import type { Supervised } from "./supervised.js";

export interface Gateway extends Supervised {
  http: string;
  /** Base URL of gRPC. */
  grpc: string;
  /** Between it and Postgres. */
  line: Line;
}

const say = () => {};
const PROBE = 2 * SECOND;

/** Postgres, on the disk below `dataDir`, and Temporal. */
export async function startServices(house: House, dataDir: string) {
  let databaseUrl = "";
  let temporalAddress = "";
  const database: Supervised = await house.keep({
    name: "postgres",
    async start() {
      const folder = { dataDir: join(dataDir, "disk"), port: 0 };
      const server = await startPostgres({ ...folder, say, watch: house.watch("postgres") });
      databaseUrl = server.url;
      return server;
    },
    isReady: () => answers(databaseUrl),
    others: () => childrenOf(database.pid()),
  });
  const binary = await findTemporal(say);
  const place = { binary, dataDir, keep: true, port: 0, uiPort: 0, namespace: "default" };
  const temporal = await house.keep({
    name: "temporal",
    async start() {
      const server = await startTemporal({ ...place, say, watch: house.watch("temporal") });
      temporalAddress = server.address;
      return server;
    },
    isReady: async () => true,
  });
  return { postgres: database, temporal, databaseUrl, temporalAddress };
}

interface Ours {
  dataDir: string;
  databaseUrl: string;
  temporalAddress: string;
  upstreamUrl: string;
  gateways: number;
  dice: Dice;
}

/** Gateways and a worker, each with a line of its own to Postgres. */
export async function startOurs(house: House, ours: Ours) {
  const env = {
    ...{ PATH: process.env.PATH, HOME: process.env.HOME, TZ: "UTC" },
    ...{ KEYTOLL_SECRET: SECRET, KEYTOLL_ADMIN_TOKEN: ADMIN, KEYTOLL_LOG_LEVEL: "warn" },
    KEYTOLL_UPSTREAM_URL: ours.upstreamUrl,
    TEMPORAL_ADDRESS: ours.temporalAddress,
  };
  const newLine = async () => {
    const line = await startLine(ours.databaseUrl, ours.dice.fork());
    house.onClose(() => line.close());
    return line;
  };
  const starter = (name: string, verb: "serve" | "work", own: Record<string, string>) => {
    const dataDir = join(ours.dataDir, name);
    mkdirSync(join(dataDir, "logs"), { recursive: true });
    const kind = verb === "serve" ? "gateway" : "worker";
    const all = { ...env, ...own, KEYTOLL_DATA_DIR: dataDir };
    return () =>
      startChild<object>({ verb, kind, env: all, dataDir, say, watch: house.watch(kind) });
  };
  const gateway = async (name: string): Promise<Gateway> => {
    const line = await newLine();
    const [port, grpcPort] = [await freePort(), await freePort()];
    const http = `http://127.0.0.1:${port}`;
    const start = starter(name, "serve", {
      ...{ PORT: String(port), GRPC_PORT: String(grpcPort), DATABASE_URL: line.url },
      KEYTOLL_UPSTREAM_KEY: name,
    });
    const it = await house.keep({ name, start, isReady: () => isReady(http) });
    return { ...it, http, grpc: `http://127.0.0.1:${grpcPort}`, line };
  };
  const workerLine = await newLine();
  const names = Array.from({ length: ours.gateways }, (_, i) => `gateway-${i + 1}`);
  const [worker, ...gateways] = await Promise.all([
    house.keep({
      name: "worker",
      start: starter("worker", "work", { DATABASE_URL: workerLine.url }),
      isReady: async () => true,
    }),
    ...names.map(gateway),
  ]);
  return { worker, gateways, workerLine };
}

async function answers(url: string): Promise<boolean> {
  const sql = postgres(url, { max: 1, connect_timeout: 2, onnotice: say });
  try {
    await sql`select 1`;
    return true;
  } finally {
    await sql.end({ timeout: 1 });
  }
}

/** Whether a gateway says that it can take money. @throws where it says nothing */
export async function isReady(http: string): Promise<boolean> {
  const answer = await fetch(`${http}/readyz`, { signal: AbortSignal.timeout(PROBE) });
  await answer.arrayBuffer();
  return answer.status === 200;
}

/** Server processes of Postgres are children of the first one. */
export function childrenOf(pid: number | undefined): number[] {
  if (pid === undefined) return [];
  return readdirSync("/proc")
    .map(Number)
    .filter((it) => Number.isInteger(it) && parentOf(it) === pid);
}
