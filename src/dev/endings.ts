import { SECOND } from "../base/time.js";
import { type Process, stopProcess } from "./processes.js";

/**
 * How each kind is ended, and when: the last stage first, our own while the database still takes
 * their last words.
 */
const ENDINGS = {
  gateway: { signal: "SIGTERM", graceMs: 30 * SECOND, stage: 4 },
  worker: { signal: "SIGTERM", graceMs: 20 * SECOND, stage: 3 },
  upstream: { signal: "SIGTERM", graceMs: 2 * SECOND, stage: 2 },
  temporal: { signal: "SIGINT", graceMs: 8 * SECOND, stage: 1 },
  redis: { signal: "SIGTERM", graceMs: 5 * SECOND, stage: 1 },
  // Fast shutdown: connections are cut, everything is written, no recovery at the next start
  postgres: { signal: "SIGINT", graceMs: 20 * SECOND, stage: 1 },
} as const;

export type Kind = keyof typeof ENDINGS;

/** A process that someone has to end. */
export interface Charge {
  process: Process;
  kind: Kind;
}

/** Ends a process as its kind wants it. Nothing to do where it has ended already. */
export function end({ process: it, kind }: Charge): Promise<void> {
  const { signal, graceMs } = ENDINGS[kind];
  return stopProcess(it, signal, graceMs);
}

/** Ends all, stage after stage, those of one stage together. */
export async function endAll(charges: readonly Charge[]): Promise<void> {
  const stages = new Set(Object.values(ENDINGS).map(({ stage }) => stage));
  for (const stage of [...stages].sort((a, b) => b - a)) {
    await Promise.all(charges.filter(({ kind }) => ENDINGS[kind].stage === stage).map(end));
  }
}

/**
 * Ends all at once, without waiting for their last words. Postgres recovers by itself at the next
 * start.
 */
export async function killAll(charges: readonly Charge[]): Promise<void> {
  await Promise.all(
    charges.map(({ process: it, kind }) =>
      // Postgres' immediate shutdown ends its own children as well, which a SIGKILL would not
      kind === "postgres" ? stopProcess(it, "SIGQUIT", SECOND) : stopProcess(it, "SIGKILL", SECOND),
    ),
  );
}
