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
  const all = createRoster();

  const extend = async (watched: Watched) => {
    watched.extending = true;
    const { running } = watched;
    const { account, id } = running;
    try {
      const checkpoint = running.checkpoint();
      await holds.extend({ account, id, seconds: HOLD_SECONDS, checkpoint });
    } catch (error) {
      const ended = error instanceof Refusal && error.reason === "hold_ended";
      if (ended && watched.place >= 0) running.lost();
      else if (watched.place >= 0) log.warn({ err: error, hold: id }, "hold not extended");
    } finally {
      watched.extending = false;
    }
  };
  const timer = setInterval(() => {
    for (const watched of all.list()) {
      if (elapsed() - watched.since >= LONGEST_REQUEST) watched.running.overdue();
      // One that still waits for the database is not asked twice
      if (!watched.extending) void extend(watched);
    }
  }, EXTEND_EVERY);
  timer.unref();

  return {
    watch: (running) => all.enter(running),
    close: () => clearInterval(timer),
  };
}

interface Watched {
  running: Running;
  since: number;
  extending: boolean;
  /** Where it stands in the list; -1 once it has left. */
  place: number;
}

/**
 * Who comes and goes by the thousand each second: a list whose gaps the last one fills. A Set would
 * make itself anew every few hundred changes.
 */
function createRoster() {
  const all: Watched[] = [];
  return {
    enter(running: Running): () => void {
      const watched = { running, since: elapsed(), extending: false, place: all.length };
      all.push(watched);
      return () => {
        if (watched.place < 0) return;
        const last = all.pop() ?? watched;
        if (last !== watched) all[watched.place] = last;
        last.place = watched.place;
        watched.place = -1;
      };
    },
    /** As it is now: others may leave while it is gone through. */
    list: () => [...all],
  };
}
