import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { SECOND } from "../base/time.js";
import type { Kind } from "./endings.js";
import {
  GATEWAY_FLAGS,
  identify,
  KEYTOLL,
  lastLines,
  type Process,
  type Service,
} from "./processes.js";
import type { Say } from "./progress.js";

/** One of our own verbs as a process beside us. It says over IPC when it can be used, and where. */
export interface Child<Ready> extends Service {
  ready: Ready;
}

export interface ChildOptions {
  verb: "serve" | "work" | "demo-upstream";
  kind: Kind;
  /** What stands behind the verb. */
  args?: string[];
  env: NodeJS.ProcessEnv;
  dataDir: string;
  say: Say;
  watch: (it: Process) => void;
}

const READY_TIMEOUT = 60 * SECOND;
const FOLLOW_EVERY = 200;
const WARNING = 40;

/**
 * Starts a verb and waits until it says that it is ready. Its log is a file, so that it can go on
 * writing even when we are killed; warnings and errors are told here too.
 *
 * @throws Error with its last log lines when it ends before, or is not ready within a minute
 */
export async function startChild<Ready>(options: ChildOptions): Promise<Child<Ready>> {
  const { verb, dataDir, say } = options;
  const log = join(dataDir, "logs", `${verb}.log`);
  const file = openSync(log, "a", 0o600);
  const stopFollowing = follow(log, (line) => tellWarning(verb, line, say));
  const flags = verb === "serve" ? GATEWAY_FLAGS : [];
  const child = spawn(process.execPath, [...flags, KEYTOLL, verb, ...(options.args ?? [])], {
    detached: true,
    stdio: ["ignore", file, file, "ipc"],
    env: options.env,
  });
  closeSync(file);
  const it = identify(child.pid ?? 0);
  options.watch(it);
  const ended = new Promise<string>((resolve) => {
    child.once("error", (error) => resolve(`could not be started: ${error.message}`));
    child.once("exit", (code, signal) => {
      const how = signal ? `ended by ${signal}` : `ended with code ${code}`;
      resolve(`${how}; the end of ${log}:\n${lastLines(log)}\n`);
    });
  });
  void ended.then(stopFollowing);

  const ready = await readyMessage<Ready>(child, ended).catch((error: Error) => {
    child.kill("SIGKILL");
    throw new Error(`${verb} ${error.message}`);
  });
  return { process: it, ended, ready };
}

function readyMessage<Ready>(child: ChildProcess, ended: Promise<string>): Promise<Ready> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`was not ready within ${READY_TIMEOUT / SECOND} s; see its log`)),
      READY_TIMEOUT,
    );
    void ended.then((how) => {
      clearTimeout(timer);
      reject(new Error(how));
    });
    child.on("message", (message: { ready?: Ready }) => {
      if (message.ready === undefined) return;
      clearTimeout(timer);
      resolve(message.ready);
    });
  });
}

/** Hands over each new line of a growing file. Returns how to stop, which reads what is left. */
function follow(path: string, onLine: (line: string) => void): () => void {
  const file = openSync(path, "r");
  const buffer = Buffer.alloc(64 * 1024);
  let rest = "";
  const read = (at: number | null) => readSync(file, buffer, 0, buffer.length, at);
  skipToEnd(() => read(null));
  const drain = () => {
    for (let bytes = read(null); bytes > 0; bytes = read(null)) {
      const lines = (rest + buffer.toString("utf8", 0, bytes)).split("\n");
      rest = lines.pop() ?? "";
      lines.forEach(onLine);
    }
  };
  const timer = setInterval(drain, FOLLOW_EVERY);
  return () => {
    clearInterval(timer);
    drain();
    closeSync(file);
  };
}

function skipToEnd(read: () => number): void {
  while (read() > 0);
}

function tellWarning(verb: string, line: string, say: Say): void {
  const event = parsed(line);
  if ((event?.level ?? 0) < WARNING) return;
  const reason = event?.err?.message ? `: ${event.err.message}` : "";
  say(`${verb}: ${event?.msg ?? line}${reason}`);
}

interface LogEvent {
  level?: number;
  msg?: string;
  err?: { message?: string };
}

function parsed(line: string): LogEvent | undefined {
  try {
    const event: unknown = JSON.parse(line);
    return typeof event === "object" && event !== null ? event : undefined;
  } catch {
    return undefined;
  }
}
