import { execFileSync, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { elapsed, pause, SECOND } from "../base/time.js";

/** A process, and when it started: a pid alone may have been given to another one since. */
export interface Process {
  pid: number;
  start: string;
}

/** What to run, and under whom. Standard output and error go to the end of the file `log`. */
export interface Launch {
  file: string;
  args: string[];
  log: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  uid?: number;
  gid?: number;
  /** Told of the process at once, before it is of any use: it must not outlive us even then. */
  watch?: Watch;
}

export type Watch = (it: Process) => void;

export interface Launched {
  process: Process;
  /** Resolves with the reason in words, e.g. "ended with code 1". */
  ended: Promise<string>;
  hasEnded(): boolean;
}

/** Something that runs for us and can be used. */
export interface Service {
  process: Process;
  /** Resolves with the reason in words. */
  ended: Promise<string>;
}

const POLL_MS = 20;

/**
 * Starts a process in a group of its own, so that Ctrl-C in a terminal reaches only us and we end
 * the rest in order.
 *
 * @throws Error when the file cannot be run
 */
export async function launch(what: Launch): Promise<Launched> {
  const log = openSync(what.log, "a", 0o600);
  const child = spawn(what.file, what.args, {
    detached: true,
    stdio: ["ignore", log, log],
    env: what.env ?? process.env,
    ...(what.cwd === undefined ? {} : { cwd: what.cwd }),
    ...(what.uid === undefined ? {} : { uid: what.uid }),
    ...(what.gid === undefined ? {} : { gid: what.gid }),
  });
  closeSync(log);
  let over = false;
  const ended = new Promise<string>((resolve) => {
    child.once("exit", (code, signal) => {
      over = true;
      resolve(signal ? `ended by ${signal}` : `ended with code ${code}`);
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  const it = identify(child.pid ?? 0);
  what.watch?.(it);
  return { process: it, ended, hasEnded: () => over };
}

export const identify = (pid: number): Process => ({ pid, start: startOf(pid) ?? "" });

/**
 * Node's flags for a gateway that shares few cores with Postgres. Most of what a request makes dies
 * young: a larger nursery and no collector threads beside it are worth a tenth to a quarter of its
 * requests a second. Nothing of it is born old, as node would have it where much is under way, and
 * the old are looked through before they are a quarter more: that is a third of the memory.
 */
export const GATEWAY_FLAGS = [
  "--single-threaded-gc",
  "--max-semi-space-size=32",
  "--no-allocation-site-pretenuring",
  "--heap-growing-percent=20",
];

/** Our command line as a file that node runs: a verb follows. */
export const KEYTOLL = fileURLToPath(new URL("../keytoll.mjs", import.meta.url));

/** Node's flags that let it run TypeScript, wherever it is started. */
export const TYPESCRIPT = ["--import", new URL("../typescript.mjs", import.meta.url).href];

/** Node's arguments that run one of our files, compiled or not. */
export const nodeArgs = (file: string): string[] =>
  file.endsWith(".ts") ? [...TYPESCRIPT, file] : [file];

/**
 * When a process started, in the system's own words. Undefined where there is none, or only its
 * remains.
 */
export function startOf(pid: number): string | undefined {
  if (process.platform !== "linux") return psField(pid, "lstart=");
  const fields = statOf(pid);
  return fields[0] === "Z" ? undefined : fields[19];
}

export function parentOf(pid: number): number | undefined {
  const parent = process.platform === "linux" ? statOf(pid)[1] : psField(pid, "ppid=");
  return parent === undefined ? undefined : Number(parent);
}

/** The command line of a process, for telling whose it is. */
export function commandOf(pid: number): string | undefined {
  if (process.platform === "linux") {
    return readOrNothing(`/proc/${pid}/cmdline`)?.replaceAll("\0", " ");
  }
  return psField(pid, "args=");
}

export const isRunning = (it: Process): boolean => startOf(it.pid) === it.start;

/**
 * Sends `signal`, waits up to `graceMs`, then kills. A process that is gone, or another by now, is
 * left alone.
 */
export async function stopProcess(
  it: Process,
  signal: NodeJS.Signals,
  graceMs: number,
): Promise<void> {
  if (!isRunning(it)) return;
  send(it.pid, signal);
  if (await until(() => !isRunning(it), graceMs)) return;
  if (isRunning(it)) send(it.pid, "SIGKILL");
  await until(() => !isRunning(it), 5 * SECOND);
}

/** Polls until `condition` holds. False when it did not within `timeoutMs`. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
): Promise<boolean> {
  const end = elapsed() + timeoutMs;
  while (!(await condition())) {
    if (elapsed() > end) return false;
    await pause(POLL_MS);
  }
  return true;
}

/** The last lines of a log file, for an error message. */
export function lastLines(file: string, count = 15): string {
  return (readOrNothing(file) ?? "").trimEnd().split("\n").slice(-count).join("\n");
}

export function readOrNothing(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it ended by itself in the meantime
  }
}

/** Linux: the fields of /proc/<pid>/stat from the state on. */
function statOf(pid: number): string[] {
  const stat = readOrNothing(`/proc/${pid}/stat`);
  return stat === undefined ? [] : stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function psField(pid: number, field: string): string | undefined {
  try {
    const text = execFileSync("ps", ["-o", field, "-p", String(pid)], { encoding: "utf8" });
    return text.trim() || undefined;
  } catch {
    return undefined;
  }
}
