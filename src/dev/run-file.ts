import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Charge, endAll } from "./endings.js";
import { startGuardian } from "./guardian.js";
import { identify, isRunning, type Process, readOrNothing } from "./processes.js";
import type { Say } from "./progress.js";
import { writePrivate } from "./secrets.js";

/** Where everything is: the machine-readable end of the banner. */
export interface Ready {
  http: string;
  /** host:port */
  grpc: string;
  /** Null where the Temporal server is not ours. */
  temporal_ui: string | null;
  database_url: string;
  admin_token_file: string;
  /** Null in production, where nothing is seeded. */
  demo_owner_token_file: string | null;
}

/** What this run has started, kept where a guardian and the next start find it. */
export interface Roster {
  /** Ends the process at once when the run is ending already. */
  add(charge: Charge): void;
  /** Everything that was started and still runs. From now on nothing new may start. */
  close(): Charge[];
  /** Removes what only a running system has. */
  finish(): void;
}

const lockFile = (dataDir: string) => join(dataDir, "dev.lock");
const rosterFile = (dataDir: string) => join(dataDir, "processes.json");
const runFile = (dataDir: string) => join(dataDir, "run.json");

/**
 * Takes the data folder for this process, after ending whatever a killed earlier run has left.
 *
 * @throws Error when another run has it
 */
export async function takeDataDir(dataDir: string, say: Say): Promise<Roster> {
  mkdirSync(dataDir, { recursive: true });
  takeLock(dataDir);
  const left = readJson<Charge[]>(rosterFile(dataDir))?.filter((it) => isRunning(it.process)) ?? [];
  if (left.length > 0) {
    const names = left.map((it) => `${it.kind} ${it.process.pid}`).join(", ");
    say(`an earlier run left processes behind (${names}); they are ended first`);
    await endAll(left);
  }
  rmSync(runFile(dataDir), { force: true });
  return roster(dataDir);
}

/** Tells other commands on this machine where everything is. */
export function writeRunFile(dataDir: string, ready: Ready): void {
  writePrivate(runFile(dataDir), JSON.stringify(ready, undefined, 2));
}

/** Where everything is, as long as a run has the data folder. Undefined when none does. */
export function readRunFile(dataDir: string): Ready | undefined {
  const holder = readJson<Process>(lockFile(dataDir));
  return holder && isRunning(holder) ? readJson<Ready>(runFile(dataDir)) : undefined;
}

function takeLock(dataDir: string): void {
  const file = lockFile(dataDir);
  const me = JSON.stringify(identify(process.pid));
  const holder = readJson<Process>(file);
  if (holder && isRunning(holder)) throw inUse(dataDir, holder);
  rmSync(file, { force: true });
  try {
    writeFileSync(file, me, { flag: "wx", mode: 0o600 });
  } catch {
    throw inUse(dataDir, readJson<Process>(file));
  }
}

function inUse(dataDir: string, holder: Process | undefined): Error {
  return new Error(
    `${dataDir} is in use by another run (pid ${holder?.pid ?? "unknown"}): ` +
      "stop that one, or set KEYTOLL_DATA_DIR to another folder",
  );
}

function roster(dataDir: string): Roster {
  const guardian = startGuardian();
  const file = rosterFile(dataDir);
  let charges: Charge[] = [];
  let closed = false;
  return {
    add: (charge) => {
      guardian.watch(charge);
      if (closed) return void endAll([charge]);
      charges = [...charges.filter((it) => isRunning(it.process)), charge];
      writePrivate(`${file}.new`, JSON.stringify(charges));
      renameSync(`${file}.new`, file);
    },
    close: () => {
      closed = true;
      return charges;
    },
    finish: () => {
      for (const it of [file, runFile(dataDir), lockFile(dataDir)]) rmSync(it, { force: true });
      guardian.dismiss();
    },
  };
}

function readJson<T>(file: string): T | undefined {
  try {
    return JSON.parse(readOrNothing(file) ?? "") as T;
  } catch {
    return undefined;
  }
}
