import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { GATEWAY_FLAGS, KEYTOLL, nodeArgs } from "../../src/dev/processes.js";

/**
 * Starts a file of the bench as a process that can be talked with.
 *
 * @param file relative to this folder
 */
export function startProcess(file: string, args: string[] = []): ChildProcess {
  return talkative([...nodeArgs(fileURLToPath(new URL(file, import.meta.url))), ...args]);
}

/** Starts a verb of ours likewise, as `npm start` does. */
export function startVerb(verb: "serve" | "work", env: NodeJS.ProcessEnv): ChildProcess {
  const flags = verb === "serve" ? [...GATEWAY_FLAGS, ...PROBE] : [];
  return talkative([...flags, KEYTOLL, verb], env);
}

/** What `keptBy` asks. */
const PROBE = ["--expose-gc", "--import", new URL("./probe.mjs", import.meta.url).href];

/** Bytes of heap and buffers that a gateway cannot let go of: all garbage is collected first. */
export async function keptBy(child: ChildProcess): Promise<number> {
  const told = messageOf<{ kept: number }>(child);
  child.send("kept");
  return (await told).kept;
}

const talkative = (args: string[], env = process.env): ChildProcess =>
  spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit", "ipc"], env });

/** The next message of a process. Rejects where it ends instead. */
export function messageOf<Message>(child: ChildProcess): Promise<Message> {
  return new Promise((resolve, reject) => {
    const failed = (code: number | null) =>
      reject(new Error(`a process of the bench has ended with code ${code}`));
    child.once("exit", failed);
    child.once("message", (message) => {
      child.off("exit", failed);
      resolve(message as Message);
    });
  });
}

/** Asks a process to end, and waits until it has. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  await exited;
}

const TICKS_A_SECOND = 100;

/** Seconds of CPU time that processes have used so far, in user and system together. */
export function cpuOf(pids: readonly (number | undefined)[]): number {
  let ticks = 0;
  for (const pid of pids) {
    const [, fields = ""] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
    const [user, system] = fields.split(" ").slice(11, 13).map(Number);
    ticks += (user ?? 0) + (system ?? 0);
  }
  return ticks / TICKS_A_SECOND;
}
