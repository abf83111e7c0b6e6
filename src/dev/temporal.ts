import { execFile } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { Client, credentials } from "@grpc/grpc-js";
import { SEARCH_ATTRIBUTES } from "../../workflows/contract.js";
import { elapsed, now, pause, SECOND } from "../base/time.js";
import { freePort, onFreePorts, rememberedPort } from "./ports.js";
import {
  type Launched,
  lastLines,
  launch,
  readOrNothing,
  type Service,
  stopProcess,
  type Watch,
} from "./processes.js";
import type { Say } from "./progress.js";

export interface Temporal extends Service {
  /** host:port of its gRPC. */
  address: string;
  uiUrl: string;
}

interface Options {
  /** The Temporal CLI. */
  binary: string;
  /** Logs go below it, and with `keep` the database file. */
  dataDir: string;
  /** False: in memory, everything is gone at the end. */
  keep: boolean;
  /** 0: a free one; with `keep` the same again at the next start where it is still free. */
  port: number;
  /** 0: a free one. */
  uiPort: number;
  namespace: string;
  say: Say;
  watch?: Watch;
}

const START_TIMEOUT = 30 * SECOND;
const MEMORY_LIMIT = "512MiB";
/** How the server tells a file that it cannot use, as against an end for any other reason. */
const DAMAGE = /SQL logic error|not a database|malformed|no such table/;
const DATABASE_FILES = ["", "-wal", "-shm", "-journal"];

/**
 * Starts Temporal's development server and waits until it serves. A database file that another
 * version of the CLI wrote, or that cannot be read, is set aside: jobs are derived from our own
 * tables and are scheduled anew.
 *
 * @throws Error with the last log lines when it does not come up
 */
export async function startTemporal(options: Options): Promise<Temporal> {
  const { dataDir, keep, say } = options;
  mkdirSync(join(dataDir, "logs"), { recursive: true });
  const log = join(dataDir, "logs", "temporal.log");
  const file = join(dataDir, "temporal.db");
  if (keep) await setAsideOfOtherVersion(options.binary, file, say);

  return await onFreePorts(async () => {
    const port = options.port === 0 ? await choosePort(options) : options.port;
    const uiPort = options.uiPort === 0 ? await freePort() : options.uiPort;
    const server = await serveAnyFile(options, { port, uiPort, log, file });
    return {
      address: `127.0.0.1:${port}`,
      uiUrl: `http://127.0.0.1:${uiPort}`,
      process: server.process,
      ended: server.ended,
    };
  });
}

const choosePort = ({ dataDir, keep }: Options): Promise<number> =>
  keep ? rememberedPort(join(dataDir, "temporal-port")) : freePort();

/** Serves from the file as it is, or from a new one where it is damaged. */
async function serveAnyFile(options: Options, place: Place): Promise<Launched> {
  try {
    return await serve(options, place);
  } catch (error) {
    if (!options.keep || !DAMAGE.test(lastLines(place.log, 3))) throw error;
    setAside(place.file, "the server cannot read it", options.say);
    return await serve(options, place);
  }
}

interface Place {
  port: number;
  uiPort: number;
  log: string;
  file: string;
}

async function serve(options: Options, { port, uiPort, log, file }: Place): Promise<Launched> {
  const kept = ["--db-filename", file].concat(
    // Twice the speed; a crash of the machine may lose the last jobs, which are derived from our
    // own tables
    ["journal_mode=WAL", "synchronous=OFF"].flatMap((pragma) => ["--sqlite-pragma", pragma]),
  );
  const server = await launch({
    file: options.binary,
    args: [
      ...["server", "start-dev", "--ip", "127.0.0.1", "--log-level", "warn"],
      ...["--port", String(port), "--ui-port", String(uiPort)],
      ...["--namespace", options.namespace],
      ...(options.keep ? kept : []),
      ...SEARCH_ATTRIBUTES.flatMap((name) => ["--search-attribute", `${name}=Keyword`]),
    ],
    log,
    env: { ...process.env, GOMEMLIMIT: MEMORY_LIMIT, TZ: "UTC" },
    ...(options.watch === undefined ? {} : { watch: options.watch }),
  });
  if (await healthy(`127.0.0.1:${port}`, server)) return server;
  await stopProcess(server.process, "SIGKILL", 0);
  throw new Error(`Temporal did not start:\n${lastLines(log)}`);
}

async function setAsideOfOtherVersion(binary: string, file: string, say: Say): Promise<void> {
  const { stdout } = await promisify(execFile)(binary, ["--version"]);
  const version = stdout.trim();
  const note = `${file}.version`;
  const wroteIt = readOrNothing(note)?.trim();
  if (existsSync(file) && wroteIt !== version) {
    setAside(file, `${wroteIt ?? "another version"} wrote it`, say);
  }
  writeFileSync(note, `${version}\n`);
}

function setAside(file: string, why: string, say: Say): void {
  const old = `${file}.old`;
  say(`Temporal: its database is made anew, since ${why} (set aside as ${old})`);
  for (const suffix of DATABASE_FILES) {
    rmSync(old + suffix, { force: true });
    if (existsSync(file + suffix)) renameSync(file + suffix, old + suffix);
  }
}

async function healthy(address: string, server: Launched): Promise<boolean> {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 100,
  });
  try {
    const end = elapsed() + START_TIMEOUT;
    while (elapsed() < end && !server.hasEnded()) {
      if (await serves(client)) return true;
      await pause(50);
    }
    return false;
  } finally {
    client.close();
  }
}

/**
 * grpc.health.v1, written by hand: field 1 of the request names the service, field 1 of the answer
 * is 1 (SERVING).
 */
function serves(client: Client): Promise<boolean> {
  const service = Buffer.from("temporal.api.workflowservice.v1.WorkflowService");
  const request = Buffer.concat([Buffer.from([0x0a, service.length]), service]);
  const same = (bytes: Buffer) => bytes;
  return new Promise((resolve) => {
    client.makeUnaryRequest(
      "/grpc.health.v1.Health/Check",
      same,
      same,
      request,
      { deadline: now() + SECOND },
      (error, answer) => resolve(!error && answer?.equals(Buffer.from([0x08, 0x01])) === true),
    );
  });
}
