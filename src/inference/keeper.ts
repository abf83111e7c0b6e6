import { Refusal } from "../base/errors.js";
import type { Id } from "../base/ids.js";
import type { Log } from "../base/log.js";
import { elapsed, HOUR, SECOND } from "../base/time.js";
import type { Extension, Holds } from "../holds/holds.js";

/**
 * Seconds until the hold of a running request may be swept: long enough to miss three extensions.
 */
export const HOLD_SECONDS = 120;
const EXTEND_EVERY = 30 * SECOND;
/** How long a request may run: an upstream that never ends its answer is cut then. */
export const LONGEST_REQUEST = HOUR;

/** A request that runs, and whose hold must live as long. */
export interface Running {
  account: Id;
  id: Id;
  /** What it has produced so far; null where that is not known before its end. */
  checkpoint(): Extension["checkpoint"];
  /** Called when the hold has ended behind our back: nothing more may be spent on it. */
  lost(): void;
  /** Called when it has run for longer than any request may. */
  overdue(): void;
}

/**
 * Keeps the holds of all running requests alive, and tells those that run for too long, by one
 * timer for all of them.
 */
export interface Keeper {
  /** @returns what to call when the request has ended */
  watch(running: Running): () => void;
  close(): void;
}

export function createKeeper(holds: Holds, log: Log): Keeper {
  const all = new Map<Running, number>();
  const extending = new Set<Running>();

  const extend = async (running: Running) => {
    extending.add(running);
    const { account, id } = running;
    try {
      const checkpoint = running.checkpoint();
      await holds.extend({ account, id, seconds: HOLD_SECONDS, checkpoint });
    } catch (error) {
      const ended = error instanceof Refusal && error.reason === "hold_ended";
      if (ended && all.has(running)) running.lost();
      else if (all.has(running)) log.warn({ err: error, hold: id }, "hold not extended");
    } finally {
      extending.delete(running);
    }
  };
  const timer = setInterval(() => {
    for (const [running, since] of all) {
      if (elapsed() - since >= LONGEST_REQUEST) running.overdue();
      // One that still waits for the database is not asked twice
      if (!extending.has(running)) void extend(running);
    }
  }, EXTEND_EVERY);
  timer.unref();

  return {
    watch(running) {
      all.set(running, elapsed());
      return () => void all.delete(running);
    },
    close: () => clearInterval(timer),
  };
}
