import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, vi } from "vitest";
import type { Charge, Kind } from "../../src/dev/endings.js";
import { isRunning, KEYTOLL, readOrNothing } from "../../src/dev/processes.js";
import type { Ready } from "../../src/dev/run-file.js";

/** The whole of it, started as a user starts it, in a folder of its own. */
export interface System {
  ready: Ready;
  /** host:port of Temporal's gRPC. */
  temporalAddress: string;
  /** All that it has printed. */
  output(): string;
  /** The newest process of a kind. */
  pidOf(kind: Kind): number;
  /** Runs a verb of the command line beside it. */
  keytoll(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }>;
  /** Stops it in order and removes its folder. */
  stop(): Promise<void>;
}

/** For what several processes have to do first. */
export const PATIENCE = { timeout: 60_000, interval: 50 };

const FREE_PORTS = { PORT: "0", GRPC_PORT: "0", TEMPORAL_UI_PORT: "0" };

/** Starts everything as `npm start` does, on free ports, and waits for the banner's last line. */
export async function startSystem(): Promise<System> {
  const dataDir = mkdtempSync(join(tmpdir(), "keytoll-system-"));
  const { PATH, HOME } = process.env;
  const env = { PATH, HOME, ...FREE_PORTS, KEYTOLL_DATA_DIR: dataDir };
  const main = run(["dev"], env);
  const charges = (): Charge[] =>
    JSON.parse(readOrNothing(join(dataDir, "processes.json")) ?? "[]") as Charge[];
  const stop = async (): Promise<void> => {
    const started = charges();
    main.child.kill("SIGTERM");
    await main.ended;
    expect(started.filter((it) => isRunning(it.process))).toEqual([]);
    rmSync(dataDir, { recursive: true, force: true });
  };
  try {
    return {
      ready: await readyLine(main),
      temporalAddress: `127.0.0.1:${readOrNothing(join(dataDir, "temporal-port"))?.trim()}`,
      output: main.output,
      pidOf(kind) {
        const pid = charges().findLast((it) => it.kind === kind)?.process.pid;
        if (pid === undefined) throw new Error(`no ${kind} was started`);
        return pid;
      },
      async keytoll(...args) {
        const verb = run(args, env);
        return { code: await verb.ended, stdout: verb.stdout(), stderr: verb.stderr() };
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

type Run = ReturnType<typeof run>;

function run(args: string[], env: NodeJS.ProcessEnv) {
  const child = spawn(process.execPath, [KEYTOLL, ...args], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const stdout = textOf(child.stdout);
  const stderr = textOf(child.stderr);
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  return { child, ended, stdout, stderr, output: () => stdout() + stderr() };
}

function textOf(stream: ChildProcess["stdout"]): () => string {
  let text = "";
  stream?.on("data", (bytes: Buffer) => {
    text += bytes.toString();
  });
  return () => text;
}

async function readyLine({ child, output }: Run): Promise<Ready> {
  return await vi.waitFor(() => {
    expect(child.exitCode, output()).toBeNull();
    const line = output().trimEnd().split("\n").at(-1) ?? "";
    expect(line, output()).toMatch(/^ready \{.*\}$/);
    return JSON.parse(line.slice("ready ".length)) as Ready;
  }, PATIENCE);
}
