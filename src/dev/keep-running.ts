import { elapsed, MINUTE, pause, SECOND } from "../base/time.js";
import type { Service } from "./processes.js";
import type { Say } from "./progress.js";

interface Options<S extends Service> {
  name: string;
  first: S;
  startAgain: () => Promise<S>;
  say: Say;
  /** Aborted when the end is wanted. */
  stopping: AbortSignal;
}

const FIRST_PAUSE = SECOND / 2;
const LONGEST_PAUSE = 30 * SECOND;

/**
 * Starts again what ends without being asked to, after pauses that double up to 30 s; a minute of
 * good running begins anew. Returns when the end is wanted.
 */
export async function keepRunning<S extends Service>(options: Options<S>): Promise<void> {
  const { name, say, stopping } = options;
  let running: S | undefined = options.first;
  let wait = FIRST_PAUSE;
  while (!stopping.aborted) {
    const since = elapsed();
    const how: string = running ? await running.ended : "did not start";
    if (stopping.aborted) return;
    if (elapsed() - since > MINUTE) wait = FIRST_PAUSE;
    say(`${name} ${how}; it is started again in ${wait / SECOND} s`);
    await pause(wait, stopping);
    wait = Math.min(wait * 2, LONGEST_PAUSE);
    running = stopping.aborted ? undefined : await tryToStart(options);
  }
}

async function tryToStart<S extends Service>({ name, startAgain, say, stopping }: Options<S>) {
  try {
    const again = await startAgain();
    say(`${name} runs again`);
    return again;
  } catch (error) {
    if (!stopping.aborted) say(`${name}: ${error instanceof Error ? error.message : error}`);
    return undefined;
  }
}
