import { elapsed, pause } from "../../src/base/time.js";
import type { Process } from "../../src/dev/processes.js";

/** One thing that runs and is started again whenever it ends, as an init system would. */
export interface Supervised {
  name: string;
  /** True when it can be used. */
  isUp(): boolean;
  pid(): number | undefined;
  /** SIGKILL. False where nothing runs at the moment. */
  kill(): boolean;
  /** SIGKILL, and not started again for so many milliseconds. */
  keepDown(ms: number): boolean;
  /** SIGSTOP and SIGCONT. */
  freeze(): void;
  thaw(): void;
  /** Resolves when it can be used, at once where it can be already. */
  up(): Promise<void>;
  /** Milliseconds from each end to when it could be used again. */
  recoveries: number[];
  /** Starts it no more. */
  release(): void;
}

interface Spec {
  name: string;
  start(): Promise<{ process: Process; ended: Promise<string> }>;
  /** Whether what was started can be used. */
  isReady(): Promise<boolean>;
  /** Processes to freeze beside it. */
  others?: () => number[];
}

const RETRY = 100;
const POLL = 30;

export async function supervise({ name, start, isReady, others }: Spec): Promise<Supervised> {
  let current: Process | undefined;
  let ready = false;
  let released = false;
  let downAt = elapsed();
  let downUntil = 0;
  const frozen: number[] = [];
  const recoveries: number[] = [];

  async function life(): Promise<void> {
    const service = await start();
    current = service.process;
    let over = false;
    const end = service.ended.then(() => {
      over = true;
      ready = false;
      current = undefined;
      downAt = elapsed();
    });
    while (!over && !(await isReady().catch(() => false))) await pause(POLL);
    if (!over) {
      ready = true;
      recoveries.push(elapsed() - Math.max(downAt, downUntil));
    }
    await end;
  }
  async function run(): Promise<void> {
    while (!released) {
      await life().catch(() => {});
      await pause(Math.max(RETRY, downUntil - elapsed()));
    }
  }
  void run();
  const kill = () => current !== undefined && signal(current.pid, "SIGKILL");
  const it: Supervised = {
    name,
    isUp: () => ready && frozen.length === 0,
    pid: () => current?.pid,
    kill,
    keepDown(ms) {
      downUntil = elapsed() + ms;
      return kill();
    },
    freeze() {
      if (current) frozen.push(current.pid, ...(others?.() ?? []));
      for (const pid of frozen) signal(pid, "SIGSTOP");
    },
    thaw() {
      for (const pid of frozen.splice(0)) signal(pid, "SIGCONT");
    },
    async up() {
      while (!ready && !released) await pause(POLL);
    },
    recoveries,
    release: () => {
      released = true;
    },
  };
  await it.up();
  // The first start is no recovery
  recoveries.length = 0;
  return it;
}

/** False where there is no such process any more. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}
